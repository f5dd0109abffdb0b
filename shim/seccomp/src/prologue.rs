//! What stands in front of libseccomp's program: what that cannot express.

use super::{Action, Instruction};

/// Where a filter finds the call's number and its architecture (`struct seccomp_data`).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// Set in the number of a call that is made as x32; libseccomp's program decides on those.
const X32: u32 = 0x4000_0000;
const ENOSYS: u16 = 38;
/// More instructions than any program has: a jump that leads behind the prologue once its end is known.
const BEHIND: u32 = u32::MAX;

/// What is decided on calls of one architecture before libseccomp's program is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// `AUDIT_ARCH_…` (`linux/audit.h`).
    pub architecture: u32,
    /// By number; the first that fits.
    pub calls: Vec<(u32, Action)>,
    /// Calls with larger numbers are ones that the profile cannot mean: they fail as on a kernel that does not have them.
    pub newest: Option<u32>,
}

impl Block {
    fn is_needed(&self) -> bool {
        !self.calls.is_empty() || self.newest.is_some()
    }

    fn instructions(&self) -> Vec<Instruction> {
        let mut program = vec![Instruction::load(NUMBER), Instruction::if_at_least(X32, 0, 1), Instruction::jump(BEHIND)];
        for (number, action) in &self.calls {
            program.extend([Instruction::if_equal(*number, 0, 1), Instruction::give(action.value())]);
        }
        if let Some(newest) = self.newest {
            program.extend([Instruction::if_at_least(newest + 1, 0, 1), Instruction::give(Action::Errno(ENOSYS).value())]);
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
        // There are a score of calls that it can hold.
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
