//! From a profile to a filter.
//!
//! libseccomp makes the program, as a tree that is searched by number. In front of it stands what it cannot say:
//!
//! - rules for calls that are younger than the library;
//! - `ENOSYS` for calls that are younger than every profile, where the default is to refuse, so that a C library goes on with an
//!   older call: it takes `EPERM` for the answer of the new one;
//! - the refusal of `socketcall` on 32-bit x86. The library lets it through for every socket call that is let through, whatever the
//!   conditions on its arguments: those are behind a pointer.
//!
//! Calls of an architecture that the profile does not name kill the process.

use super::prologue::{Block, prologue};
use super::syscalls::{NEWEST, Syscall, resolve};
use super::{Action, Architecture, Comparison, Condition, Flags, Instruction, Profile, Surroundings, SyscallRules, rules_in};
use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
/// `socketcall` on 32-bit x86.
const SOCKETCALL: u32 = 102;
const ENOSYS: Action = Action::Errno(38);
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
    let has_x86 = Architecture::NATIVE == Architecture::X8664 && profile.architectures.contains(&Architecture::X86);
    let socketcall = if has_x86 { refusal_of_socketcall(profile, &rules) } else { None };
    for (name, rules) in &rules {
        match (resolve(name), rules) {
            (None, _) => unknown.push(name.clone()),
            (Some(Syscall::Known(_)), _) if name == "socketcall" && socketcall.is_some() => {}
            (Some(Syscall::Known(call)), rules) => add(&mut context, profile.default_action, name, call, rules)?,
            (Some(call), SyscallRules::Always(action)) => young.push((call, *action)),
            (Some(_), SyscallRules::Where(_)) => return Err(CompileError::TooYoung { syscall: name.clone() }),
        }
    }
    let mut instructions = prologue(&blocks(profile, &young, has_x86.then_some(socketcall)));
    instructions.extend(export(&context)?);
    if instructions.len() > INSTRUCTIONS_MAX {
        return Err(CompileError::TooLong { instructions: instructions.len() });
    }
    Ok(Filter { instructions, flags: profile.flags, unknown })
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

/// Where the library would let it through and the profile does not.
fn refusal_of_socketcall(profile: &Profile, rules: &BTreeMap<String, SyscallRules>) -> Option<Action> {
    match rules.get("socketcall") {
        Some(SyscallRules::Always(action)) => (!action.lets_through()).then_some(*action),
        Some(SyscallRules::Where(_)) => None,
        None => {
            let is_conditional = |name: &str| matches!(rules.get(name), Some(SyscallRules::Where(_)));
            let is_in_doubt = is_conditional("socket") || is_conditional("socketpair");
            (is_in_doubt && !profile.default_action.lets_through()).then_some(ENOSYS)
        }
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

/// `x86` is what becomes of `socketcall`, where the profile has 32-bit x86.
fn blocks(profile: &Profile, young: &[(Syscall, Action)], x86: Option<Option<Action>>) -> Vec<Block> {
    let default = profile.default_action;
    // Who writes down an error number means it for all calls.
    let has_newest = !default.lets_through() && !profile.default_errno_is_explicit;
    let newest = has_newest.then_some(NEWEST);
    let calls_of = |is_native: bool| {
        let numbers = young.iter().filter_map(move |(call, action)| match call {
            Syscall::Young(number) => Some((*number, *action)),
            Syscall::YoungOfNative(number) if is_native => Some((*number, *action)),
            Syscall::YoungOfNative(_) | Syscall::Known(_) => None,
        });
        numbers.filter(move |(_, action)| *action != default)
    };
    let native = match Architecture::NATIVE {
        Architecture::X8664 => AUDIT_ARCH_X86_64,
        Architecture::Aarch64 => AUDIT_ARCH_AARCH64,
        _ => return Vec::new(),
    };
    let mut blocks = vec![Block { architecture: native, calls: calls_of(true).collect(), newest }];
    if let Some(socketcall) = x86 {
        let calls = socketcall.map(|action| (SOCKETCALL, action)).into_iter().chain(calls_of(false)).collect();
        blocks.push(Block { architecture: AUDIT_ARCH_I386, calls, newest });
    }
    blocks
}

fn export(context: &ScmpFilterContext) -> Result<Vec<Instruction>, CompileError> {
    let failed = |errno: Errno| CompileError::Export(errno.into());
    let mut file = File::from(memfd_create("podbox-filter", MemfdFlags::CLOEXEC).map_err(failed)?);
    context.export_bpf(&file).map_err(library("give the program"))?;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(CompileError::Export)?;
    Instruction::program(&bytes).ok_or_else(|| CompileError::Export(io::ErrorKind::InvalidData.into()))
}
