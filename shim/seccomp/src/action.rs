//! What a filter does with a call (`seccomp(2)`, "return value").

use super::ProfileError;
use libseccomp::ScmpAction;

/// The largest error number that the kernel hands to a caller (`MAX_ERRNO`).
const ERRNO_MAX: u32 = 4095;
const EPERM: u16 = 1;

/// What becomes of a call, or of who makes it. The order is the kernel's: the first of two is the more restrictive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The whole process is killed.
    KillProcess,
    /// The thread is killed.
    KillThread,
    /// `SIGSYS`
    Trap,
    /// The call fails with this error number.
    Errno(u16),
    /// A tracer decides, and is told this number; without one the call fails with `ENOSYS`.
    Trace(u16),
    /// The call is made and logged.
    Log,
    /// The call is made.
    Allow,
}

impl Action {
    /// From its name in a profile and the number beside it.
    pub(crate) fn parse(name: &str, errno: Option<u32>) -> Result<Self, ProfileError> {
        let action = match name {
            "SCMP_ACT_ERRNO" => match errno {
                Some(errno) if errno > ERRNO_MAX => return Err(ProfileError::Errno { errno }),
                errno => return Ok(Self::Errno(errno.map_or(EPERM, |errno| errno as u16))),
            },
            "SCMP_ACT_TRACE" => {
                let message = errno.map_or(Ok(EPERM), u16::try_from);
                return message.map(Self::Trace).map_err(|_| ProfileError::Errno { errno: errno.unwrap_or_default() });
            }
            "SCMP_ACT_KILL_PROCESS" => Self::KillProcess,
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self::KillThread,
            "SCMP_ACT_TRAP" => Self::Trap,
            "SCMP_ACT_LOG" => Self::Log,
            "SCMP_ACT_ALLOW" => Self::Allow,
            "SCMP_ACT_NOTIFY" => return Err(ProfileError::Notify),
            other => return Err(ProfileError::Action { name: other.chars().take(64).collect() }),
        };
        // The OCI runtime spec has a number that means nothing refused.
        if errno.is_some() { Err(ProfileError::NeedlessErrno { name: name.to_owned() }) } else { Ok(action) }
    }

    /// The call is made, as far as the filter is asked.
    #[must_use]
    pub fn lets_through(self) -> bool {
        matches!(self, Self::Trace(_) | Self::Log | Self::Allow)
    }

    /// The value that a filter returns (`linux/seccomp.h`).
    #[must_use]
    pub fn value(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Self::Trace(message) => 0x7ff0_0000 | u32::from(message),
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    pub(crate) fn for_library(self) -> ScmpAction {
        match self {
            Self::KillProcess => ScmpAction::KillProcess,
            Self::KillThread => ScmpAction::KillThread,
            Self::Trap => ScmpAction::Trap,
            Self::Errno(errno) => ScmpAction::Errno(errno.into()),
            Self::Trace(message) => ScmpAction::Trace(message),
            Self::Log => ScmpAction::Log,
            Self::Allow => ScmpAction::Allow,
        }
    }
}
