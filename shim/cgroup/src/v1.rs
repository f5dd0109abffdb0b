//! v1: every controller in a hierarchy of its own.

mod cpuset;
mod devices;
mod limits;

use crate::hierarchies::V1Hierarchy;
use crate::{CgroupPath, Controller, Error, Made};

pub(crate) use devices::restrict_devices;
pub(crate) use limits::{SWAP_LIMIT, set_cpu, set_memory, set_shares};

/// Counts the processes of this cgroup alone that were killed for memory (Linux 4.13).
pub(crate) const OOM_COUNTER: &str = "memory.oom_control";

/// Makes the cgroup in one hierarchy.
pub(crate) fn make(hierarchy: &V1Hierarchy, path: &CgroupPath, made: &mut Made) -> Result<(), Error> {
    let directory = path.below(&hierarchy.mount_point);
    made.make(&hierarchy.mount_point, &directory)?;
    if hierarchy.controllers.contains(&Controller::Cpuset) {
        cpuset::inherit(&hierarchy.mount_point, &directory)?;
    }
    Ok(())
}
