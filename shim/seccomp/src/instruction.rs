//! Instructions of classic BPF, the kernel's `struct sock_filter` (`linux/filter.h`).

/// Bytes of one.
const BYTES: usize = 8;

/// One instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many to pass over where the comparison holds.
    pub jump_true: u8,
    /// And where it does not.
    pub jump_false: u8,
    /// The number that goes with it.
    pub operand: u32,
}

impl Instruction {
    /// Load a word of `struct seccomp_data`.
    pub(crate) const fn load(offset: u32) -> Self {
        Self { code: 0x20, jump_true: 0, jump_false: 0, operand: offset }
    }

    /// Keep these bits.
    pub(crate) const fn and(mask: u32) -> Self {
        Self { code: 0x54, jump_true: 0, jump_false: 0, operand: mask }
    }

    /// Compare for equality.
    pub(crate) const fn if_equal(operand: u32, jump_true: u8, jump_false: u8) -> Self {
        Self { code: 0x15, jump_true, jump_false, operand }
    }

    /// Compare: at least.
    pub(crate) const fn if_at_least(operand: u32, jump_true: u8, jump_false: u8) -> Self {
        Self { code: 0x35, jump_true, jump_false, operand }
    }

    /// Pass over as many.
    pub(crate) const fn jump(over: u32) -> Self {
        Self { code: 0x05, jump_true: 0, jump_false: 0, operand: over }
    }

    /// End with this value.
    pub(crate) const fn give(value: u32) -> Self {
        Self { code: 0x06, jump_true: 0, jump_false: 0, operand: value }
    }

    /// As the kernel reads it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; BYTES] {
        let [code_0, code_1] = self.code.to_ne_bytes();
        let [a, b, c, d] = self.operand.to_ne_bytes();
        [code_0, code_1, self.jump_true, self.jump_false, a, b, c, d]
    }

    /// All of a program; `None` if it ends within one.
    #[must_use]
    pub fn program(bytes: &[u8]) -> Option<Vec<Self>> {
        let (whole, rest) = bytes.as_chunks::<BYTES>();
        let read = |[code_0, code_1, jump_true, jump_false, a, b, c, d]: &[u8; BYTES]| Self {
            code: u16::from_ne_bytes([*code_0, *code_1]),
            jump_true: *jump_true,
            jump_false: *jump_false,
            operand: u32::from_ne_bytes([*a, *b, *c, *d]),
        };
        rest.is_empty().then(|| whole.iter().map(read).collect())
    }
}
