//! `socketcall` and `ipc` of 32-bit x86: calls that stand for others, whose arguments are behind a pointer or in other places.
//!
//! libseccomp adds to each rule for one of those others one for the multiplexer: the first argument must name the call, and conditions
//! on the arguments behind the first are compared with what the multiplexer has there. A condition on the first argument is dropped.
//! So whoever makes the call that way evades the conditions, and `ipc` evades even rules without: the kernel looks at the lower half of
//! its first argument, libseccomp at all of it. Therefore in front of its program:
//!
//! - a call with conditions of which something is refused is `ENOSYS` that way, so that a C library makes it directly;
//! - a call of `ipc` that is refused, is refused whatever the upper half holds.
//!
//! A profile's own rule without conditions for the multiplexer holds instead.

use super::prologue::Multiplexer;
use super::{Action, Profile, SyscallRules};
use std::collections::BTreeMap;

const ENOSYS: Action = Action::Errno(38);

/// Number, what the kernel looks at of the first argument, and what it says there for which call (`linux/net.h`, `linux/ipc.h`).
struct Table {
    name: &'static str,
    number: u32,
    mask: u32,
    calls: &'static [(&'static str, u32)],
}

const TABLES: [Table; 2] = [
    Table {
        name: "socketcall",
        number: 102,
        mask: u32::MAX,
        calls: &[
            ("socket", 1),
            ("bind", 2),
            ("connect", 3),
            ("listen", 4),
            ("accept", 5),
            ("getsockname", 6),
            ("getpeername", 7),
            ("socketpair", 8),
            ("send", 9),
            ("recv", 10),
            ("sendto", 11),
            ("recvfrom", 12),
            ("shutdown", 13),
            ("setsockopt", 14),
            ("getsockopt", 15),
            ("sendmsg", 16),
            ("recvmsg", 17),
            ("accept4", 18),
            ("recvmmsg", 19),
            ("sendmmsg", 20),
        ],
    },
    Table {
        name: "ipc",
        number: 117,
        mask: 0xffff,
        calls: &[
            ("semop", 1),
            ("semget", 2),
            ("semctl", 3),
            ("semtimedop", 4),
            ("msgsnd", 11),
            ("msgrcv", 12),
            ("msgget", 13),
            ("msgctl", 14),
            ("shmat", 21),
            ("shmdt", 22),
            ("shmget", 23),
            ("shmctl", 24),
        ],
    },
];

/// What is to stand in front of libseccomp's program for 32-bit x86.
pub(crate) fn multiplexers(profile: &Profile, rules: &BTreeMap<String, SyscallRules>) -> Vec<Multiplexer> {
    let of_table = |table: &Table| {
        if matches!(rules.get(table.name), Some(SyscallRules::Always(_))) {
            return None;
        }
        let decided = |name: &str| decided(profile.default_action, rules.get(name)?);
        let calls: Vec<_> = table.calls.iter().filter_map(|(name, number)| Some((*number, decided(name)?))).collect();
        (!calls.is_empty()).then_some(Multiplexer { number: table.number, mask: table.mask, calls })
    };
    TABLES.iter().filter_map(of_table).collect()
}

/// What becomes of a call that is made by a multiplexer, where libseccomp's program is not to decide.
fn decided(default: Action, rules: &SyscallRules) -> Option<Action> {
    // A tracer may refuse.
    let is_made = |action: Action| action >= Action::Log;
    match rules {
        SyscallRules::Always(action) => (!is_made(*action)).then_some(*action),
        SyscallRules::Where(lists) => {
            let has_effect = lists.iter().any(|(action, _)| *action != default);
            let is_in_doubt = lists.iter().map(|(action, _)| *action).chain([default]).any(|action| !is_made(action));
            (has_effect && is_in_doubt).then_some(ENOSYS)
        }
    }
}
