//! What crosses from the daemon to a pod's monitor, and what the monitor leaves behind.
//!
//! A [`LaunchPlan`] says how one process is born: the namespaces made for it, its cgroup, its standard streams, and a list of
//! [`Op`]s that the newborn carries out in order before it becomes the program. [`wire`] carries plans and answers over one
//! `SOCK_SEQPACKET` socket a pod; [`ExitRecord`] is the file that tells how a process ended.
//!
//! Everything here is data. Nothing here knows the CRI, makes a system call on behalf of a container, or decides anything.

mod bytes;
mod exit;
mod id;
mod launch;
mod limits;
mod memfd;
mod op;
pub mod wire;

pub use bytes::ByteString;
pub use exit::{EXIT_RECORD_VERSION, ExitRecord};
pub use id::{ContainerId, InvalidId, SandboxId};
pub use launch::{
    CgroupEntry, IdRange, LaunchPlan, LogTarget, NewNamespaces, PidNamespace, ProcessRef, Stdio, UserMappings, UserNamespace,
};
pub use limits::{LimitKind, ProcessLimit};
pub use memfd::sealed_memfd;
pub use op::{
    BindPropagation, BindSource, CapabilitySets, DeviceNode, FileSystem, ImageLayers, MountAttributes, NodeKind, Op, OpenedDevice, Overlay,
    Program, SecurityModule, Slot, TargetKind,
};
