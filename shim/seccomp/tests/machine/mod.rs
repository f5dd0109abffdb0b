//! A slow machine for classic BPF, as `seccomp(2)` describes it.

// Each test program uses its part.
#![allow(dead_code)]

use podbox_seccomp::Instruction;

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: u32,
    pub architecture: u32,
    pub arguments: [u64; 6],
}

pub const X86_64: u32 = 0xc000_003e;
pub const I386: u32 = 0x4000_0003;
pub const ALLOW: u32 = 0x7fff_0000;
pub const KILL_PROCESS: u32 = 0x8000_0000;

pub const fn errno(number: u32) -> u32 {
    0x0005_0000 | number
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&self.number.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.architecture.to_ne_bytes());
        for (at, argument) in self.arguments.iter().enumerate() {
            bytes[16 + 8 * at..24 + 8 * at].copy_from_slice(&argument.to_ne_bytes());
        }
        let at = offset as usize;
        u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }
}

/// What a program says of a call.
pub fn run(program: &[Instruction], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        at += 1;
        let holds = match code {
            0x20 => {
                accumulator = call.word(operand);
                continue;
            }
            0x54 => {
                accumulator &= operand;
                continue;
            }
            0x05 => {
                at += operand as usize;
                continue;
            }
            0x06 => return operand,
            0x15 => accumulator == operand,
            0x25 => accumulator > operand,
            0x35 => accumulator >= operand,
            0x45 => accumulator & operand != 0,
            code => panic!("no such instruction: {code:#x}"),
        };
        at += usize::from(if holds { jump_true } else { jump_false });
    }
}
