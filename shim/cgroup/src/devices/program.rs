//! The program that answers for v2 whether a device may be used.
//!
//! The kernel asks with three numbers (`struct bpf_cgroup_dev_ctx`): kind and access in one, major, minor. The program compares them with
//! one rule after the other; the first rule that allows all of the access ends it with 1, the end of the list with 0 (`EPERM`). It only goes
//! forward, calls nothing and reads nothing else.

use super::{DeviceAccess, DeviceKind, DeviceRule};
use podbox_sys::BpfInstruction;

// Registers, by what they hold here. The question comes in the first.
const ANSWER: u8 = 0;
const QUESTION: u8 = 1;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Operations, all on 32 bits (linux/bpf_common.h, linux/bpf.h).
const LOAD_WORD: u8 = 0x61;
const MOVE_NUMBER: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND_NUMBER: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_IF_NOT: u8 = 0x56;
const EXIT: u8 = 0x95;

// Offsets in the question, and what its first number is made of.
const KIND_AND_ACCESS_AT: i16 = 0;
const MAJOR_AT: i16 = 4;
const MINOR_AT: i16 = 8;
const KIND_MASK: i32 = 0xffff;
const ACCESS_SHIFT: i32 = 16;
const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;

/// The program of a list of rules.
pub(super) fn assemble(rules: &[DeviceRule]) -> Vec<BpfInstruction> {
    let load = |register, at| BpfInstruction::new(LOAD_WORD, register, QUESTION, at, 0);
    let mut program = vec![
        load(KIND, KIND_AND_ACCESS_AT),
        load(MAJOR, MAJOR_AT),
        load(MINOR, MINOR_AT),
        BpfInstruction::new(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        BpfInstruction::new(SHIFT_RIGHT, ACCESS, 0, 0, ACCESS_SHIFT),
        BpfInstruction::new(AND_NUMBER, KIND, 0, 0, KIND_MASK),
    ];
    rules.iter().for_each(|rule| program.extend(allow(rule)));
    program.extend(answer(0));
    program
}

/// A rule: comparisons that each lead past it, and the answer if none does.
fn allow(rule: &DeviceRule) -> Vec<BpfInstruction> {
    let kind = match rule.kind {
        DeviceKind::Block => KIND_BLOCK,
        DeviceKind::Char => KIND_CHAR,
    };
    let mut comparisons = vec![(KIND, kind)];
    // The kernel's numbers have 12 and 20 bits; what is more has no device, whatever it is compared as.
    comparisons.extend(rule.major.map(|major| (MAJOR, major.cast_signed())));
    comparisons.extend(rule.minor.map(|minor| (MINOR, minor.cast_signed())));
    let forbidden = ACCESS_ALL & !bits(rule.access);
    let mut length = comparisons.len() + answer(1).len();
    if forbidden != 0 {
        length += 3;
    }
    let mut code: Vec<BpfInstruction> = Vec::with_capacity(length);
    // From the instruction after this one to the first after the rule.
    let past = |at: usize| i16::try_from(length - at - 1).expect("a rule has a few instructions");
    for (register, number) in comparisons {
        code.push(BpfInstruction::new(JUMP_IF_NOT, register, 0, past(code.len()), number));
    }
    if forbidden != 0 {
        code.push(BpfInstruction::new(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
        code.push(BpfInstruction::new(AND_NUMBER, SCRATCH, 0, 0, forbidden));
        code.push(BpfInstruction::new(JUMP_IF_NOT, SCRATCH, 0, past(code.len()), 0));
    }
    code.extend(answer(1));
    code
}

fn answer(value: i32) -> [BpfInstruction; 2] {
    [BpfInstruction::new(MOVE_NUMBER, ANSWER, 0, 0, value), BpfInstruction::new(EXIT, 0, 0, 0, 0)]
}

fn bits(access: DeviceAccess) -> i32 {
    let bit = |allowed: bool, bit: i32| if allowed { bit } else { 0 };
    bit(access.read, ACCESS_READ) | bit(access.write, ACCESS_WRITE) | bit(access.mknod, ACCESS_MKNOD)
}
