//! Becoming the container's user with exactly its capabilities (`capabilities(7)`).

use super::error::OpError;
use podbox_plan::CapabilitySets;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::CapabilitySet;

/// Bits in a capability mask; the kernel knows fewer.
const CAPABILITIES_MAX: u32 = 64;

/// Bounding set first, for it takes a capability to drop one; then groups and ids; then the sets, which changing the ids has
/// emptied or would empty.
pub fn become_user(uid: u32, gid: u32, groups: &[u32], sets: &CapabilitySets) -> Result<(), OpError> {
    demand_available(sets)?;
    drop_from_bounding(sets.bounding)?;
    let groups: Vec<Gid> = groups.iter().map(|gid| group_id(*gid)).collect::<Result<_, _>>()?;
    rustix::thread::set_thread_groups(&groups)?;
    let (user, group) = (user_id(uid)?, group_id(gid)?);
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    rustix::thread::set_keep_capabilities(false)?;
    // A change of ids has made of it what `fs.suid_dumpable` says. Processes of this user must not look into it while it holds
    // descriptors that are not the container's.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // The kernel takes into the ambient set only what is inheritable too; nothing else is inheritable.
    let (permitted, ambient) = (CapabilitySet::from_bits_retain(sets.permitted), CapabilitySet::from_bits_retain(sets.ambient));
    let all = rustix::thread::CapabilitySets { effective: permitted, permitted, inheritable: ambient };
    rustix::thread::set_capabilities(None, all)?;
    rustix::thread::clear_ambient_capability_set()?;
    for capability in each(sets.ambient) {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Names the first capability that cannot be given, where the kernel would only say EPERM.
fn demand_available(sets: &CapabilitySets) -> Result<(), OpError> {
    let held = rustix::thread::capabilities(None)?.permitted.bits();
    let missing = (sets.permitted | sets.ambient) & !held;
    if missing == 0 { Ok(()) } else { Err(OpError::NoSuchCapability(missing.trailing_zeros())) }
}

fn drop_from_bounding(kept: u64) -> Result<(), OpError> {
    for capability in each(!kept) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(OpError::Part { part: "the bounding set".to_owned(), errno }),
        }
    }
    Ok(())
}

fn each(mask: u64) -> impl Iterator<Item = CapabilitySet> {
    (0..CAPABILITIES_MAX).map(|number| 1 << number).filter(move |bit| mask & bit != 0).map(CapabilitySet::from_bits_retain)
}

/// The largest number means "unchanged" to the kernel.
fn user_id(uid: u32) -> Result<Uid, OpError> {
    if uid == u32::MAX { Err(OpError::NoId(uid)) } else { Ok(Uid::from_raw(uid)) }
}

fn group_id(gid: u32) -> Result<Gid, OpError> {
    if gid == u32::MAX { Err(OpError::NoId(gid)) } else { Ok(Gid::from_raw(gid)) }
}
