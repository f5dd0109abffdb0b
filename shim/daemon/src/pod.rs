//! Pods: each one's life, and what a daemon makes of those it finds.
//!
//! ```text
//!            Pods ── names, drivers by id
//!             │ command                      ┌─ a task for each thing that takes time
//!  caller ──► Driver (one task a pod) ──────►│  create, launch, stop, remove
//!             ▲   one after the other        └─ comes back as Done
//!             └── ends of processes, before anything else
//! ```
//!
//! A driver owns its pod's records: it alone changes and saves them. It never waits: what takes time is a task whose outcome
//! comes back to it, so that a hung volume in one container's making or start delays neither its neighbours nor the pod's stop and
//! removal; what comes of it too late is undone. What was asked for twice is done once: a retry joins the making that is under way.
//! (The records themselves are written on the driver's task: some megabytes at most, into a folder that is meant to be in memory.)
//!
//! **Save, then show, then tell.** A change goes to disk first, to the readers of snapshots next, and to whoever waits for it last: who was
//! told finds what was told, in lists and after a crash. Only what the kernel did by itself is shown where it cannot be saved.
//!
//! A lost connection to a pod's monitor is restored; only where nobody listens any more is the monitor gone, and its pod with it.
//!
//! Nothing here knows tonic or the CRI's messages.

mod admission;
mod container;
mod driver;
mod ending;
mod error;
mod make;
mod monitor;
mod pods;
mod recover;
mod retry;
mod teardown;
mod update;

pub use error::PodError;
pub use pods::Pods;
