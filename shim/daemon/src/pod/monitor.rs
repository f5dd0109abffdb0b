//! Finding a pod's monitor, and what it watches.
//!
//! That the connection is lost says nothing of the monitor: it lets go of a daemon that does not read, and a daemon that runs out of
//! descriptors lets go of it. Only where nobody listens on its socket is it gone.

use crate::chain::Chain;
use crate::effects::{MonitorError, MonitorEvent, MonitorLink, connect_monitor, kill_monitor};
use crate::plan::MONITOR_SOCKET;
use crate::request::KILL;
use podbox_plan::wire::RunningProcess;
use podbox_plan::{ContainerId, ProcessRef, SandboxId};
use rustix::io::Errno;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// A monitor that closes a connection which it has just taken is about to end, or somebody else connected: this often it is
/// asked again.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// A monitor that answers.
#[derive(Debug)]
pub(super) struct Monitor {
    pub link: MonitorLink,
    /// Must be held while the link is used: the connection ends with it.
    pub events: mpsc::Receiver<MonitorEvent>,
    /// What it watches.
    pub processes: Vec<RunningProcess>,
}

/// What became of the search for a monitor.
#[derive(Debug)]
pub(super) enum Found {
    Answers(Monitor),
    /// Nobody listens.
    Gone,
    /// It is there and of no use.
    Silent(MonitorError),
    /// The daemon has too little of something to ask.
    Hindered(MonitorError),
}

/// Looks for the monitor whose socket stands in a pod's folder.
pub(super) async fn find_monitor(folder: &Path) -> Found {
    for _ in 0..TRIES {
        match ask(folder).await {
            Ok(monitor) => return Found::Answers(monitor),
            Err(MonitorError::Connect(Errno::CONNREFUSED | Errno::NOENT)) => return Found::Gone,
            Err(MonitorError::Gone) => tokio::time::sleep(PAUSE).await,
            Err(
                error @ (MonitorError::Connect(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) | MonitorError::Spawn { .. }),
            ) => {
                return Found::Hindered(error);
            }
            Err(error) => return Found::Silent(error),
        }
    }
    Found::Silent(MonitorError::Gone)
}

async fn ask(folder: &Path) -> Result<Monitor, MonitorError> {
    let (link, events) = connect_monitor(folder, MONITOR_SOCKET).await?;
    let processes = link.state().await?;
    Ok(Monitor { link, events, processes })
}

impl Monitor {
    pub fn watches_pause(&self) -> bool {
        self.processes.iter().any(|process| process.process == ProcessRef::Pause)
    }

    /// The process of a container's init, if it runs.
    pub fn init_of(&self, id: &ContainerId) -> Option<&RunningProcess> {
        self.processes.iter().find(|running| matches!(&running.process, ProcessRef::Container(of) if of == id))
    }

    /// Containers whose init runs.
    pub fn containers(&self) -> impl Iterator<Item = &ContainerId> {
        self.processes.iter().filter_map(|running| match &running.process {
            ProcessRef::Container(id) => Some(id),
            ProcessRef::Pause | ProcessRef::Exec(_) => None,
        })
    }
}

/// Kills commands that were started over an earlier connection: with it went whoever waited for them.
pub(super) async fn end_orphaned_commands(link: &MonitorLink, processes: &[RunningProcess]) {
    for running in processes {
        if matches!(running.process, ProcessRef::Exec(_)) {
            // One that has ended meanwhile, or whose monitor has, needs no kill.
            let _ = link.signal(running.process.clone(), KILL, true).await;
        }
    }
}

/// A monitor that is stopped or hangs holds up its pod for ever; everything it could still tell of is killed already.
/// `pid` is what is known of it.
pub(super) async fn end_silent_monitor(id: &SandboxId, pid: Option<i32>, error: &MonitorError) {
    let (of, chain) = (id.clone(), Chain(error).to_string());
    // Looks at every process, if need be.
    match tokio::task::spawn_blocking(move || kill_monitor(&of, pid)).await {
        Ok(0) | Err(_) => tracing::error!(sandbox = %id, error = chain, "the pod's monitor is gone"),
        Ok(_) => tracing::error!(sandbox = %id, error = chain, "the pod's monitor did not answer and is killed"),
    }
}
