//! v2: one directory, whose ancestors give it its controllers.

mod controllers;
mod events;
mod limits;

use crate::hierarchies::UnifiedHierarchy;
use crate::{CgroupPath, Error, Made};

pub(crate) use controllers::has as has_controller;
pub(crate) use events::wait_unpopulated;
pub(crate) use limits::{
    MEMORY_LIMIT, MEMORY_LIMITS, SWAP_LIMIT, check_before_put_back, set_cpu, set_memory, set_memory_limit, shares_of_weight,
    weight_of_shares,
};

/// Counts the processes of this cgroup and of those below it that were killed for memory.
pub(crate) const OOM_COUNTER: &str = "memory.events";

/// Makes the cgroup and gives it the controllers. Both while it is empty: then no fork on this host waits for either.
pub(crate) fn make(hierarchy: &UnifiedHierarchy, path: &CgroupPath, made: &mut Made) -> Result<(), Error> {
    let directory = path.below(&hierarchy.mount_point);
    made.make(&hierarchy.mount_point, &directory)?;
    match directory.parent() {
        Some(parent) if !hierarchy.controllers.is_empty() => {
            controllers::give_to_children(&hierarchy.mount_point, parent, &hierarchy.controllers)
        }
        _ => Ok(()),
    }
}
