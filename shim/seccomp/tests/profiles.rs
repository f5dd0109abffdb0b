//! Profiles as people write them: what is refused, and that filters are what profiles say.

mod machine;

use machine::{Call, run};
use podbox_seccomp::{
    Action, CompileError, Filter, FilterError, Filters, NAMES_MAX, PROFILE_BYTES_MAX, Profile, ProfileError, Surroundings, SyscallRules,
    compile, rules_in,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn surroundings() -> Surroundings {
    Surroundings { capabilities: BTreeSet::new(), kernel: (6, 1) }
}

fn parse(text: &str) -> Result<Profile, ProfileError> {
    Profile::parse(text.as_bytes())
}

fn compiled(text: &str) -> Filter {
    compile(&parse(text).expect("parses"), &surroundings()).expect("compiles")
}

#[test]
fn what_cannot_be_kept_is_refused_and_named() {
    let rule = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#);
    let cases = [
        (String::new(), "no seccomp profile"),
        ("[]".to_owned(), "no seccomp profile"),
        ("{}".to_owned(), "no seccomp profile"),
        ("\u{feff}{}".to_owned(), "no seccomp profile"),
        (format!("{{\"defaultAction\": {}1", "[".repeat(100_000)), "no seccomp profile"),
        (r#"{"defaultAction": "SCMP_ACT_FLY"}"#.to_owned(), "SCMP_ACT_FLY"),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.to_owned(), "SCMP_ACT_NOTIFY"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent.sock"}"#.to_owned(), "listener"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#.to_owned(), "no error number"),
        (r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}"#.to_owned(), "4096"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}"#.to_owned(), "SCMP_ARCH_Z80"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}"#.to_owned(), "NEW_LISTENER"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#.to_owned(), "KILLABLE"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscall": []}"#.to_owned(), "unknown field `syscall`"),
        (rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_LOG", "arg": []}"#), "unknown field `arg`"),
        (
            rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_LOG", "includes": {"capabilities": ["CAP_CHOWN"]}}"#),
            "unknown field `capabilities`",
        ),
        (
            rule(r#"{"names": ["a"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 0, "value2": 1, "op": "SCMP_CMP_EQ"}]}"#),
            "unknown field `value2`",
        ),
        (r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS"}"#.to_owned(), "ENOSYS"),
        (rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errno": "EACCES"}"#), "EACCES"),
        (rule(r#"{"action": "SCMP_ACT_ALLOW"}"#), "names no system call"),
        (rule(r#"{"names": [], "action": "SCMP_ACT_ALLOW"}"#), "names no system call"),
        (rule(r#"{"names": ["mk dir"], "action": "SCMP_ACT_LOG"}"#), "mk dir"),
        (rule(&format!(r#"{{"names": ["{}"], "action": "SCMP_ACT_LOG"}}"#, "x".repeat(64))), "xxx"),
        (rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#), "argument 6"),
        (rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP"}]}"#), "SCMP_CMP"),
        (rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]}"#), "no seccomp"),
        (rule(r#"{"names": ["mkdir"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "six"}}"#), "six"),
        (rule(&format!(r#"{{"names": [{}"a"], "action": "SCMP_ACT_LOG"}}"#, r#""a","#.repeat(NAMES_MAX))), "8193 names"),
        (format!("{}{{}}", " ".repeat(PROFILE_BYTES_MAX)), "1048578 bytes"),
    ];
    for (text, want) in cases {
        let shown: String = text.chars().take(200).collect();
        let error = parse(&text).expect_err(&shown);
        let chain = std::error::Error::source(&error).map(|source| format!("{error}: {source}")).unwrap_or_else(|| error.to_string());
        assert!(chain.contains(want), "{shown}: {chain}");
    }
}

/// All keys that others write.
#[test]
fn profiles_of_other_engines_are_read() {
    let text = r#"{
        "comment": "of all", "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS", "flags": [],
        "listenerPath": "", "listenerMetadata": "", "architectures": null,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        "syscalls": [{
            "names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "errno": "EPERM", "comment": "", "includes": {},
            "excludes": {"caps": [], "arches": [], "minKernel": "4.8"},
            "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]
        }]
    }"#;
    assert_eq!(parse(text).expect("parses").rules.len(), 1);
}

/// libseccomp would drop the conditions without a word.
#[test]
fn a_refusal_that_would_be_dropped_is_an_error() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["socket"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]}]}"#;
    let error = Filters::default().of_profile(text.as_bytes(), surroundings()).expect_err("contradicts itself");
    assert!(matches!(&error, FilterError::Compile(CompileError::Contradiction { syscall }) if syscall == "socket"), "{error}");
}

#[test]
fn names_that_nobody_knows_are_told_and_do_no_harm() {
    let filter = compiled(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read", "fly_to_moon", "mount"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(filter.unknown, ["fly_to_moon"]);
}

#[test]
fn a_profile_that_makes_too_long_a_filter_is_refused() {
    let equal = |index, value| format!(r#"{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
    let rule = |value: u64| {
        format!(r#"{{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{}, {}]}}"#, equal(1, value * 7), equal(2, value << 32))
    };
    let rules: Vec<String> = (0..2000).map(rule).collect();
    let text = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, rules.join(","));
    let error = compile(&parse(&text).expect("parses"), &surroundings()).map(drop).expect_err("too long");
    assert!(matches!(error, CompileError::TooLong { .. }), "{error}");
}

fn on(architecture: u32, filter: &Filter, number: u32, arguments: [u64; 6]) -> u32 {
    run(&filter.instructions, &Call { number, architecture, arguments })
}

/// The kernel runs it by this number on each of them.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_rule_for_a_call_that_is_younger_than_the_library_holds_on_every_architecture() {
    use machine::{ALLOW, I386, X86_64, errno};
    const X32: u32 = 0x4000_0000;
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["mseal", "uretprobe"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}"#;
    let filter = compiled(text);
    for (architecture, number) in [(X86_64, 462), (X86_64, X32 | 462), (I386, 462), (X86_64, 335), (X86_64, X32 | 335)] {
        assert_eq!(on(architecture, &filter, number, [0; 6]), errno(77), "{architecture:x} {number:x}");
    }
    // Another call's number there.
    assert_eq!(on(I386, &filter, 335, [0; 6]), ALLOW);
    let allowing = text.replace("ALLOW", "TRAP").replace("ERRNO", "ALLOW").replace(r#", "errnoRet": 77"#, "");
    let filter = compiled(&allowing);
    for (architecture, number) in [(X86_64, 462), (X86_64, X32 | 462), (I386, 462)] {
        assert_eq!(on(architecture, &filter, number, [0; 6]), ALLOW, "{architecture:x} {number:x}");
    }
    // Younger than all; and x32's own calls, of which the last is pwritev2.
    for (number, want) in [(470, errno(38)), (X32 | 470, errno(38)), (X32 | 511, errno(38)), (X32 | 547, 0x0003_0000)] {
        assert_eq!(on(X86_64, &filter, number, [0; 6]), want, "{number:x}");
    }
}

/// What stands for others hides the arguments of those: a rule with conditions does not hold for it, so that nobody may go that way.
#[cfg(target_arch = "x86_64")]
#[test]
fn conditions_cannot_be_evaded_by_the_multiplexers_of_32_bit_x86() {
    use machine::{ALLOW, I386, errno};
    const SOCKETCALL: u32 = 102;
    const IPC: u32 = 117;
    let profile = |default: &str, action: &str, rest: &str| {
        format!(
            r#"{{"defaultAction": "{default}", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
                {{"names": ["read", "bind", "semop"], "action": "SCMP_ACT_ALLOW"}}{rest},
                {{"names": ["setsockopt", "socket", "shmget"], "action": "{action}", "args": [{{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}}]}}]}}"#
        )
    };
    for (default, action) in [("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"), ("SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS")] {
        let filter = compiled(&profile(default, action, ""));
        // The second argument is a pointer, or another call's.
        for second in [0, 9] {
            for (multiplexer, call) in [(SOCKETCALL, 1), (SOCKETCALL, 14), (IPC, 23), (IPC, 1 << 16 | 23)] {
                let decided = on(I386, &filter, multiplexer, [call, second, 0, 0, 0, 0]);
                assert_eq!(decided, errno(38), "{default} {multiplexer} {call}");
            }
            // Others go on.
            for (multiplexer, call) in [(SOCKETCALL, 2), (IPC, 1)] {
                assert_eq!(on(I386, &filter, multiplexer, [call, second, 0, 0, 0, 0]), ALLOW, "{default} {multiplexer} {call}");
            }
        }
        // The direct calls are decided by their arguments.
        let decided: Vec<u32> = [359, 366, 395].into_iter().map(|number| on(I386, &filter, number, [0, 9, 0, 0, 0, 0])).collect();
        assert_eq!(decided, [if action == "SCMP_ACT_ALLOW" { ALLOW } else { machine::KILL_PROCESS }; 3]);
    }
    // Who names the multiplexer means it.
    let named = r#", {"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"}"#;
    let filter = compiled(&profile("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", named));
    assert_eq!(on(I386, &filter, SOCKETCALL, [14, 0, 0, 0, 0, 0]), ALLOW);
    // The kernel looks at the lower half of the first argument.
    let refused = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["shmget", "bind"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let filter = compiled(refused);
    for (multiplexer, call, want) in
        [(IPC, 23, errno(1)), (IPC, 1 << 16 | 23, errno(1)), (IPC, 24, ALLOW), (SOCKETCALL, 2, errno(1)), (SOCKETCALL, 3, ALLOW)]
    {
        assert_eq!(on(I386, &filter, multiplexer, [call, 0, 0, 0, 0, 0]), want, "{multiplexer} {call}");
    }
}

/// Calls and their native numbers; the last is younger than libseccomp.
const CALLS: [(&str, u32); 7] = if cfg!(target_arch = "x86_64") {
    [("read", 0), ("mkdir", 83), ("socket", 41), ("clone", 56), ("ioctl", 16), ("personality", 135), ("mseal", 462)]
} else {
    [("read", 63), ("mkdirat", 34), ("socket", 198), ("clone", 220), ("ioctl", 29), ("personality", 92), ("mseal", 462)]
};
const ACTIONS: [&str; 6] =
    ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP", "SCMP_ACT_LOG"];
const COMPARISONS: [&str; 7] =
    ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];

/// Numbers around which comparisons differ, in both halves of a register.
fn number() -> impl Strategy<Value = u64> {
    let half = || prop_oneof![Just(0_u64), Just(1), Just(38), Just(0x7e02_0000), Just(0x8000_0000), Just(0xffff_ffff)];
    (prop_oneof![3 => Just(0_u64), 1 => half()], half()).prop_map(|(high, low)| high << 32 | low)
}

/// A call's one rule: an action and conditions on different arguments. Rules that overlap have no order in libseccomp, so that each call
/// has one.
fn rule(call: usize) -> impl Strategy<Value = String> {
    let condition = (0..COMPARISONS.len(), number(), number());
    (0..ACTIONS.len(), proptest::collection::btree_map(0..3_u8, condition, 0..3)).prop_map(move |(action, conditions)| {
        // A young call has no conditions.
        let conditions = if call == CALLS.len() - 1 { Default::default() } else { conditions };
        let conditions: Vec<String> = conditions
            .into_iter()
            .map(|(index, (comparison, value, two))| {
                format!(r#"{{"index": {index}, "value": {value}, "valueTwo": {two}, "op": "{}"}}"#, COMPARISONS[comparison])
            })
            .collect();
        format!(r#"{{"names": ["{}"], "action": "{}", "args": [{}]}}"#, CALLS[call].0, ACTIONS[action], conditions.join(","))
    })
}

fn profile() -> impl Strategy<Value = String> {
    let calls = proptest::sample::subsequence((0..CALLS.len()).collect::<Vec<_>>(), 0..CALLS.len());
    (0..ACTIONS.len(), calls.prop_flat_map(|calls| calls.into_iter().map(rule).collect::<Vec<_>>()))
        .prop_map(|(default, rules)| format!(r#"{{"defaultAction": "{}", "syscalls": [{}]}}"#, ACTIONS[default], rules.join(",")))
}

/// What a profile says of a call, read slowly.
fn said(profile: &Profile, name: &str, arguments: &[u64; 6]) -> Action {
    let rules = rules_in(profile, &surroundings()).expect("no contradiction");
    match rules.get(name) {
        None => profile.default_action,
        Some(SyscallRules::Always(action)) => *action,
        Some(SyscallRules::Where(lists)) => {
            let holds = |conditions: &[podbox_seccomp::Condition]| {
                conditions.iter().all(|condition| condition.holds(arguments[usize::from(condition.argument)]))
            };
            lists.iter().find(|(_, list)| holds(list)).map_or(profile.default_action, |(action, _)| *action)
        }
    }
}

const NATIVE: u32 = if cfg!(target_arch = "x86_64") { machine::X86_64 } else { 0xc000_00b7 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_filter_decides_as_its_profile_says(text in profile(), calls in proptest::collection::vec((0..CALLS.len(), [number(), number(), number()]), 64)) {
        let profile = parse(&text).expect("parses");
        let filter = compile(&profile, &surroundings()).expect("compiles");
        for (call, [a, b, c]) in calls {
            let (name, number) = CALLS[call];
            let arguments = [a, b, c, 0, 0, 0];
            let decided = run(&filter.instructions, &Call { number, architecture: NATIVE, arguments });
            prop_assert_eq!(decided, said(&profile, name, &arguments).value(), "{}: {} {:x?}", text, name, arguments);
        }
    }

    #[test]
    fn any_bytes_are_a_profile_or_are_not(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Profile::parse(&bytes);
    }

    /// A profile of the right form with anything in its places.
    #[test]
    fn a_damaged_profile_is_one_or_is_not(text in profile(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Filters::default().of_profile(&bytes, surroundings());
    }
}
