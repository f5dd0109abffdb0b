//! systemd over D-Bus: the scopes that pods are, and which driver a node has.
//!
//! Each operation has a connection of its own, to the system bus, or where there is none to systemd's private socket. Nothing
//! is kept: a bus that is started anew breaks no later call, and signals of other units wake nobody. What is started or stopped is
//! waited for by its job (`org.freedesktop.systemd1(5)`), within a bound.
//!
//! Slices that are absent are made along with the scope, and systemd stops them when they are needed no more
//! (`StopWhenUnneeded=`): whoever made one and died leaves nothing, and none is stopped under a pod that is just coming.

use crate::config::CgroupDriver;
use futures_util::StreamExt;
use podbox_cgroup::systemd::{Scope, absent_slices};
use podbox_cgroup::{Driver, Hierarchies, Version};
use std::path::Path;
use std::time::Duration;
use zbus::connection::Builder;
use zbus::message::{Message, Type};
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, Variant};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PRIVATE_SOCKET: &str = "unix:path=/run/systemd/private";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// What is there where systemd is the first process (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";

/// A busy systemd answers late; a bus that does not answer at all must not hold up the start.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);
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

/// `cgroup.driver = "systemd"` on a node that cannot have it.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Another init.
    #[error("systemd is not the first process here ({BOOTED} is absent)")]
    NotBooted,
    /// Controllers on v1.
    #[error("the systemd driver needs cgroup v2 alone, and this host has v1")]
    V1,
    /// It does not answer.
    #[error("systemd cannot be reached")]
    Unreachable(#[source] SystemdError),
}

/// The driver that a node has: the configured one; where that is `auto`, systemd if it is the first process, on cgroup v2, and
/// can be reached, else cgroupfs.
///
/// # Errors
/// systemd is configured and cannot be had.
pub async fn choose_driver(configured: CgroupDriver, host: &Hierarchies) -> Result<Driver, DriverError> {
    let available = match configured {
        CgroupDriver::Cgroupfs => return Ok(Driver::Cgroupfs),
        CgroupDriver::Auto | CgroupDriver::Systemd => is_available(host).await,
    };
    match available {
        Ok(()) => Ok(Driver::Systemd),
        Err(error) if configured == CgroupDriver::Systemd => Err(error),
        Err(error) => {
            if let DriverError::Unreachable(_) = error {
                tracing::warn!(error = %crate::chain::Chain(&error), "cgroups are made in the file systems");
            }
            Ok(Driver::Cgroupfs)
        }
    }
}

async fn is_available(host: &Hierarchies) -> Result<(), DriverError> {
    if !Path::new(BOOTED).is_dir() {
        return Err(DriverError::NotBooted);
    }
    if host.version() != Version::V2 {
        return Err(DriverError::V1);
    }
    let reached = async {
        // The one unit that is always there.
        Manager::connect("find", "-.slice").await?.call("GetUnit", &("-.slice",)).await.map(drop)
    };
    bounded("find", "-.slice", REACH_TIMEOUT, reached).await.map_err(DriverError::Unreachable)
}

/// Makes a pod's scope with a process in it, and the slices above it that are absent.
///
/// # Errors
/// What was made is to be undone by [`stop_scope`], which tolerates that there is nothing.
pub async fn start_scope(host: &Hierarchies, scope: &Scope, pid: u32) -> Result<(), SystemdError> {
    bounded("start", scope.unit(), START_TIMEOUT, async {
        let manager = Manager::connect("start", scope.unit()).await?;
        let absent: Vec<String> = absent_slices(host, scope.slice()).iter().map(ToString::to_string).collect();
        let started = manager.start_scope(scope, pid, &absent).await;
        match started {
            // Somebody else makes the slice at this moment, or has a file for it: then it is theirs.
            Err(error) if !absent.is_empty() && error.is_named(UNIT_EXISTS) => manager.start_scope(scope, pid, &[]).await,
            other => other,
        }
    })
    .await
}

/// Stops a scope, and whatever runs in it; absent is success.
///
/// # Errors
/// Something in it does not end.
pub async fn stop_scope(unit: &str) -> Result<(), SystemdError> {
    bounded("stop", unit, STOP_TIMEOUT, async {
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
    bounded("kill", unit, STOP_TIMEOUT, async {
        match Manager::connect("kill", unit).await?.call("KillUnit", &(unit, "all", KILL)).await {
            Err(error) if error.is_named(NO_SUCH_UNIT) => Ok(()),
            other => other.map(drop),
        }
    })
    .await
}

async fn bounded<T>(
    operation: &'static str,
    unit: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, SystemdError>>,
) -> Result<T, SystemdError> {
    let late = || SystemdError::Late { operation, unit: unit.to_owned(), seconds: limit.as_secs() };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

impl SystemdError {
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
        Err(self.failed(zbus::Error::InvalidReply))
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

    #[test]
    fn a_scope_is_delegated_and_unlimited() {
        let scope = Scope::new(Slice::new("a-b.slice").expect("well-formed"), "1");
        let properties = scope_properties(&scope, 7);
        let is = |name: &str, value: Variant<'_>| properties.iter().any(|(known, given)| *known == name && *given == value);
        assert!(is("Delegate", true.into()) && is("Slice", "a-b.slice".into()) && is("TasksMax", u64::MAX.into()));
        assert!(properties.iter().all(|(name, _)| !name.starts_with("Device")), "systemd would attach a program of its own");
    }
}
