//! What a monitor's socket takes: a packet is a message or an error, whoever sent it.

use crate::cursor::Cursor;
use podbox_plan::wire::{MonitorMessage, PACKET_BYTES_MAX, Request, RequestBody, WireError, receive};
use podbox_plan::{
    CapabilitySets, CgroupEntry, ContainerId, LaunchPlan, NewNamespaces, Op, PidNamespace, ProcessRef, Program, Stdio, TargetKind,
    UserNamespace,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

/// Sends one packet to a reader of requests and one to a reader of replies.
///
/// # Panics
/// What is taken for a message does not survive being sent on, or a packet is taken for the want of one.
pub fn protocol(bytes: &[u8]) {
    let mut cursor = Cursor::new(bytes);
    let noise = cursor.byte().is_multiple_of(4);
    let packet = if noise { cursor.take(PACKET_BYTES_MAX).to_vec() } else { cursor.mutated(&seed()) };
    if packet.is_empty() || packet.len() > PACKET_BYTES_MAX {
        return;
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair of sockets");
    rustix::net::send(&ours, &packet, SendFlags::empty()).expect("send");
    match receive::<Request>(&theirs) {
        Ok(got) => {
            podbox_plan::wire::send(&ours, &got.message, &[]).expect("what was taken can be sent");
            assert_eq!(receive::<Request>(&theirs).expect("and taken again").message, got.message);
            if let RequestBody::Launch { plan, .. } = &got.message.body {
                // Steps are told to people.
                assert!(plan.ops.iter().all(|op| !op.to_string().is_empty()));
            }
        }
        Err(error) => assert!(!matches!(error, WireError::NotReady), "{error:?}"),
    }
    rustix::net::send(&ours, &packet, SendFlags::empty()).expect("send");
    assert!(!matches!(receive::<MonitorMessage>(&theirs), Err(WireError::NotReady)));
}

/// A launch with steps of several shapes.
fn seed() -> Vec<u8> {
    let ops = vec![
        Op::NewCgroupNamespace,
        Op::SetHostname { name: "pod".to_owned() },
        Op::SetSysctl { key: "net.ipv4.ip_forward".to_owned(), value: "1".to_owned() },
        Op::Attach { slot: 1, target: "/volume".into(), kind: TargetKind::LikeSource },
        Op::Mask { target: "/proc/kcore".into() },
        Op::Credentials { uid: 0, gid: 0, groups: vec![1, 2], capabilities: CapabilitySets::default() },
        Op::Exec { program: Program::FromArguments, arguments: vec!["sh".into()], environment: vec!["A=\u{1}".into()] },
    ];
    let plan = LaunchPlan {
        namespaces: NewNamespaces { mount: true, ..NewNamespaces::default() },
        pid: PidNamespace::New,
        user: UserNamespace::Host,
        cgroup: CgroupEntry::default(),
        stdio: Stdio::Closed,
        ops,
        exit_record: Some("/run/exit.json".into()),
    };
    let body = RequestBody::Launch { process: ProcessRef::Container(ContainerId::from_random([7; 32])), plan: Box::new(plan) };
    serde_json::to_vec(&Request { id: 7, body }).expect("a request")
}
