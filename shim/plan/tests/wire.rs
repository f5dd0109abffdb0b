//! The protocol's promises: bounds hold on both sides, descriptors arrive, a large message is whole.

use podbox_plan::wire::{DESCRIPTORS_MAX, MESSAGE_BYTES_MAX, PACKET_BYTES_MAX, Request, RequestBody, WireError, receive, send};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair")
}

#[test]
fn a_small_message_arrives_with_its_descriptors() {
    let (ours, theirs) = pair();
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let request = Request { id: 7, body: RequestBody::State };
    send(&ours, &request, &[writer.as_fd()]).expect("send");
    drop(writer);
    let got = receive::<Request>(&theirs).expect("receive");
    assert_eq!(got.message, request);
    let mut file = std::fs::File::from(got.descriptors.into_iter().next().expect("a descriptor"));
    file.write_all(b"through").expect("write");
    drop(file);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    assert_eq!(text, "through");
}

#[test]
fn a_message_larger_than_a_packet_is_whole() {
    let (ours, theirs) = pair();
    for bytes in [PACKET_BYTES_MAX - 2, PACKET_BYTES_MAX - 1, PACKET_BYTES_MAX, 3 * 1024 * 1024] {
        let text = "x".repeat(bytes);
        send(&ours, &text, &[]).expect("send");
        assert_eq!(receive::<String>(&theirs).expect("receive").message, text);
    }
}

#[test]
fn bounds_are_errors_and_send_nothing() {
    let (ours, theirs) = pair();
    let text = "x".repeat(MESSAGE_BYTES_MAX);
    assert!(matches!(send(&ours, &text, &[]), Err(WireError::TooLarge { .. })));
    let many = vec![ours.as_fd(); DESCRIPTORS_MAX + 1];
    assert!(matches!(send(&ours, &"x", &many), Err(WireError::TooManyDescriptors)));
    drop(ours);
    assert!(matches!(receive::<String>(&theirs), Err(WireError::Closed)));
}

#[test]
fn hostile_packets_are_errors() {
    let (ours, theirs) = pair();
    for (packet, what) in
        [(&b"memfd"[..], "NoMemfd"), (b"{\"id\":", "Malformed"), (b"\xff\xfe", "Malformed"), (&[b'7'; PACKET_BYTES_MAX + 1], "Truncated")]
    {
        rustix::net::send(&ours, packet, SendFlags::empty()).expect("send");
        let error = receive::<Request>(&theirs).expect_err(what);
        assert!(format!("{error:?}").starts_with(what), "{error:?} is not {what}");
    }
    // A memfd that its sender can still change is refused.
    let open = rustix::fs::memfd_create("open", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    let unsealed = [open.as_fd()];
    assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&unsealed)));
    rustix::net::sendmsg(&ours, &[std::io::IoSlice::new(b"memfd")], &mut ancillary, SendFlags::empty()).expect("send");
    assert!(matches!(receive::<Request>(&theirs), Err(WireError::NoMemfd)));
}
