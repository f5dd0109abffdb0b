//! What can go wrong, named for the operation that failed.

use crate::{CgroupPath, Controller, HugepageSize, SettingName};
use std::io;
use std::path::PathBuf;

/// A cgroup operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mount table cannot be read.
    #[error("read the mount table {}", file.display())]
    ReadMountTable {
        /// `/proc/self/mountinfo`
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither cgroup v2 nor a v1 controller that podbox uses is mounted.
    #[error("no cgroup hierarchy is mounted on this host")]
    NoHierarchy,
    /// A cgroup's directory cannot be made.
    #[error("make the cgroup {}", directory.display())]
    Make {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A control file has the name of the cgroup.
    #[error("{} is a control file and cannot be a cgroup", path.display())]
    NameTaken {
        /// The file.
        path: PathBuf,
    },
    /// A cgroup's directory cannot be removed; `EBUSY` after the bounded retries means that a process is still in it.
    #[error("remove the cgroup {}", directory.display())]
    Remove {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Controllers cannot be given to a v2 cgroup's children. A cgroup that holds processes itself cannot (`EBUSY`).
    #[error("enable {controllers} for the children of {}{}", cgroup.display(), busy_hint(source))]
    EnableControllers {
        /// The cgroup's directory.
        cgroup: PathBuf,
        /// As written to `cgroup.subtree_control`.
        controllers: String,
        /// Why.
        source: io::Error,
    },
    /// A control file cannot be read.
    #[error("read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A control file does not take a value.
    #[error("write `{value}` to {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What was written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A control file does not hold what its documentation says.
    #[error("{} holds `{content}`", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What it held.
        content: String,
    },
    /// A limit needs a controller that this host does not have, or that the cgroup's ancestors do not give it.
    #[error("limit {cgroup}: this host has no {controller} controller for it")]
    NoController {
        /// The cgroup.
        cgroup: CgroupPath,
        /// What is missing.
        controller: Controller,
    },
    /// A swap limit on a host that does not account swap to cgroups.
    #[error("limit the swap of {cgroup}: this host does not account swap to cgroups")]
    NoSwapAccounting {
        /// The cgroup.
        cgroup: CgroupPath,
    },
    /// The limit of memory and swap together is below that of memory, or memory is not limited while the sum is.
    #[error("limit {cgroup}: memory and swap together ({memory_and_swap}) are less than memory ({memory})")]
    SwapBelowMemory {
        /// The cgroup.
        cgroup: CgroupPath,
        /// Bytes, or `max`.
        memory: String,
        /// Bytes.
        memory_and_swap: u64,
    },
    /// A memory limit below what the cgroup's processes use.
    #[error("limit the memory of {cgroup} to {limit_bytes} bytes: it uses {usage_bytes}")]
    BelowUsage {
        /// The cgroup.
        cgroup: CgroupPath,
        /// As asked for.
        limit_bytes: u64,
        /// Page cache included.
        usage_bytes: u64,
    },
    /// A raw limit of memory that is neither a plain number nor `max`.
    #[error("set {name} (unified) of {cgroup} to {value:?}: a number of bytes in digits or max is due")]
    NotBytes {
        /// The cgroup.
        cgroup: CgroupPath,
        /// The setting.
        name: &'static str,
        /// As asked for.
        value: String,
    },
    /// A raised memory limit is to be taken back, and what was in use below it by then is more than the former limit.
    #[error("leave {} as it is and not at {former_bytes} again: {usage_bytes} bytes are in use by now", file.display())]
    LimitStays {
        /// The limit's file.
        file: PathBuf,
        /// What it held before.
        former_bytes: u64,
        /// Page cache included.
        usage_bytes: u64,
    },
    /// A limit for huge pages of a size that this host does not have.
    #[error("limit the huge pages of {cgroup}: this host has none of {size}")]
    NoHugepages {
        /// The cgroup.
        cgroup: CgroupPath,
        /// The pages' size.
        size: HugepageSize,
    },
    /// A raw setting of a controller that is on v1 on this host.
    #[error("set {name} (unified) of {cgroup}: its controller is on cgroup v1 on this host")]
    SettingNeedsV2 {
        /// The cgroup.
        cgroup: CgroupPath,
        /// The setting.
        name: SettingName,
    },
    /// A raw setting that this host's kernel does not have, or whose controller it does not have.
    #[error("set {name} (unified) of {cgroup}: this host has no such setting")]
    UnknownSetting {
        /// The cgroup.
        cgroup: CgroupPath,
        /// The setting.
        name: SettingName,
    },
    /// A raw setting for a device that is not there.
    #[error("set {name} (unified) of {cgroup} to `{value}`: there is no such device")]
    NoDevice {
        /// The cgroup.
        cgroup: CgroupPath,
        /// The setting.
        name: SettingName,
        /// What was to be written.
        value: String,
    },
    /// An update was refused, and what it had changed before cannot be changed back.
    #[error("a refused update of limits is left half done ({left})")]
    PutBack {
        /// Why the update was refused.
        #[source]
        refusal: Box<Error>,
        /// What could not be put back, and why.
        left: String,
    },
    /// More devices than a filter can be made for.
    #[error("allow {count} kinds of devices in {cgroup}: at most {max} can be told apart")]
    TooManyDevices {
        /// The cgroup.
        cgroup: CgroupPath,
        /// How many there were.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// The kernel does not take the program that decides on devices; without it a container could use every device of the host.
    #[error("{} the device filter of {}", step, directory.display())]
    DeviceFilter {
        /// "load" or "attach".
        step: &'static str,
        /// The cgroup's directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A process cannot be signalled.
    #[error("kill process {pid} of the cgroup {}", directory.display())]
    Kill {
        /// The cgroup's directory.
        directory: PathBuf,
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// A signal other than a kill cannot be sent.
    #[error("send signal {signal} to process {pid} of the cgroup {cgroup}")]
    Signal {
        /// The cgroup.
        cgroup: CgroupPath,
        /// The process.
        pid: i32,
        /// Its number.
        signal: i32,
        /// Why.
        source: io::Error,
    },
    /// Processes are born faster than they can be killed one by one, and freezing them did not help.
    #[error("kill the cgroup {}: new processes appeared in each of {rounds} rounds", directory.display())]
    OutpacedKill {
        /// The cgroup's directory.
        directory: PathBuf,
        /// How often all were killed.
        rounds: u32,
    },
    /// The wait for an empty cgroup failed.
    #[error("wait for {} to change", file.display())]
    Wait {
        /// The cgroup's `cgroup.events`.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn busy_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ResourceBusy => " (it holds processes itself)",
        _ => "",
    }
}
