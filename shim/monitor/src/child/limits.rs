//! Limits of the process (`setrlimit(2)`).
//!
//! Raising one takes a right of the host's, so they are set early. A newborn holds a descriptor for each mount that waits to be attached,
//! though, and the soft limit of open files, which anybody may lower, is for its program: it comes when the descriptors are no
//! longer needed.

use super::Newborn;
use super::error::OpError;
use podbox_plan::{LimitKind, ProcessLimit};
use rustix::process::{Rlimit, setrlimit};

impl Newborn<'_> {
    /// Sets each of them, but for the soft limit of open files, which is as high as the hard one.
    pub(super) fn set_limits(&mut self, limits: &[ProcessLimit]) -> Result<(), OpError> {
        for limit in limits {
            if limit.kind == LimitKind::OpenFiles {
                self.open_files = Some(*limit);
                set(ProcessLimit { soft: limit.hard, ..*limit })?;
            } else {
                set(*limit)?;
            }
        }
        Ok(())
    }

    /// Sets the soft limit of open files.
    pub(super) fn limit_open_files(&mut self) -> Result<(), OpError> {
        self.open_files.take().map_or(Ok(()), set)
    }
}

fn set(ProcessLimit { kind, soft, hard }: ProcessLimit) -> Result<(), OpError> {
    let part = |errno| OpError::Part { part: format!("{kind:?}"), errno };
    setrlimit(kind.resource(), Rlimit { current: soft, maximum: hard }).map_err(part)
}
