//! System calls that neither rustix nor nix wraps, and all of podbox's unsafe code but the pause program's.
//!
//! Every function here is safe to call: what the kernel asks of memory and descriptors is kept by the types of the arguments, and
//! what it asks of the process is checked. Nothing here knows pods, plans or cgroups.

mod bpf;
mod child;
mod clone;
mod descriptors;
mod error;
mod exec;
mod keyring;
mod memory;
mod mount;
mod seccomp;
mod signal;
mod user_namespace;

pub use bpf::{BpfInstruction, attach_device_filter, load_device_filter};
pub use child::ended_child;
pub use clone::{CloneArguments, CloneFlags, Cloned, clone3};
pub use descriptors::{close_from, close_on_exec_from};
pub use error::SysError;
pub use exec::exec_is_over;
pub use keyring::new_session_keyring;
pub use memory::return_freed_memory;
pub use mount::{MountChange, Propagation, map_ids, mount_setattr};
pub use seccomp::{FilterFlags, FilterInstruction, load_filter};
pub use signal::{ignore_signal, reset_signals, send_signal, send_signal_to_group};
pub use user_namespace::{IdMap, new_user_namespace};
