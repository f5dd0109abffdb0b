//! Becoming the program.

use super::Newborn;
use super::error::OpError;
use crate::birth::ABOUT_TO_EXECUTE;
use nix::fcntl::AtFlags;
use podbox_plan::{ByteString, Program};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where a program is looked for when its environment has no PATH.
const PATH_DEFAULT: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Newborn<'_> {
    /// Closes all but the standard streams, says that this is it, and executes. Gives only failures.
    pub(super) fn execute(&mut self, program: &Program, arguments: &[ByteString], environment: &[ByteString]) -> Result<(), OpError> {
        let arguments_c = c_strings(arguments)?;
        let environment_c = c_strings(environment)?;
        let name = arguments_c.first().ok_or(OpError::NothingExecuted)?;
        self.mark_descriptors()?;
        let candidates = match program {
            Program::Passed(slot) => {
                let file = self.descriptor(*slot)?;
                self.mark()?;
                nix::unistd::execveat(file, c"", &arguments_c, &environment_c, AtFlags::AT_EMPTY_PATH)?;
                return Err(OpError::NothingExecuted);
            }
            Program::FromArguments => candidates(name, environment)?,
        };
        self.mark()?;
        Err(execute_first(&candidates, name, &arguments_c, &environment_c))
    }

    fn mark(&self) -> Result<(), Errno> {
        self.say(&[ABOUT_TO_EXECUTE])
    }
}

fn c_strings(strings: &[ByteString]) -> Result<Vec<CString>, OpError> {
    strings.iter().map(|string| CString::new(string.0.as_slice()).map_err(|_| OpError::NulByte)).collect()
}

/// What may be meant by a name: itself where it has a slash, else a file in each directory of the PATH; no directory is the
/// working directory (`execvp(3)`).
fn candidates(name: &CStr, environment: &[ByteString]) -> Result<Vec<CString>, OpError> {
    let name = name.to_bytes();
    if name.contains(&b'/') {
        return Ok(vec![CString::new(name).map_err(|_| OpError::NulByte)?]);
    }
    if name.is_empty() {
        return Err(OpError::NotInPath);
    }
    let path = environment.iter().find_map(|variable| variable.0.strip_prefix(b"PATH=")).unwrap_or(PATH_DEFAULT);
    path.split(|&byte| byte == b':')
        .map(|directory| {
            let file: PathBuf = Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name));
            // Without a slash it would still mean a file of the working directory, which is right.
            CString::new(file.as_os_str().as_bytes()).map_err(|_| OpError::NulByte)
        })
        .collect()
}

/// Tries one after the other; gives the error that tells most.
fn execute_first(candidates: &[CString], name: &CStr, arguments: &[CString], environment: &[CString]) -> OpError {
    let is_path = name.to_bytes().contains(&b'/');
    let mut is_denied = false;
    for file in candidates {
        let Err(errno) = nix::unistd::execve(file, arguments, environment);
        match Errno::from_raw_os_error(errno as i32) {
            Errno::NOENT | Errno::NOTDIR if !is_path && !exists(file) => {}
            Errno::NOENT if exists(file) => return OpError::NoInterpreter,
            Errno::ACCESS if is_directory(file) && is_path => return OpError::IsDirectory,
            Errno::ACCESS if is_directory(file) => {}
            Errno::ACCESS if !is_path => is_denied = true,
            errno => return OpError::Kernel(errno),
        }
    }
    if is_denied { OpError::Kernel(Errno::ACCESS) } else { OpError::NotInPath }
}

fn metadata(file: &CStr) -> Option<std::fs::Metadata> {
    std::fs::metadata(OsStr::from_bytes(file.to_bytes())).ok()
}

fn exists(file: &CStr) -> bool {
    metadata(file).is_some()
}

fn is_directory(file: &CStr) -> bool {
    metadata(file).is_some_and(|file| file.is_dir())
}
