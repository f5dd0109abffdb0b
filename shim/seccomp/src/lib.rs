//! Seccomp profiles in the OCI form (runtime-spec, `config-linux.md`, "Seccomp"), and the filters that the kernel takes
//! (`seccomp(2)`).
//!
//! ```text
//! bytes ── Profile::parse ──► Profile ── compile ──► Filter: instructions of classic BPF
//!                                          ▲
//!                     Surroundings: capabilities, kernel
//! ```
//!
//! libseccomp compiles, in the daemon and nowhere else; what it cannot express stands in front of its program ([`compile()`] says
//! what). [`Filters`] keeps what was compiled. A profile that cannot be kept to the letter is refused; the one exception are names of
//! system calls that nobody here knows, which are reported: profiles are written for many machines.
//!
//! Does not know: containers, requests, or where a profile comes from.

mod action;
mod compile;
mod filters;
mod instruction;
mod multiplexed;
mod profile;
mod prologue;
mod resolved;
mod rules;
mod syscalls;

pub use action::Action;
pub use compile::{CompileError, Filter, INSTRUCTIONS_MAX, compile};
pub use filters::{Compiled, FilterError, Filters};
pub use instruction::Instruction;
pub use profile::{
    Architecture, Comparison, Condition, Flags, Guard, NAMES_MAX, PROFILE_BYTES_MAX, Profile, ProfileError, Rule, runtime_default,
};
pub use resolved::resolved_json;
pub use rules::{Surroundings, SyscallRules, rules_in};
