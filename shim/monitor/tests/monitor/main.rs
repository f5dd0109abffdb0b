//! The monitor's promises: the real program, the real kernel, driven over its socket as the daemon drives it. Needs root and a
//! static busybox at /bin/busybox.

mod support;

mod confinement;
mod exec;
mod exits;
mod logs;
mod namespaces;
mod protocol;
mod roots;
mod security;
mod streams;
mod unborn;
