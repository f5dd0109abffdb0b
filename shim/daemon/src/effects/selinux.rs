//! SELinux contexts, as the kernel writes them.
//!
//! A context can be written in several ways (`s0:c1,c0` and `s0:c0,c1` are one), and the kernel answers with one of them. What a process is
//! asked to run as is therefore taken as the kernel's own text, which a look at the process can be compared with. selinuxfs has a file for
//! that (`security_canonicalize_context_raw(3)`): a context is written to it and read back, or refused where the node's policy has none such.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const ASKED: &str = "/sys/fs/selinux/context";
/// The kernel answers with no more than a page.
const CONTEXT_BYTES_MAX: usize = 4096;

/// The kernel has no such context.
#[derive(Debug, thiserror::Error)]
pub enum SelinuxError {
    /// By the node's policy there is none.
    #[error("the policy of this node has no context {context:?}")]
    NoContext {
        /// As it was asked for.
        context: String,
    },
    /// The kernel does not say.
    #[error("ask the kernel for the context {context:?} by {}", path.display())]
    Ask {
        /// As it was asked for.
        context: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The kernel's text of a context.
///
/// # Errors
/// There is no such context, or the kernel does not say.
pub fn canonical_context(context: &str) -> Result<String, SelinuxError> {
    ask(Path::new(ASKED), context)
}

fn ask(path: &Path, context: &str) -> Result<String, SelinuxError> {
    answer(path, context).map_err(|source| match source.raw_os_error() {
        Some(number) if number == Errno::INVAL.raw_os_error() => SelinuxError::NoContext { context: context.to_owned() },
        _ => SelinuxError::Ask { context: context.to_owned(), path: path.to_owned(), source },
    })
}

/// The file is a question and its answer, for as long as it is open. The question is one write, and ends with a zero.
fn answer(path: &Path, context: &str) -> io::Result<String> {
    let mut file = File::from(rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?);
    let question = format!("{context}\0");
    if file.write(question.as_bytes())? != question.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut text = vec![0; CONTEXT_BYTES_MAX];
    // What was written moves the file's position nowhere in selinuxfs, and elsewhere it would.
    let count = file.read_at(&mut text, 0)?;
    let text = std::str::from_utf8(&text[..count]).map_err(|_| io::ErrorKind::InvalidData)?.trim_end_matches('\0');
    if text.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No kernel that podbox is tested on has SELinux: a file that answers what it was asked stands for one that agrees.
    #[test]
    fn what_is_answered_is_taken_without_its_end() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let context = "system_u:system_r:container_t:s0:c1,c2";
        assert_eq!(ask(file.path(), context).expect("an answer"), context);
    }

    #[test]
    fn a_kernel_that_says_nothing_is_an_error_with_the_context() {
        for path in ["/nowhere", "/dev/full", "/dev/null"] {
            let error = ask(Path::new(path), "a:b:c:s0").expect_err("no answer");
            assert!(matches!(&error, SelinuxError::Ask { .. }), "{error:?}");
            assert!(error.to_string().contains("a:b:c:s0"), "{error}");
        }
    }
}
