//! The limits of a container's processes (`getrlimit(2)`): always the same ones, whatever the daemon was started with.

use super::{NodeFacts, PlanError, SpecError};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};
use podbox_plan::{LimitKind, ProcessLimit};

const NO_LIMIT: Option<u64> = None;

/// Every limit there is, soft and hard. They are those that the kernel starts a machine with, but for what a service manager raises
/// for containers: a hard limit of open files of 2^20. What bounds a container is its cgroup; these keep one process from
/// what no cgroup counts. A core file is written by who raises its own limit.
const STANDARD: [(PosixRlimitType, LimitKind, Option<u64>, Option<u64>); 16] = {
    use {LimitKind as Kind, PosixRlimitType as Posix};
    [
        (Posix::RlimitAs, Kind::AddressSpace, NO_LIMIT, NO_LIMIT),
        (Posix::RlimitCore, Kind::Core, Some(0), NO_LIMIT),
        (Posix::RlimitCpu, Kind::CpuTime, NO_LIMIT, NO_LIMIT),
        (Posix::RlimitData, Kind::Data, NO_LIMIT, NO_LIMIT),
        (Posix::RlimitFsize, Kind::FileSize, NO_LIMIT, NO_LIMIT),
        (Posix::RlimitLocks, Kind::Locks, NO_LIMIT, NO_LIMIT),
        (Posix::RlimitMemlock, Kind::LockedMemory, Some(8 << 20), Some(8 << 20)),
        (Posix::RlimitMsgqueue, Kind::MessageQueues, Some(819_200), Some(819_200)),
        (Posix::RlimitNice, Kind::Nice, Some(0), Some(0)),
        (Posix::RlimitNofile, Kind::OpenFiles, Some(1024), Some(1 << 20)),
        (Posix::RlimitNproc, Kind::Processes, NO_LIMIT, NO_LIMIT),
        (Posix::RlimitRss, Kind::ResidentSet, NO_LIMIT, NO_LIMIT),
        (Posix::RlimitRtprio, Kind::RealtimePriority, Some(0), Some(0)),
        (Posix::RlimitRttime, Kind::RealtimeCpu, NO_LIMIT, NO_LIMIT),
        (Posix::RlimitSigpending, Kind::PendingSignals, Some(1 << 16), Some(1 << 16)),
        (Posix::RlimitStack, Kind::Stack, Some(8 << 20), NO_LIMIT),
    ]
};

/// The standard limits, and no more of anything than this node can give.
pub(super) fn standard_limits(node: &NodeFacts) -> Vec<ProcessLimit> {
    let limit = |(_, kind, soft, hard): (PosixRlimitType, LimitKind, Option<u64>, Option<u64>)| {
        let most = node.limits_max.get(&kind).copied().flatten();
        let at_most = |limit: Option<u64>| [limit, most].into_iter().flatten().min();
        ProcessLimit { kind, soft: at_most(soft), hard: at_most(hard) }
    };
    STANDARD.into_iter().map(limit).collect()
}

/// `process.rlimits`: the same. "No limit" is the largest number there (`config.md`, "rlimits").
pub(super) fn spec_limits(node: &NodeFacts) -> Result<Vec<PosixRlimit>, PlanError> {
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let limit = |(limit, (typ, ..)): (ProcessLimit, (PosixRlimitType, LimitKind, Option<u64>, Option<u64>))| {
        let builder = PosixRlimitBuilder::default().typ(typ).soft(number(limit.soft)).hard(number(limit.hard));
        builder.build().map_err(super::spec::missing("process.rlimits"))
    };
    standard_limits(node).into_iter().zip(STANDARD).map(limit).collect()
}

/// What a spec's limits come to.
pub(super) fn process_limits(limits: &[PosixRlimit]) -> Result<Vec<ProcessLimit>, PlanError> {
    let limit = |limit: &PosixRlimit| {
        let known = STANDARD.iter().find(|(typ, ..)| *typ == limit.typ());
        let (_, kind, ..) = known.ok_or(PlanError::Spec(SpecError { part: "process.rlimits" }))?;
        let some = |number: u64| (number != u64::MAX).then_some(number);
        Ok(ProcessLimit { kind: *kind, soft: some(limit.soft()), hard: some(limit.hard()) })
    };
    limits.iter().map(limit).collect()
}
