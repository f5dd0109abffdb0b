//! Limits of the process (`setrlimit(2)`).

use super::error::OpError;
use podbox_plan::ProcessLimit;
use rustix::process::{Rlimit, setrlimit};

/// Sets each of them.
pub fn set(limits: &[ProcessLimit]) -> Result<(), OpError> {
    for ProcessLimit { kind, soft, hard } in limits {
        let part = |errno| OpError::Part { part: format!("{kind:?}"), errno };
        setrlimit(kind.resource(), Rlimit { current: *soft, maximum: *hard }).map_err(part)?;
    }
    Ok(())
}
