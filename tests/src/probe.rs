//! A program that makes system calls by number and tells what came of each: what no shell and no C library would do, from within a
//! container. It needs no library, so that any image can hold it.

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As programs of this architecture do.
    Native,
    /// As 32-bit programs do: `int 0x80`.
    X86,
}

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// How.
    pub way: Way,
    /// Which.
    pub number: u64,
    /// Its arguments. An address that is none is enough to see whether a call is let through: it fails with `EFAULT` then.
    pub arguments: [u64; 6],
}

/// A native call with up to three arguments that matter; the rest are zero.
#[must_use]
pub const fn call(number: u64, a: u64, b: u64, c: u64) -> Call {
    Call { way: Way::Native, number, arguments: [a, b, c, 0, 0, 0] }
}

/// The same of a 32-bit one.
#[must_use]
pub const fn call_x86(number: u64, a: u64, b: u64) -> Call {
    Call { way: Way::X86, number, arguments: [a, b, 0, 0, 0, 0] }
}

/// Walks a table of calls, seven words each behind one that says which way (0: no more), makes each, and writes the results, a word
/// each, to standard output:
///
/// ```text
///         lea  r12, [rip+table]       next: mov r14, [r12]      done: lea rsi, [rip+table]
///         mov  r13, r12                     test r14, r14             mov rdx, r13
///                                           je   done                 sub rdx, rsi
///   keep: mov  [r13], rax                   mov  rax, [r12+8]         mov edi, 1
///         add  r13, 8                       mov  rdi … r9             mov eax, 1
///         add  r12, 64                      cmp  r14, 2               syscall
///         jmp  next                         je   old                  xor edi, edi
///   old:  (rdi … to rbx, rcx, rsi, rdi)     syscall                   mov eax, 231
///         int  0x80; movsxd rax, eax        jmp  keep                 syscall
/// ```
const CODE: [u8; 129] = [
    0x4c, 0x8d, 0x25, 0x7a, 0x00, 0x00, 0x00, 0x4d, 0x89, 0xe5, 0x4d, 0x8b, 0x34, 0x24, 0x4d, 0x85, 0xf6, 0x74, 0x4c, 0x49, 0x8b, 0x44,
    0x24, 0x08, 0x49, 0x8b, 0x7c, 0x24, 0x10, 0x49, 0x8b, 0x74, 0x24, 0x18, 0x49, 0x8b, 0x54, 0x24, 0x20, 0x4d, 0x8b, 0x54, 0x24, 0x28,
    0x4d, 0x8b, 0x44, 0x24, 0x30, 0x4d, 0x8b, 0x4c, 0x24, 0x38, 0x49, 0x83, 0xfe, 0x02, 0x74, 0x04, 0x0f, 0x05, 0xeb, 0x11, 0x48, 0x89,
    0xfb, 0x48, 0x89, 0xf1, 0x4c, 0x89, 0xd6, 0x4c, 0x89, 0xc7, 0xcd, 0x80, 0x48, 0x63, 0xc0, 0x49, 0x89, 0x45, 0x00, 0x49, 0x83, 0xc5,
    0x08, 0x49, 0x83, 0xc4, 0x40, 0xeb, 0xab, 0x48, 0x8d, 0x35, 0x1b, 0x00, 0x00, 0x00, 0x4c, 0x89, 0xea, 0x48, 0x29, 0xf2, 0xbf, 0x01,
    0x00, 0x00, 0x00, 0xb8, 0x01, 0x00, 0x00, 0x00, 0x0f, 0x05, 0x31, 0xff, 0xb8, 0xe7, 0x00, 0x00, 0x00, 0x0f, 0x05,
];
/// Where it is loaded.
const ADDRESS: u64 = 0x40_0000;
const HEADERS_BYTES: u64 = 64 + 56;

/// The program, an ELF file for x86_64.
#[must_use]
pub fn program(calls: &[Call]) -> Vec<u8> {
    let mut table: Vec<u64> = Vec::new();
    for call in calls {
        table.push(if call.way == Way::Native { 1 } else { 2 });
        table.push(call.number);
        table.extend(call.arguments);
    }
    // The end, and at least as much room as an entry has.
    table.extend([0; 8]);
    let bytes = HEADERS_BYTES + (CODE.len() + 8 * table.len()) as u64;
    // `Elf64_Ehdr`: an executable for x86_64 with one program header; `Elf64_Phdr`: all of it, to be read, written and executed.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [ADDRESS + HEADERS_BYTES, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for half in [1_u32, 7] {
        file.extend(half.to_le_bytes());
    }
    for word in [0, ADDRESS, ADDRESS, bytes, bytes, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(CODE);
    file.extend(table.iter().flat_map(|word| word.to_le_bytes()));
    file
}

/// What the program wrote: a call's value, or the error number as a negative one.
#[must_use]
pub fn results(output: &[u8]) -> Vec<i64> {
    output.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}
