//! systemd over D-Bus: the scopes that pods are, and which driver a node has.
//!
//! Each operation has a connection of its own, to the system bus, or where there is none to systemd's private socket. Nothing
//! is kept: a bus that is started anew breaks no later call, and signals of other units wake nobody. What is started or stopped is
//! waited for by its job (`org.freedesktop.systemd1(5)`), within a bound.
//!
//! systemd may execute itself anew at any moment, and an answer or the end of a job is lost then, though what was asked for may be done.
//! So whatever gets no answer is asked for again, within the same bound. To stop and to kill what is gone is success; and a scope that is
//! there when it is asked for once more is the one that was asked for before, since its name is that of one sandbox.
//!
//! Slices that are absent are made along with the scope, and systemd stops them when they are needed no more
//! (`StopWhenUnneeded=`): whoever made one and died leaves nothing, and none is stopped under a pod that is just coming.

use crate::config::CgroupDriver;
use futures_util::StreamExt;
use podbox_cgroup::systemd::{Scope, absent_slices};
use podbox_cgroup::{Cgroup, CgroupPath, Driver, Hierarchies, Version};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use zbus::connection::Builder;
use zbus::message::{Message, Type};
use zbus::{Connection, DBusError, MatchRule, MessageStream, OwnedObjectPath, Variant};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PRIVATE_SOCKET: &str = "unix:path=/run/systemd/private";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// What is there where systemd is the first process (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";

/// D-Bus errors that say nothing of what was asked for: systemd, or the bus, went away before the answer, or is not back yet.
const LOST: [&str; 7] = [
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.Disconnected",
    "org.freedesktop.DBus.Error.NoServer",
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.Timeout",
    "org.freedesktop.DBus.Error.TimedOut",
];
/// The bus tried to start systemd for us.
const LOST_PREFIX: &str = "org.freedesktop.DBus.Error.Spawn.";

/// A machine that is just starting answers late.
const REACH_TIMEOUT: Duration = Duration::from_secs(60);
/// What has not been answered, and whose job has not ended by then, is asked for once more.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts; the pauses double up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often one looks whether a process is in its scope.
const LOOK: Duration = Duration::from_millis(20);
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than [`SCOPE_STOP_TIMEOUT`], after which systemd kills what is left.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const SCOPE_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// `SIGKILL`
const KILL: i32 = 9;

type Properties<'a> = Vec<(&'a str, Variant<'a>)>;

/// systemd did not do something.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Neither bus nor socket takes connections.
    #[error("connect to systemd over D-Bus")]
    Connect(#[source] Box<zbus::Error>),
    /// It refused.
    #[error("have systemd {operation} {unit}")]
    Call {
        /// A verb.
        operation: &'static str,
        /// The unit.
        unit: String,
        /// What it said.
        source: Box<zbus::Error>,
    },
    /// It went away, or the bus did, before the job's end was told.
    #[error("have systemd {operation} {unit}: the connection ended before the job did")]
    Lost {
        /// A verb.
        operation: &'static str,
        /// The unit.
        unit: String,
    },
    /// It tried and failed.
    #[error("have systemd {operation} {unit}: the job ended as {result:?}")]
    Job {
        /// A verb.
        operation: &'static str,
        /// The unit.
        unit: String,
        /// The job's result in systemd's words.
        result: String,
    },
    /// It takes its time.
    #[error("systemd did not {operation} {unit} within {seconds} s")]
    Late {
        /// A verb.
        operation: &'static str,
        /// The unit.
        unit: String,
        /// How long was waited.
        seconds: u64,
    },
}

/// A node that cannot have the driver that is configured, or whose driver cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Another init.
    #[error("systemd is not the first process here ({BOOTED} is absent): choose \"cgroupfs\" or \"auto\"")]
    NotBooted,
    /// Controllers on v1.
    #[error("the systemd driver needs cgroup v2 alone, and this host has controllers on v1: choose \"cgroupfs\" or \"auto\"")]
    V1,
    /// It does not answer. Another driver than before would lose sight of the pods that run, so none is chosen instead.
    #[error("systemd is the first process here and cannot be reached; \"cgroupfs\" goes without it")]
    Unreachable(#[source] SystemdError),
}

/// The driver that a node has: the configured one; where that is `auto`, systemd if it is the first process, on cgroup v2, else
/// cgroupfs. What is chosen depends on nothing that passes.
///
/// # Errors
/// systemd is configured and cannot be had, or is to be had and does not answer within a minute.
pub async fn choose_driver(configured: CgroupDriver, host: &Hierarchies) -> Result<Driver, DriverError> {
    let available = match configured {
        CgroupDriver::Cgroupfs => return Ok(Driver::Cgroupfs),
        CgroupDriver::Auto | CgroupDriver::Systemd => is_available(host).await,
    };
    match available {
        Ok(()) => Ok(Driver::Systemd),
        Err(DriverError::NotBooted | DriverError::V1) if configured == CgroupDriver::Auto => Ok(Driver::Cgroupfs),
        Err(error) => Err(error),
    }
}

async fn is_available(host: &Hierarchies) -> Result<(), DriverError> {
    if !Path::new(BOOTED).is_dir() {
        return Err(DriverError::NotBooted);
    }
    if host.version() != Version::V2 {
        return Err(DriverError::V1);
    }
    let reached = persistently("find", "-.slice", REACH_TIMEOUT, |_| async {
        // The one unit that is always there.
        Manager::connect("find", "-.slice").await?.call("GetUnit", &("-.slice",)).await.map(drop)
    });
    reached.await.map_err(DriverError::Unreachable)
}

/// Makes a pod's scope with a process in it, and the slices above it that are absent.
///
/// # Errors
/// What was made is to be undone by [`stop_scope`], which tolerates that there is nothing.
pub async fn start_scope(host: &Hierarchies, scope: &Scope, pid: u32) -> Result<(), SystemdError> {
    let began = Instant::now();
    let started = persistently("start", scope.unit(), START_TIMEOUT, |again| async move {
        let manager = Manager::connect("start", scope.unit()).await?;
        let absent: Vec<String> = absent_slices(host, scope.slice()).iter().map(ToString::to_string).collect();
        let mut started = manager.start_scope(scope, pid, &absent).await;
        // Somebody else makes the slice at this moment, or has a file for it: then it is theirs.
        if !absent.is_empty() && started.as_ref().is_err_and(|error| error.is_named(UNIT_EXISTS)) {
            started = manager.start_scope(scope, pid, &[]).await;
        }
        match started {
            Err(error) if again && error.is_named(UNIT_EXISTS) => Ok(Started::Before),
            other => other.map(|()| Started::Now),
        }
    });
    match started.await? {
        Started::Now => Ok(()),
        Started::Before => wait_inside(host, scope, pid, began + START_TIMEOUT).await,
    }
}

/// Which attempt made a scope.
enum Started {
    /// The last one, to the end of its job.
    Now,
    /// One that was not answered.
    Before,
}

/// Waits for a process to be in its scope: for the end of a job of which nobody tells any more.
async fn wait_inside(host: &Hierarchies, scope: &Scope, pid: u32, deadline: Instant) -> Result<(), SystemdError> {
    // A scope whose path is none was not asked for.
    let Ok(path) = scope.path() else { return Ok(()) };
    while !is_inside(host, &path, pid) {
        if Instant::now() >= deadline {
            return Err(late("start", scope.unit(), START_TIMEOUT));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn is_inside(host: &Hierarchies, path: &CgroupPath, pid: u32) -> bool {
    let processes = Cgroup::at(host, path).processes(false).unwrap_or_default();
    i32::try_from(pid).is_ok_and(|pid| processes.contains(&pid))
}

/// Stops a scope, and whatever runs in it; absent is success.
///
/// # Errors
/// Something in it does not end.
pub async fn stop_scope(unit: &str) -> Result<(), SystemdError> {
    // While a unit is stopped, stopping it once more joins the same job.
    persistently("stop", unit, STOP_TIMEOUT, |_| async move {
        let manager = Manager::connect("stop", unit).await?;
        match manager.run_job("StopUnit", &(unit, "replace")).await {
            Err(error) if error.is_named(NO_SUCH_UNIT) => Ok(()),
            other => other,
        }
    })
    .await
}

/// Kills everything in a scope; absent is success.
///
/// # Errors
/// systemd cannot be asked.
pub async fn kill_scope(unit: &str) -> Result<(), SystemdError> {
    persistently("kill", unit, STOP_TIMEOUT, |_| async move {
        match Manager::connect("kill", unit).await?.call("KillUnit", &(unit, "all", KILL)).await {
            Err(error) if error.is_named(NO_SUCH_UNIT) => Ok(()),
            other => other.map(drop),
        }
    })
    .await
}

/// Makes attempts until one is answered, or the time is over; those after the first are told that they are.
async fn persistently<T, F: Future<Output = Result<T, SystemdError>>>(
    operation: &'static str,
    unit: &str,
    limit: Duration,
    mut attempt: impl FnMut(bool) -> F,
) -> Result<T, SystemdError> {
    let deadline = Instant::now() + limit;
    let (mut again, mut pause) = (false, FIRST_PAUSE);
    loop {
        let attempt_ends = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
        let error = match timeout_at(attempt_ends, attempt(again)).await {
            Ok(Err(error)) if error.is_lost() => error,
            Ok(answer) => return answer,
            Err(_) => late(operation, unit, limit),
        };
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        tracing::debug!(unit, operation, error = %crate::chain::Chain(&error), "systemd is asked once more");
        sleep(pause).await;
        (again, pause) = (true, (pause * 2).min(LONGEST_PAUSE));
    }
}

fn late(operation: &'static str, unit: &str, limit: Duration) -> SystemdError {
    SystemdError::Late { operation, unit: unit.to_owned(), seconds: limit.as_secs() }
}

impl SystemdError {
    /// Whether nobody knows what became of what was asked for.
    fn is_lost(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Lost { .. } => true,
            Self::Call { source, .. } => match &**source {
                // What D-Bus itself says; systemd's own errors are of another kind.
                zbus::Error::FDO(said) => LOST.contains(&said.name().as_str()) || said.name().as_str().starts_with(LOST_PREFIX),
                zbus::Error::InputOutput(_) => true,
                _ => false,
            },
            Self::Job { .. } | Self::Late { .. } => false,
        }
    }

    /// Whether systemd gave this D-Bus error.
    fn is_named(&self, name: &str) -> bool {
        match self {
            Self::Call { source, .. } => matches!(&**source, zbus::Error::MethodError(given, _, _) if given.as_str() == name),
            _ => false,
        }
    }
}

/// systemd's manager object, asked for the sake of one unit.
struct Manager<'a> {
    connection: Connection,
    operation: &'static str,
    unit: &'a str,
}

impl<'a> Manager<'a> {
    async fn connect(operation: &'static str, unit: &'a str) -> Result<Self, SystemdError> {
        let connection = match Builder::system().build().await {
            Ok(connection) => connection,
            Err(_) => {
                let direct = Builder::address(PRIVATE_SOCKET).p2p().build().await;
                direct.map_err(|source| SystemdError::Connect(Box::new(source)))?
            }
        };
        Ok(Self { connection, operation, unit })
    }

    fn failed(&self, source: zbus::Error) -> SystemdError {
        // Whatever was on its way went with it.
        if self.connection.is_closed() {
            return SystemdError::Lost { operation: self.operation, unit: self.unit.to_owned() };
        }
        SystemdError::Call { operation: self.operation, unit: self.unit.to_owned(), source: Box::new(source) }
    }

    async fn call<B: serde::Serialize + zbus::DynamicType>(&self, method: &'static str, body: &B) -> Result<Message, SystemdError> {
        let answer = self.connection.call_method(Some(SYSTEMD), OBJECT, Some(MANAGER), method, body).await;
        answer.map_err(|source| self.failed(source))
    }

    /// Calls a method that answers with a job, and waits for the job's end.
    async fn run_job<B: serde::Serialize + zbus::DynamicType>(&self, method: &'static str, body: &B) -> Result<(), SystemdError> {
        let rule = MatchRule::builder().msg_type(Type::Signal).interface(MANAGER).member("JobRemoved").arg(2, self.unit);
        let rule = rule.build().map_err(|source| self.failed(source))?;
        // Listened for before it can come.
        let ends = MessageStream::for_match_rule(rule, &self.connection, None).await;
        let mut ends = ends.map_err(|source| self.failed(source))?;
        let answer = self.call(method, body).await?;
        let job: OwnedObjectPath = answer.body().deserialize().map_err(|source| self.failed(source))?;
        // A connection that ends, ends the stream.
        while let Some(end) = ends.next().await {
            let body = end.map_err(|source| self.failed(source))?.body();
            let (_, ended, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize().map_err(|source| self.failed(source))?;
            if ended != job {
                continue;
            }
            return match result.as_str() {
                "done" => Ok(()),
                _ => Err(SystemdError::Job { operation: self.operation, unit: self.unit.to_owned(), result }),
            };
        }
        Err(SystemdError::Lost { operation: self.operation, unit: self.unit.to_owned() })
    }

    async fn start_scope(&self, scope: &Scope, pid: u32, absent: &[String]) -> Result<(), SystemdError> {
        let slices: Vec<(&str, Properties<'_>)> =
            absent.iter().map(|name| (name.as_str(), vec![("StopWhenUnneeded", true.into())])).collect();
        self.run_job("StartTransientUnit", &(scope.unit(), "replace", scope_properties(scope, pid), slices)).await
    }
}

/// What a pod's scope is. No limit stands here: the pod's are the slice's, the containers' below the scope.
fn scope_properties(scope: &Scope, pid: u32) -> Properties<'static> {
    vec![
        ("Description", "a podbox pod".into()),
        ("Slice", scope.slice().name().into()),
        ("PIDs", vec![pid].into()),
        ("Delegate", true.into()),
        // At the end of the machine, pods go when the kubelet says so and with the rest at the latest.
        ("DefaultDependencies", false.into()),
        // Nothing of it stays to be looked at, also not where its last process was killed.
        ("CollectMode", "inactive-or-failed".into()),
        // Scopes have a share of the machine's tasks otherwise.
        ("TasksMax", u64::MAX.into()),
        ("TimeoutStopUSec", u64::try_from(SCOPE_STOP_TIMEOUT.as_micros()).unwrap_or(u64::MAX).into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use podbox_cgroup::systemd::Slice;

    #[tokio::test]
    async fn cgroupfs_needs_nothing_and_systemd_is_refused_with_a_reason_where_it_is_not() {
        let host = Hierarchies::discover().expect("cgroups");
        assert_eq!(choose_driver(CgroupDriver::Cgroupfs, &host).await.expect("always"), Driver::Cgroupfs);
        if !Path::new(BOOTED).exists() {
            let refused = choose_driver(CgroupDriver::Systemd, &host).await.expect_err("no systemd here");
            assert!(refused.to_string().contains(BOOTED), "{refused}");
            assert_eq!(choose_driver(CgroupDriver::Auto, &host).await.expect("the other one"), Driver::Cgroupfs);
        }
    }

    fn refused_with(error: zbus::fdo::Error) -> SystemdError {
        SystemdError::Call { operation: "stop", unit: "a.scope".to_owned(), source: Box::new(zbus::Error::FDO(Box::new(error))) }
    }

    #[tokio::test]
    async fn what_gets_no_answer_is_asked_for_again_and_what_is_refused_is_not() {
        use std::future::{pending, ready};
        use zbus::fdo::Error as E;
        let mut lost = vec![E::SpawnChildExited(String::new()), E::NameHasNoOwner(String::new()), E::NoReply(String::new())];
        let mut calls = Vec::new();
        let answer = persistently("stop", "a.scope", STOP_TIMEOUT, |again| {
            calls.push(again);
            ready(lost.pop().map_or(Ok(7), |error| Err(refused_with(error))))
        });
        assert_eq!(answer.await.expect("the fourth"), 7);
        assert_eq!(calls, [false, true, true, true]);

        let mut calls = 0;
        let refused = persistently("stop", "a.scope", STOP_TIMEOUT, |_| {
            calls += 1;
            ready(Err::<(), _>(refused_with(E::AccessDenied(String::new()))))
        });
        assert!(matches!(refused.await, Err(SystemdError::Call { .. })));
        assert_eq!(calls, 1);

        let silent = |_| ready(Err::<(), _>(refused_with(E::NoReply(String::new()))));
        let never = persistently("stop", "a.scope", Duration::from_millis(200), silent).await;
        assert!(matches!(never, Err(error) if error.is_lost()), "the last thing that was heard");
        let late = persistently("stop", "a.scope", Duration::from_millis(200), |_| pending()).await;
        assert!(matches!(late, Err::<(), _>(SystemdError::Late { .. })));
    }

    #[test]
    fn a_scope_is_delegated_and_unlimited() {
        let scope = Scope::new(Slice::new("a-b.slice").expect("well-formed"), "1");
        let properties = scope_properties(&scope, 7);
        let is = |name: &str, value: Variant<'_>| properties.iter().any(|(known, given)| *known == name && *given == value);
        assert!(is("Delegate", true.into()) && is("Slice", "a-b.slice".into()) && is("TasksMax", u64::MAX.into()));
        assert!(properties.iter().all(|(name, _)| !name.starts_with("Device")), "systemd would attach a program of its own");
    }
}
