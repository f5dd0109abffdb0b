//! From a profile to a filter.
//!
//! libseccomp makes the program, as a tree that is searched by number. In front of it stands what it cannot say:
//!
//! - rules for calls that are younger than the library;
//! - `ENOSYS` for calls that are younger than every profile, where the default is to refuse, so that a C library goes on with an
//!   older call: it takes `EPERM` for the answer of the new one;
//! - what becomes of calls that 32-bit x86 makes by `socketcall` and `ipc`, whose arguments the library cannot see (`multiplexed`).
//!
//! Calls of an architecture that the profile does not name kill the process.

use super::multiplexed::multiplexers;
use super::prologue::{Block, Multiplexer, prologue};
use super::syscalls::{NEWEST, Syscall, resolve};
use super::{
    Action, Architecture, Comparison, Condition, Flags, Instruction, Profile, Surroundings, SyscallRules, resolved_json, rules_in,
};
use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek};

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;
/// Set in the number of a call that is made as x32.
const X32: u32 = 0x4000_0000;
/// Numbers from here on are calls of x32 alone (`syscall_64.tbl`).
const X32_OWN: u32 = X32 | 512;
/// Numbers from here on are calls of 32-bit Arm alone (`__ARM_NR_BASE`).
const ARM_OWN: u32 = 0x000f_0000;
/// Makes libseccomp search by halves: the kernel loads such a filter in a third of the time, since it tries every call beforehand.
const AS_TREE: u32 = 2;

/// A profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A rule with conditions that the rule without undoes.
    #[error("{syscall} has a rule with conditions on its arguments and a less restrictive one without, which would hold alone")]
    Contradiction {
        /// The call.
        syscall: String,
    },
    /// The library does not know the call.
    #[error("{syscall} is too new a call for conditions on its arguments")]
    TooYoung {
        /// The call.
        syscall: String,
    },
    /// More than the kernel takes.
    #[error("its filter has {instructions} instructions, and the kernel takes {INSTRUCTIONS_MAX}")]
    TooLong {
        /// How many.
        instructions: usize,
    },
    /// The library would not.
    #[error("libseccomp: {step}")]
    Library {
        /// What it was asked.
        step: String,
        /// What it said.
        source: SeccompError,
    },
    /// The library's program cannot be taken out.
    #[error("take the program from libseccomp")]
    Export(#[source] io::Error),
}

/// A filter that the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The program; at most [`INSTRUCTIONS_MAX`].
    pub instructions: Vec<Instruction>,
    /// How it is loaded.
    pub flags: Flags,
    /// Names of the profile that nobody here knows; no call can be meant by them.
    pub unknown: Vec<String>,
    /// What it was compiled from, as [`resolved_json`] has it.
    pub profile: String,
}

impl Filter {
    /// The program as the kernel reads it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.instructions.iter().flat_map(|instruction| instruction.to_bytes()).collect()
    }
}

fn library(step: impl Into<String>) -> impl FnOnce(SeccompError) -> CompileError {
    let step = step.into();
    move |source| CompileError::Library { step, source }
}

/// Compiles a profile for these surroundings and this machine.
///
/// # Errors
/// It contradicts itself, or what it asks for does not fit into a filter.
pub fn compile(profile: &Profile, surroundings: &Surroundings) -> Result<Filter, CompileError> {
    let rules = rules_in(profile, surroundings)?;
    let mut context = ScmpFilterContext::new(profile.default_action.for_library()).map_err(library("begin a filter"))?;
    context.set_act_badarch(ScmpAction::KillProcess).map_err(library("kill what another architecture does"))?;
    context.set_ctl_optimize(AS_TREE).map_err(library("make a tree"))?;
    for architecture in profile.architectures.iter().filter_map(|architecture| runs_here(*architecture)) {
        context.add_arch(architecture).map_err(library("add an architecture"))?;
    }
    let mut young = Vec::new();
    let mut unknown = Vec::new();
    for (name, rules) in &rules {
        match (resolve(name), rules) {
            (None, _) => unknown.push(name.clone()),
            (Some(Syscall::Known(call)), rules) => add(&mut context, profile.default_action, name, call, rules)?,
            (Some(call), SyscallRules::Always(action)) => young.push((call, *action)),
            (Some(_), SyscallRules::Where(_)) => return Err(CompileError::TooYoung { syscall: name.clone() }),
        }
    }
    let mut instructions = prologue(&blocks(profile, &young, multiplexers(profile, &rules)));
    instructions.extend(export(&context)?);
    if instructions.len() > INSTRUCTIONS_MAX {
        return Err(CompileError::TooLong { instructions: instructions.len() });
    }
    Ok(Filter { instructions, flags: profile.flags, unknown, profile: resolved_json(profile, surroundings) })
}

/// The library's name of an architecture that this machine's kernel can run, other than its own.
fn runs_here(architecture: Architecture) -> Option<ScmpArch> {
    match (Architecture::NATIVE, architecture) {
        (Architecture::X8664, Architecture::X86) => Some(ScmpArch::X86),
        (Architecture::X8664, Architecture::X32) => Some(ScmpArch::X32),
        (Architecture::Aarch64, Architecture::Arm) => Some(ScmpArch::Arm),
        _ => None,
    }
}

fn add(context: &mut ScmpFilterContext, default: Action, name: &str, call: ScmpSyscall, rules: &SyscallRules) -> Result<(), CompileError> {
    let refused = || library(format!("add a rule for {name}"));
    match rules {
        SyscallRules::Always(action) if *action == default => {}
        SyscallRules::Always(action) => {
            context.add_rule(action.for_library(), call).map_err(refused())?;
        }
        SyscallRules::Where(lists) => {
            for (action, conditions) in lists.iter().filter(|(action, _)| *action != default) {
                let comparisons: Vec<ScmpArgCompare> = conditions.iter().map(comparison).collect();
                context.add_rule_conditional(action.for_library(), call, &comparisons).map_err(refused())?;
            }
        }
    }
    Ok(())
}

fn comparison(condition: &Condition) -> ScmpArgCompare {
    let operator = match condition.comparison {
        Comparison::NotEqual => ScmpCompareOp::NotEqual,
        Comparison::Less => ScmpCompareOp::Less,
        Comparison::LessOrEqual => ScmpCompareOp::LessOrEqual,
        Comparison::Equal => ScmpCompareOp::Equal,
        Comparison::GreaterOrEqual => ScmpCompareOp::GreaterEqual,
        Comparison::Greater => ScmpCompareOp::Greater,
        Comparison::MaskedEqual { mask } => ScmpCompareOp::MaskedEqual(mask),
    };
    ScmpArgCompare::new(condition.argument.into(), operator, condition.value)
}

/// What is decided before the library's program, for each architecture of the profile that runs here.
fn blocks(profile: &Profile, young: &[(Syscall, Action)], multiplexers: Vec<Multiplexer>) -> Vec<Block> {
    let default = profile.default_action;
    let has = |architecture| profile.architectures.contains(&architecture);
    // `bit` is what tells the numbers of an architecture from those of the native one.
    let calls_of = |has_native_calls: bool, bit: u32| {
        let numbers = young.iter().filter_map(move |(call, action)| match call {
            Syscall::Young(number) => Some((*number | bit, *action)),
            Syscall::YoungOfNative(number) if has_native_calls => Some((*number | bit, *action)),
            Syscall::YoungOfNative(_) | Syscall::Known(_) => None,
        });
        numbers.filter(move |(_, action)| *action != default)
    };
    // Who writes down an error number means it for all calls.
    let has_absent = !default.lets_through() && !profile.default_errno_is_explicit;
    let absent = |until: u32| has_absent.then_some(NEWEST + 1..until);
    let block = |architecture, has_native_calls, until| Block {
        architecture,
        calls: calls_of(has_native_calls, 0).collect(),
        multiplexers: Vec::new(),
        absent: absent(until).into_iter().collect(),
    };
    match Architecture::NATIVE {
        Architecture::X8664 => {
            let mut native = block(AUDIT_ARCH_X86_64, true, X32);
            if has(Architecture::X32) {
                native.calls.extend(calls_of(true, X32));
                native.absent.extend(has_absent.then_some((X32 | (NEWEST + 1))..X32_OWN));
            }
            let x86 = has(Architecture::X86).then(|| Block { multiplexers, ..block(AUDIT_ARCH_I386, false, X32) });
            [native].into_iter().chain(x86).collect()
        }
        Architecture::Aarch64 => {
            let arm = has(Architecture::Arm).then(|| block(AUDIT_ARCH_ARM, false, ARM_OWN));
            [block(AUDIT_ARCH_AARCH64, true, X32)].into_iter().chain(arm).collect()
        }
        _ => Vec::new(),
    }
}

fn export(context: &ScmpFilterContext) -> Result<Vec<Instruction>, CompileError> {
    let failed = |errno: Errno| CompileError::Export(errno.into());
    let mut file = File::from(memfd_create("podbox-filter", MemfdFlags::CLOEXEC).map_err(failed)?);
    context.export_bpf(&file).map_err(library("give the program"))?;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(CompileError::Export)?;
    Instruction::program(&bytes).ok_or_else(|| CompileError::Export(io::ErrorKind::InvalidData.into()))
}
