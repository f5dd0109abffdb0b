//! What podbox's own profile lets through, decided by its filter.

#![cfg(target_arch = "x86_64")]

mod machine;

use machine::{ALLOW, Call, I386, KILL_PROCESS, X86_64, errno, run};
use podbox_seccomp::{Filter, Filters, Surroundings, compile, runtime_default};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

fn surroundings(capabilities: &[&str]) -> Surroundings {
    Surroundings { capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(), kernel: (6, 1) }
}

fn filter(capabilities: &[&str]) -> Filter {
    compile(&runtime_default(), &surroundings(capabilities)).expect("compiles")
}

fn decide(filter: &Filter, architecture: u32, number: u32, first: u64) -> u32 {
    run(&filter.instructions, &Call { number, architecture, arguments: [first, 0, 0, 0, 0, 0] })
}

fn native(filter: &Filter, number: u32, first: u64) -> u32 {
    decide(filter, X86_64, number, first)
}

#[test]
fn every_name_of_it_is_known() {
    assert_eq!(filter(&[]).unknown, Vec::<String>::new());
    assert_eq!(filter(&["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]).unknown, Vec::<String>::new());
}

#[test]
fn what_programs_do_all_day_is_let_through() {
    let filter = filter(&[]);
    // read, write, close, mmap, execve, exit_group, openat, futex, getrandom, statx, close_range, fchmodat2, mseal
    for number in [0, 1, 3, 9, 59, 231, 257, 202, 318, 332, 436, 452, 462] {
        assert_eq!(native(&filter, number, 0), ALLOW, "{number}");
    }
}

#[test]
fn the_kernels_back_doors_are_closed() {
    let filter = filter(&["CAP_NET_RAW", "CAP_CHOWN"]);
    // mount, umount2, reboot, init_module, add_key, request_key, keyctl, unshare, perf_event_open, open_by_handle_at, setns, bpf,
    // userfaultfd, io_uring_setup, io_uring_enter, io_uring_register, open_tree, fsopen, chroot, kexec_load, swapon
    for number in [165, 166, 169, 175, 248, 249, 250, 272, 298, 304, 308, 321, 323, 425, 426, 427, 428, 430, 161, 246, 167] {
        assert_eq!(native(&filter, number, 0), errno(EPERM), "{number}");
    }
}

/// The kernel takes the lower half of the register for the family. A comparison of all of it would let `1 << 32 | AF_ALG` through.
#[test]
fn sockets_of_two_families_cannot_be_made_whatever_the_upper_half_of_the_register_holds() {
    let filter = filter(&[]);
    for upper in [0, 1 << 32, 0xffff_ffff << 32] {
        for family in 0..46_u64 {
            let want = if [38, 40].contains(&family) { errno(EPERM) } else { ALLOW };
            // socket and socketpair
            for (number, on_i386) in [(41, 359), (53, 360)] {
                assert_eq!(native(&filter, number, upper | family), want, "{number} {family}");
                assert_eq!(decide(&filter, I386, on_i386, family), want, "{on_i386} {family} on 32-bit x86");
            }
        }
    }
}

#[test]
fn the_multiplexer_of_32_bit_x86_is_absent() {
    let filter = filter(&[]);
    for call in 0..21 {
        assert_eq!(decide(&filter, I386, 102, call), errno(ENOSYS), "{call}");
    }
    // The other calls of it are as on x86_64: getpid, keyctl, io_uring_setup, mount, unshare.
    for (number, want) in [(20, ALLOW), (288, errno(EPERM)), (425, errno(EPERM)), (21, errno(EPERM)), (310, errno(EPERM))] {
        assert_eq!(decide(&filter, I386, number, 0), want, "{number}");
    }
}

#[test]
fn clone_makes_no_namespace_and_clone3_is_absent() {
    let filter = filter(&[]);
    assert_eq!(native(&filter, 56, 0x0001_0f11), ALLOW, "a thread");
    for flag in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000_u64] {
        assert_eq!(native(&filter, 56, flag | 17), errno(EPERM), "{flag:#x}");
        assert_eq!(native(&filter, 56, 1 << 32 | flag), errno(EPERM), "{flag:#x}");
        assert_eq!(decide(&filter, I386, 120, flag), errno(EPERM), "{flag:#x} on 32-bit x86");
    }
    assert_eq!(native(&filter, 435, 0), errno(ENOSYS));
    assert_eq!(decide(&filter, I386, 435, 0), errno(ENOSYS));
}

#[test]
fn calls_that_are_younger_than_the_profile_are_absent() {
    let filter = filter(&[]);
    for number in [470, 500, 1000, 0x3fff_ffff] {
        assert_eq!(native(&filter, number, 0), errno(ENOSYS), "{number}");
        assert_eq!(decide(&filter, I386, number, 0), errno(ENOSYS), "{number}");
    }
    // lsm_set_self_attr, open_tree_attr: known, and refused.
    assert_eq!(native(&filter, 460, 0), errno(EPERM));
    assert_eq!(native(&filter, 467, 0), errno(EPERM));
    // uretprobe is x86_64's alone: 32-bit x86 has rt_tgsigqueueinfo under its number, and perf_event_open under the next.
    assert_eq!(native(&filter, 335, 0), ALLOW);
    assert_eq!(decide(&filter, I386, 336, 0), errno(EPERM));
}

#[test]
fn other_architectures_calls_kill() {
    let filter = filter(&[]);
    assert_eq!(native(&filter, 0x4000_0000, 0), KILL_PROCESS, "x32");
    assert_eq!(native(&filter, 0x4000_0000 | 41, 38), KILL_PROCESS, "x32");
    assert_eq!(decide(&filter, 0xc000_00b7, 0, 0), KILL_PROCESS, "another processor's");
}

#[test]
fn a_capability_opens_what_it_is_for_and_no_more() {
    // mbind, set_mempolicy, get_mempolicy, set_mempolicy_home_node are what programs that mind where memory lies need.
    let cases: [(&str, &[u32]); 9] = [
        ("CAP_SYS_NICE", &[237, 238, 239, 450]),
        ("CAP_SYS_ADMIN", &[103, 165, 166, 272, 308, 321, 298, 430, 435, 467]),
        ("CAP_SYS_CHROOT", &[161]),
        ("CAP_SYS_BOOT", &[169]),
        ("CAP_SYS_MODULE", &[175, 176, 313]),
        ("CAP_SYS_PTRACE", &[310, 311, 312, 438]),
        ("CAP_DAC_READ_SEARCH", &[304]),
        ("CAP_SYS_TIME", &[164, 227]),
        ("CAP_SYSLOG", &[103]),
    ];
    for (capability, numbers) in cases {
        let opened = filter(&[capability]);
        for (_, others) in cases {
            for number in others {
                let want = numbers.contains(number);
                assert_eq!(native(&opened, *number, 0) == ALLOW, want, "{number} with {capability}");
            }
        }
        // Of none of them.
        for number in [248, 249, 250, 323, 425] {
            assert_eq!(native(&opened, number, 0), errno(EPERM), "{number} with {capability}");
        }
        assert_eq!(native(&opened, 41, 38), errno(EPERM), "AF_ALG with {capability}");
    }
    assert_eq!(native(&filter(&["CAP_SYS_ADMIN"]), 56, 0x7e02_0000), ALLOW, "clone makes namespaces then");
}

#[test]
fn ptrace_is_for_kernels_that_filter_what_a_tracer_changes() {
    let old = compile(&runtime_default(), &Surroundings { kernel: (4, 7), ..surroundings(&[]) }).expect("compiles");
    assert_eq!(native(&old, 101, 0), errno(EPERM));
    assert_eq!(native(&filter(&[]), 101, 0), ALLOW);
}

#[test]
fn personality_is_linux_alone() {
    let filter = filter(&[]);
    for (persona, want) in [(0, ALLOW), (8, ALLOW), (0x2_0000, ALLOW), (0xffff_ffff, ALLOW), (0x040_0000, errno(EPERM)), (6, errno(EPERM))]
    {
        assert_eq!(native(&filter, 135, persona), want, "{persona:#x}");
    }
}

#[test]
fn a_filter_is_compiled_once_for_the_same_surroundings() {
    let filters = Filters::default();
    let first = filters.runtime_default(surroundings(&[])).expect("compiles");
    let again = filters.runtime_default(surroundings(&[])).expect("compiles");
    let other = filters.runtime_default(surroundings(&["CAP_SYS_ADMIN"])).expect("compiles");
    assert!(first.is_new && !again.is_new && other.is_new);
    assert_eq!(first.filter, again.filter);
    assert_ne!(first.filter, other.filter);
    let text = br#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
    assert!(filters.of_profile(text, surroundings(&[])).expect("compiles").is_new);
    assert!(!filters.of_profile(text, surroundings(&[])).expect("compiles").is_new);
    // It is bounded: what was used last stays.
    for number in 0..200 {
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "comment": {number}}}"#);
        filters.of_profile(text.as_bytes(), surroundings(&[])).expect("compiles");
        assert!(!filters.runtime_default(surroundings(&[])).expect("compiles").is_new);
    }
    assert!(filters.of_profile(text, surroundings(&[])).expect("compiles").is_new, "it went for others");
}
