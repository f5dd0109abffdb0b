//! Processes that a client is connected to: commands executed for it, and containers that it attaches to.
//!
//! What is connected are pipes, or a terminal. A command that a client was connected to ends when nobody holds its [`Process`] any more; a
//! container goes on.

use super::exec::{ExecError, KillOnDrop};
use super::{MonitorError, MonitorLink};
use podbox_plan::wire::AttachedStdin;
use podbox_plan::{ContainerId, LaunchPlan, ProcessRef, Slot, Stdio};
use podbox_stream::{Process, Refusal, StandardStreams, TerminalSize};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

/// What a command's pipes hold: the more, the fewer wakes for the same bytes.
const PIPE_BYTES: usize = 256 * 1024;

/// How a command's streams are passed, as [`exec_connected`] passes them.
#[must_use]
pub fn connected_stdio(streams: StandardStreams) -> Stdio {
    if streams.tty {
        return Stdio::PassedTerminal { channel: 0 };
    }
    let mut next: Slot = 0;
    let mut slot = |wanted: bool| {
        let slot = next;
        next += Slot::from(wanted);
        wanted.then_some(slot)
    };
    Stdio::Passed { stdin: slot(streams.stdin), stdout: slot(streams.stdout), stderr: slot(streams.stderr) }
}

/// Starts a command for a client; its plan must have the streams' [`connected_stdio`].
///
/// # Errors
/// It could not be started.
pub async fn exec_connected(link: &MonitorLink, plan: LaunchPlan, streams: StandardStreams) -> Result<Process, ExecError> {
    let number = link.next_exec();
    // From here on the command may be there. A kill that comes before its launch has ended ends that, too.
    let mut guard = KillOnDrop::new(link, ProcessRef::Exec(number));
    let (mut process, end) = if streams.tty {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(pipe_error)?;
        let end = link.launch_exec(number, plan, vec![theirs]).await?;
        let terminal = Terminal::new(take_master(&ours).map_err(pipe_error)?).map_err(ExecError::Pipe)?;
        (terminal.connect(streams), end)
    } else {
        let mut theirs = Vec::new();
        let stdin = streams.stdin.then(|| input(&mut theirs)).transpose()?;
        let stdout = streams.stdout.then(|| output(&mut theirs)).transpose()?;
        let stderr = streams.stderr.then(|| output(&mut theirs)).transpose()?;
        let end = link.launch_exec(number, plan, theirs).await?;
        let stdin = stdin.map(|sink| {
            let broken_off = Arc::new(Mutex::new(None));
            guard.keep(broken_off.clone());
            Box::new(CommandInput { sink: Some(sink), broken_off }) as Box<dyn AsyncWrite + Send + Unpin>
        });
        (unended(stdin, stdout.map(boxed_source), stderr.map(boxed_source)), end)
    };
    process.end = Box::pin(async move {
        let record = end.await.map_err(|_| Refusal(MonitorError::Gone.to_string()))?;
        guard.disarm();
        Ok(record.exit_code)
    });
    Ok(process)
}

/// Connects a client to a container, whose `end` is waited for. `closes_stdin`: its input ends with the client.
///
/// # Errors
/// The container does not run.
pub async fn attach_connected(
    link: &MonitorLink,
    container: &ContainerId,
    streams: StandardStreams,
    closes_stdin: bool,
    end: impl Future<Output = ()> + Send + 'static,
) -> Result<Process, ExecError> {
    let mut theirs = Vec::new();
    let slot = |theirs: &mut Vec<OwnedFd>, wanted: bool| -> Result<_, ExecError> {
        let source = wanted.then(|| output(theirs)).transpose()?;
        Ok(source.map(|source| (source, Slot::try_from(theirs.len() - 1).unwrap_or(Slot::MAX))).unzip())
    };
    let (stdout, stdout_slot) = slot(&mut theirs, streams.stdout)?;
    let (stderr, stderr_slot) = slot(&mut theirs, streams.stderr)?;
    let stdin = match (streams.stdin, closes_stdin) {
        (false, _) => AttachedStdin::Unwanted,
        (true, false) => AttachedStdin::Shared,
        (true, true) => AttachedStdin::ClosedWithConnection,
    };
    // From here on the input may be ours to end.
    let mut close = CloseOnDrop((stdin == AttachedStdin::ClosedWithConnection).then(|| (link.clone(), container.clone())));
    let lent = link.attach(container.clone(), [stdout_slot, stderr_slot], stdin, theirs).await?;
    let mut process = unended(None, stdout.map(boxed_source), stderr.map(boxed_source));
    match lent {
        Some(master) if streams.tty => {
            let connected = Terminal::new(master).map_err(ExecError::Pipe)?.connect(streams);
            (process.stdin, process.resize) = (connected.stdin, connected.resize);
        }
        Some(writer) if streams.stdin => {
            let sink = pipe::Sender::from_owned_fd(writer).map_err(ExecError::Pipe)?;
            process.stdin = Some(Box::new(AttachedInput { sink, _close: CloseOnDrop(close.0.take()) }));
        }
        _ => {}
    }
    process.end = Box::pin(async move {
        // Of a terminal, or of an input that is closed already: until the session ends.
        let _close = close;
        end.await;
        Ok(0)
    });
    Ok(process)
}

fn unended(
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
) -> Process {
    Process { stdin, stdout, stderr, resize: None, end: Box::pin(std::future::pending()) }
}

fn boxed_source(source: pipe::Receiver) -> Box<dyn AsyncRead + Send + Unpin> {
    Box::new(source)
}

fn pipe_error(errno: Errno) -> ExecError {
    ExecError::Pipe(errno.into())
}

/// A pipe that the process writes to, whose writing end goes with the message.
fn output(theirs: &mut Vec<OwnedFd>) -> Result<pipe::Receiver, ExecError> {
    let (reader, writer) = io::pipe().map_err(ExecError::Pipe)?;
    widen(&writer);
    theirs.push(writer.into());
    pipe::Receiver::from_owned_fd(reader.into()).map_err(ExecError::Pipe)
}

/// A pipe that the process reads, whose reading end goes with the message.
fn input(theirs: &mut Vec<OwnedFd>) -> Result<pipe::Sender, ExecError> {
    let (reader, writer) = io::pipe().map_err(ExecError::Pipe)?;
    widen(&writer);
    theirs.push(reader.into());
    pipe::Sender::from_owned_fd(writer.into()).map_err(ExecError::Pipe)
}

fn widen(pipe: &io::PipeWriter) {
    // One that stays as it was is slower, and no worse.
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
}

/// The terminal's master, which the newborn has sent before it became its program.
fn take_master(channel: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(channel, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)?;
    let received = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    received.ok_or(Errno::BADMSG)
}

/// Ends a container's input when its client is gone, however that comes.
struct CloseOnDrop(Option<(MonitorLink, ContainerId)>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some((link, container)) = self.0.take() {
            tokio::spawn(async move {
                if let Err(error) = link.close_stdin(container.clone()).await {
                    tracing::debug!(%container, %error, "its input was not closed");
                }
            });
        }
    }
}

/// A command's input. Its end is one for the command only if the client has said so: a pipe that breaks off is held open until the command is
/// killed, which must not take the half for the whole.
struct CommandInput {
    sink: Option<pipe::Sender>,
    broken_off: Arc<Mutex<Option<pipe::Sender>>>,
}

impl Drop for CommandInput {
    fn drop(&mut self) {
        // Nothing that holds it can panic.
        *self.broken_off.lock().unwrap_or_else(PoisonError::into_inner) = self.sink.take();
    }
}

impl AsyncWrite for CommandInput {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.sink {
            Some(sink) => Pin::new(sink).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink = None;
        Poll::Ready(Ok(()))
    }
}

/// A container's input, as long as a client has it.
struct AttachedInput {
    sink: pipe::Sender,
    _close: CloseOnDrop,
}

impl AsyncWrite for AttachedInput {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.sink).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sink).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sink).poll_shutdown(context)
    }
}

/// A terminal's master.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        // Deprecated since a descriptor might be closed under the reactor: this one is owned, and never taken out.
        #[allow(deprecated)]
        let master = AsyncFd::new(master)?;
        Ok(Self(Arc::new(master)))
    }

    fn connect(self, streams: StandardStreams) -> Process {
        let mut process = unended(None, None, None);
        if streams.stdin {
            process.stdin = Some(Box::new(self.clone()));
        }
        if streams.stdout {
            process.stdout = Some(Box::new(self.clone()));
        }
        process.resize = Some(Box::new(move |size: TerminalSize| {
            let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
            // One whose process is gone has no size.
            let _ = tcsetwinsize(self.0.get_ref(), size);
        }));
        process
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let read = ready.try_io(|master| Ok(rustix::io::read(master, &mut *buffer.initialize_unfilled())?));
            match read {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_not_ready) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            match ready.try_io(|master| Ok(rustix::io::write(master, bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => return Poll::Ready(written),
                Err(_not_ready) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
