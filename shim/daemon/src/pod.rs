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
//! comes back to it, so that a hung volume in one container's start delays neither its neighbours nor its own removal.
//! What was asked for twice is done once: a retry joins the making that is under way.
//!
//! Nothing here knows tonic or the CRI's messages.

mod admission;
mod container;
mod driver;
mod ending;
mod error;
mod make;
mod pods;
mod recover;
mod teardown;
mod update;

pub use error::PodError;
pub use pods::Pods;
