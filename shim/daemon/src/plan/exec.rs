//! A process that is executed in a running container.

use super::lower::{become_program, set_limits};
use super::user_namespace::command_in_user_namespace;
use super::{ContainerPlan, PlanError, SpecError};
use crate::request::UserMode;
use podbox_plan::{ByteString, CgroupEntry, ContainerId, LaunchPlan, NewNamespaces, Op, PidNamespace, ProcessRef, Stdio, UserNamespace};
use std::borrow::Cow;

/// Plans a process in a container: in all its namespaces and its cgroup, as its user, with its environment. At a
/// terminal, that says what kind it is.
///
/// # Errors
/// The container's spec lacks a part that every spec of ours has.
pub fn plan_exec(
    container: &ContainerId,
    plan: &ContainerPlan,
    command: &[String],
    cgroup: CgroupEntry,
    stdio: Stdio,
) -> Result<LaunchPlan, PlanError> {
    let process = plan.spec.process().as_ref().ok_or(PlanError::Spec(SpecError { part: "process" }))?;
    let of = ProcessRef::Container(container.clone());
    let mut ops = vec![
        Op::SetOomScoreAdj { value: process.oom_score_adj().unwrap_or_default() },
        set_limits(process)?,
        Op::Join { of: of.clone(), mount: true, net: true, ipc: true, uts: true, cgroup: true },
        Op::ConnectStdio,
        Op::WorkingDirectory { path: process.cwd().clone(), create: false },
    ];
    let mut environment = Cow::Borrowed(&plan.environment);
    if matches!(stdio, Stdio::PassedTerminal { .. }) && !environment.iter().any(|variable| variable.0.starts_with(b"TERM=")) {
        environment.to_mut().push(ByteString(b"TERM=xterm".to_vec()));
    }
    ops.extend(become_program(process, command, &environment));
    let user = match plan.users {
        UserMode::Node => UserNamespace::Host,
        UserMode::Pod(mappings) => {
            ops = command_in_user_namespace(ops);
            UserNamespace::Of { process: of.clone(), mappings }
        }
    };
    plan.confinement.apply(&mut ops);
    Ok(LaunchPlan {
        namespaces: NewNamespaces::default(),
        pid: PidNamespace::Of(of),
        user,
        cgroup: CgroupEntry { kill_rest_on_exit: false, ..cgroup },
        stdio,
        ops,
        exit_record: None,
    })
}
