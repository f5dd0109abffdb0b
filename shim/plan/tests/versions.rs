//! What the versions of the protocol say is settled: every form of every message is held against what is written down.

use podbox_plan::wire::{
    AttachedStdin, Event, LaunchFailure, MonitorMessage, Reply, ReplyBody, Request, RequestBody, RunningProcess, VERSION_MAX,
};
use podbox_plan::{
    BindPropagation, BindSource, CapabilitySets, CgroupEntry, ContainerId, DeviceNode, ExitRecord, FileSystem, IdRange, ImageLayers,
    LaunchPlan, LimitKind, LogTarget, MountAttributes, NewNamespaces, NodeKind, Op, OpenedDevice, Overlay, PidNamespace, ProcessLimit,
    ProcessRef, Program, SecurityModule, Stdio, TargetKind, UserMappings, UserNamespace,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Write;

const WRITTEN_DOWN: &str = include_str!("versions.txt");

const ATTRIBUTES: MountAttributes = MountAttributes { read_only: true, no_suid: true, no_dev: true, no_exec: true, strict_atime: true };
const IDS: IdRange = IdRange { first_host_id: 65_536, length: 65_536 };
const MAPPINGS: UserMappings = UserMappings { uids: IDS, gids: IDS };

fn container() -> ContainerId {
    ContainerId::try_from("c".repeat(64)).expect("an id")
}

fn overlay(context: Option<&str>) -> Overlay {
    Overlay { lower: vec!["/lower".into()], upper: "/upper".into(), work: "/work".into(), context: context.map(str::to_owned) }
}

fn file_system() -> FileSystem {
    FileSystem { kind: "tmpfs".into(), options: vec![("mode".into(), Some("755".into())), ("flag".into(), None)], attributes: ATTRIBUTES }
}

fn device() -> NodeKind {
    NodeKind::CharDevice { mode: 0o666, major: 1, minor: 3, uid: 0, gid: 0 }
}

fn ops() -> Vec<Op> {
    let all = true;
    vec![
        Op::Join { of: ProcessRef::Pause, mount: all, net: all, ipc: all, uts: all, cgroup: all },
        Op::NewCgroupNamespace,
        Op::SetHostname { name: "host".into() },
        Op::SetSysctl { key: "net.a".into(), value: "1".into() },
        Op::SetOomScoreAdj { value: -998 },
        Op::SetLimits { limits: vec![ProcessLimit { kind: LimitKind::OpenFiles, soft: Some(1), hard: None }] },
        Op::SetExecLabel { module: SecurityModule::AppArmor, label: "profile".into() },
        Op::ReadSeccompFilter { path: "/filter".into() },
        Op::OpenBind(BindSource {
            slot: 1,
            source: "/source".into(),
            recursive: true,
            attributes: ATTRIBUTES,
            recursive_attributes: ATTRIBUTES,
            propagation: BindPropagation::Private,
            id_mapped: true,
        }),
        Op::OpenFromPause { slot: 1, path: "/shm".into() },
        Op::LeaveHostMounts,
        Op::OpenImage(ImageLayers {
            slot: 1,
            lower: vec!["/lower".into()],
            sub_path: Some("sub".into()),
            at: "/at".into(),
            attributes: ATTRIBUTES,
            context: Some("u:r:t:s0".into()),
        }),
        Op::OverlayRoot { overlay: overlay(None), at: "/at".into(), attributes: ATTRIBUTES },
        Op::OverlayRoot { overlay: overlay(Some("u:r:t:s0")), at: "/at".into(), attributes: ATTRIBUTES },
        Op::OpenOverlay { slot: 1, overlay: overlay(Some("u:r:t:s0")), at: "/at".into(), attributes: ATTRIBUTES },
        Op::OpenFileSystem { slot: 1, fs: file_system() },
        Op::OpenDevices { at: "/at".into(), devices: vec![OpenedDevice { slot: 1, kind: device() }] },
        Op::EnterUserNamespace { mount: all, net: all, ipc: all, uts: all, cgroup: all },
        Op::AttachRoot { slot: 1 },
        Op::KeepVolume { target: "/target".into(), root_is_read_only: true },
        Op::EmptyRoot { at: "/at".into() },
        Op::Mount { target: "/target".into(), fs: file_system() },
        Op::Attach { slot: 1, target: "/target".into(), kind: TargetKind::LikeSource },
        Op::MakeNode(DeviceNode { path: "/dev/null".into(), kind: device() }),
        Op::Mask { target: "/target".into() },
        Op::ReadOnlyPath { target: "/target".into() },
        Op::ReadOnlyMount { target: "/target".into() },
        Op::ReadOnlyRoot,
        Op::PivotRoot,
        Op::ConnectStdio,
        Op::WorkingDirectory { path: "/".into(), create: true },
        Op::NoNewPrivileges,
        Op::Credentials { uid: 1, gid: 2, groups: vec![3], capabilities: CapabilitySets { bounding: 1, permitted: 1, ambient: 1 } },
        Op::LoadSeccompFilter { log: true, spec_allow: true, tsync: true },
        Op::Exec { program: Program::FromArguments, arguments: vec!["sh".into()], environment: vec!["A=b".into()] },
    ]
}

fn plan(user: UserNamespace) -> LaunchPlan {
    LaunchPlan {
        namespaces: NewNamespaces { mount: true, net: true, ipc: true, uts: true },
        pid: PidNamespace::New,
        user,
        cgroup: CgroupEntry {
            unified: Some("/unified".into()),
            v1: vec!["/v1".into()],
            oom_counter: Some("/oom".into()),
            kill_rest_on_exit: true,
        },
        stdio: Stdio::Piped { stdin: true, log: Some(LogTarget { path: "/log".into() }) },
        ops: Vec::new(),
        exit_record: Some("/exit".into()),
    }
}

fn requests() -> Vec<RequestBody> {
    let launch = |user| RequestBody::Launch { process: ProcessRef::Container(container()), plan: Box::new(plan(user)) };
    vec![
        RequestBody::Hello { version_min: 0, version_max: 0 },
        launch(UserNamespace::Host),
        launch(UserNamespace::New(MAPPINGS)),
        RequestBody::Signal { process: ProcessRef::Exec(1), signal: 15, group: true },
        RequestBody::ReopenLog { container: container() },
        RequestBody::Attach { container: container(), stdout: Some(0), stderr: None, stdin: AttachedStdin::Shared },
        RequestBody::CloseStdin { container: container() },
        RequestBody::OpenNetwork,
        RequestBody::State,
        RequestBody::Shutdown,
    ]
}

fn answers() -> Vec<ReplyBody> {
    vec![
        ReplyBody::Hello { version: 0, monitor_pid: 1 },
        ReplyBody::Launched { pid: 1, started_at_ns: 2 },
        ReplyBody::Attached,
        ReplyBody::Network,
        ReplyBody::LaunchFailed(LaunchFailure { step: "step".into(), errno: 1, reason: "reason".into() }),
        ReplyBody::Done,
        ReplyBody::NotRunning,
        ReplyBody::State { processes: vec![RunningProcess { process: ProcessRef::Pause, pid: 1, started_at_ns: 2 }] },
        ReplyBody::Refused { reason: "reason".into() },
    ]
}

fn events() -> Vec<Event> {
    let record = ExitRecord {
        version: 1,
        exit_code: 137,
        signal: Some(9),
        oom_killed: true,
        killed_on_request: true,
        started_at_ns: 1,
        finished_at_ns: 2,
        log_bytes_lost: 3,
    };
    vec![Event::Exited { process: ProcessRef::Pause, record }]
}

/// Names of an enumeration's variants, from what serde says to none of them.
fn variants<T: DeserializeOwned>() -> Vec<String> {
    let said = serde_json::from_str::<T>("\"?\"").err().expect("no such variant").to_string();
    said.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

fn name_of(json: &str) -> String {
    let mut words = json.split('"').skip(1);
    words.next().unwrap_or_default().to_owned()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("JSON")
}

#[test]
fn what_a_version_says_is_settled() {
    let mut found = String::new();
    let mut tell = |version: u32, of: &str, json: String| writeln!(found, "{version} {of} {json}").expect("a string grows");
    for op in ops() {
        tell(op.version_needed(), "op", json(&op));
    }
    for body in requests() {
        tell(body.version_needed(), "request", json(&Request { id: 0, body }));
    }
    let replies = answers().into_iter().map(|body| MonitorMessage::Reply(Reply { id: 0, body }));
    for message in replies.chain(events().into_iter().map(MonitorMessage::Event)) {
        tell(message.version_needed(), "from the monitor", json(&message));
    }
    for (name, variants) in [
        ("ProcessRef", variants::<ProcessRef>()),
        ("PidNamespace", variants::<PidNamespace>()),
        ("UserNamespace", variants::<UserNamespace>()),
        ("Stdio", variants::<Stdio>()),
        ("AttachedStdin", variants::<AttachedStdin>()),
        ("BindPropagation", variants::<BindPropagation>()),
        ("TargetKind", variants::<TargetKind>()),
        ("NodeKind", variants::<NodeKind>()),
        ("Program", variants::<Program>()),
        ("SecurityModule", variants::<SecurityModule>()),
        ("LimitKind", variants::<LimitKind>()),
    ] {
        writeln!(found, "{name}: {}", variants.join(" ")).expect("a string grows");
    }
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/versions.txt");
    std::fs::write(path, &found).expect("write");
    assert!(
        found == WRITTEN_DOWN,
        "the forms of messages have changed: monitors that run do not know what is new. Raise VERSION_MAX, give `version_needed` of \
         what is new that version, and write down what is now in {path}; lines of older versions stay as they are"
    );
}

/// So that none is left out above.
#[test]
fn every_message_has_a_form_that_is_written_down() {
    let names = |forms: Vec<String>| forms.iter().map(|form| name_of(form)).collect::<BTreeSet<_>>();
    let all = |variants: Vec<String>| variants.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(names(ops().iter().map(json).collect()), all(variants::<Op>()));
    assert_eq!(names(requests().iter().map(json).collect()), all(variants::<RequestBody>()));
    assert_eq!(names(answers().iter().map(json).collect()), all(variants::<ReplyBody>()));
    assert_eq!(names(events().iter().map(json).collect()), all(variants::<Event>()));
}

#[test]
fn the_newest_version_is_the_newest_that_anything_needs() {
    let of_ops = ops().iter().map(Op::version_needed).max();
    let of_requests = requests().iter().map(RequestBody::version_needed).max();
    assert_eq!(of_ops.max(of_requests), Some(VERSION_MAX));
}

#[test]
fn a_plan_needs_what_its_newest_part_needs() {
    let of = |user, ops| LaunchPlan { ops, ..plan(user) }.version_needed();
    assert_eq!(of(UserNamespace::Host, vec![Op::PivotRoot, Op::ConnectStdio]), 1);
    assert_eq!(of(UserNamespace::Host, vec![Op::PivotRoot, Op::AttachRoot { slot: 0 }, Op::ConnectStdio]), 2);
    assert_eq!(of(UserNamespace::New(MAPPINGS), vec![Op::PivotRoot]), 2);
}
