//! Seccomp profiles: what can be read for one compiles to a filter that the kernel has room for, or is refused with a reason.

use crate::cursor::Cursor;
use podbox_seccomp::{INSTRUCTIONS_MAX, Profile, Surroundings, compile};
use std::collections::BTreeSet;

/// A profile with most of what one can have.
const SEED: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
 "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [
 {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
 {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}, {"index": 1, "value": 1,
  "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]},
 {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
 {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8", "arches": ["amd64"]}}]}"#;

/// Parses what is nearly a profile and compiles what can be parsed.
///
/// # Panics
/// A filter is longer than the kernel takes, or a refusal says nothing.
pub fn seccomp(bytes: &[u8]) {
    let mut cursor = Cursor::new(bytes);
    let capabilities = if cursor.byte().is_multiple_of(2) { BTreeSet::new() } else { BTreeSet::from(["CAP_SYS_ADMIN".to_owned()]) };
    let surroundings = Surroundings { capabilities, kernel: (cursor.byte().into(), cursor.byte().into()) };
    let said = match Profile::parse(&cursor.mutated(SEED.as_bytes())) {
        Ok(profile) => match compile(&profile, &surroundings) {
            Ok(filter) => return assert!(filter.to_bytes().len() <= INSTRUCTIONS_MAX * 8),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    assert!(!said.is_empty() && said.len() < 4096, "{} bytes", said.len());
}
