//! `podbox-monitor`: the parent of everything in one pod.
//!
//! ```text
//! podbox-monitor SANDBOX-ID      descriptor 0 is a listening SOCK_SEQPACKET socket made by the daemon
//! ```
//!
//! Where systemd makes the pod's cgroup, a process goes before it: see [`unborn`].
//!
//! It starts processes as [`podbox_plan::LaunchPlan`]s say, keeps their pipes, writes their logs, reaps them and leaves a record of
//! how each ended. The daemon may come and go: nothing here waits for it, and what it must know stands on disk.
//!
//! One thread and one `epoll(7)` loop; a process without anything to do costs no CPU and about a hundred kilobytes. Knows nothing
//! of the CRI, of images or of networks, and decides nothing about a container.

mod birth;
mod child;
mod clock;
mod connection;
mod event_loop;
mod exec_cgroup;
mod exit_record;
mod follower;
mod label;
mod launch;
mod log;
mod output;
mod poll;
mod process;
mod requests;
mod startup;
mod unborn;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(2).is_some_and(|argument| argument == unborn::UNBORN) {
        match unborn::be_born() {
            Ok(unborn::Born::Monitor) => {}
            Ok(unborn::Born::Placeholder) => return ExitCode::SUCCESS,
            Err(error) => return refuse_to_start(&error),
        }
    }
    let prepared = match startup::prepare() {
        Ok(prepared) => prepared,
        Err(error) => return refuse_to_start(&error),
    };
    match event_loop::Monitor::new(prepared) {
        Ok(monitor) => monitor.run(),
        Err(errno) => refuse_to_start(&startup::StartError { step: "watch the listening socket", errno }),
    }
}

/// The one thing that is ever said on standard error; where that leads nowhere, the exit status has to do.
fn refuse_to_start(error: &startup::StartError) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "podbox-monitor: {error}");
    ExitCode::FAILURE
}
