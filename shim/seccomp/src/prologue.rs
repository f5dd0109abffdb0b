//! What stands in front of libseccomp's program: what that cannot express.

use super::{Action, Instruction};
use std::ops::Range;

/// Where a filter finds the call's number, its architecture, and the lower half of its first argument (`struct seccomp_data`).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
const ENOSYS: u16 = 38;
/// More instructions than any program has: a jump that leads behind the prologue once its end is known.
const BEHIND: u32 = u32::MAX;

/// What is decided on calls of one architecture before libseccomp's program is asked. Numbers of x32 are x86_64's with a bit more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// `AUDIT_ARCH_…` (`linux/audit.h`).
    pub architecture: u32,
    /// By number; the first that fits.
    pub calls: Vec<(u32, Action)>,
    /// Calls that stand for others.
    pub multiplexers: Vec<Multiplexer>,
    /// Calls with these numbers are ones that the profile cannot mean: they fail as on a kernel that does not have them.
    pub absent: Vec<Range<u32>>,
}

/// A call whose first argument says which call is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Multiplexer {
    /// Its own number.
    pub number: u32,
    /// What the kernel looks at of the first argument.
    pub mask: u32,
    /// By what is left of the argument.
    pub calls: Vec<(u32, Action)>,
}

impl Multiplexer {
    fn instructions(&self) -> Vec<Instruction> {
        let mut program = vec![Instruction::load(FIRST_ARGUMENT), Instruction::and(self.mask)];
        for (call, action) in &self.calls {
            program.extend([Instruction::if_equal(*call, 0, 1), Instruction::give(action.value())]);
        }
        program.push(Instruction::load(NUMBER));
        let length = u8::try_from(program.len()).expect("no multiplexer has more than a score of calls");
        program.insert(0, Instruction::if_equal(self.number, 0, length));
        program
    }
}

impl Block {
    fn is_needed(&self) -> bool {
        !self.calls.is_empty() || !self.absent.is_empty() || !self.multiplexers.is_empty()
    }

    fn instructions(&self) -> Vec<Instruction> {
        let mut program = vec![Instruction::load(NUMBER)];
        for (number, action) in &self.calls {
            program.extend([Instruction::if_equal(*number, 0, 1), Instruction::give(action.value())]);
        }
        for multiplexer in &self.multiplexers {
            program.extend(multiplexer.instructions());
        }
        for Range { start, end } in &self.absent {
            program.extend([
                Instruction::if_at_least(*start, 0, 2),
                Instruction::if_at_least(*end, 1, 0),
                Instruction::give(Action::Errno(ENOSYS).value()),
            ]);
        }
        program.push(Instruction::jump(BEHIND));
        program
    }
}

/// The instructions for blocks of different architectures; the rest of the program comes right behind.
pub(crate) fn prologue(blocks: &[Block]) -> Vec<Instruction> {
    let mut program = Vec::new();
    for block in blocks.iter().filter(|block| block.is_needed()) {
        let instructions = block.instructions();
        if program.is_empty() {
            program.push(Instruction::load(ARCHITECTURE));
        }
        // There are two score of calls that it can hold, twice for x32.
        let length = u8::try_from(instructions.len()).expect("a block is short");
        program.push(Instruction::if_equal(block.architecture, 0, length));
        program.extend(instructions);
    }
    let end = program.len();
    for (at, instruction) in program.iter_mut().enumerate().filter(|(_, instruction)| **instruction == Instruction::jump(BEHIND)) {
        *instruction = Instruction::jump(u32::try_from(end - at - 1).expect("a prologue is short"));
    }
    program
}
