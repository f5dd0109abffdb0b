//! The API is upstream's to the last field: our descriptor set against the table that `tests/cri-table` printed from
//! the module `k8s.io/cri-api`.

mod table;

use podbox_proto::FILE_DESCRIPTOR_SET;
use table::{Table, difference, of_descriptor_set, parse};

const UPSTREAM: &str = include_str!("cri-v1-0.37.2.table");

fn count(table: &Table, kind: &str) -> usize {
    table.iter().filter(|line| line.split(' ').next() == Some(kind)).count()
}

#[test]
fn every_service_message_field_and_enum_value_equals_upstream() {
    let difference = difference(&parse(UPSTREAM), &of_descriptor_set(FILE_DESCRIPTOR_SET));
    assert!(difference.is_empty(), "api.proto differs from cri-api 0.37.2:\n{difference}");
}

#[test]
fn the_table_holds_the_whole_api() {
    let upstream = parse(UPSTREAM);
    let runtime = upstream.iter().filter(|line| line.starts_with("method runtime.v1.RuntimeService ")).count();
    let image = upstream.iter().filter(|line| line.starts_with("method runtime.v1.ImageService ")).count();
    assert_eq!((runtime, image), (37, 6));
    assert_eq!(count(&upstream, "service"), 2);
    assert_eq!(count(&upstream, "message"), 175);
    assert_eq!(count(&upstream, "field"), 478);
    assert_eq!(count(&upstream, "enum"), 11);
    assert_eq!(count(&upstream, "value"), 95);
}

/// Drops each line in turn, on either side, and changes each: the comparison must name exactly that line.
#[test]
fn a_difference_in_any_one_line_is_found() {
    let ours = of_descriptor_set(FILE_DESCRIPTOR_SET);
    let upstream = parse(UPSTREAM);
    for line in &upstream {
        let mut fewer = upstream.clone();
        fewer.remove(line);
        assert_eq!(difference(&fewer, &ours), format!("ours      {line}\n"));
        assert_eq!(difference(&upstream, &fewer), format!("upstream  {line}\n"));
        fewer.insert(format!("{line} changed"));
        assert_eq!(difference(&fewer, &ours), format!("ours      {line}\nupstream  {line} changed\n"));
    }
}

/// The reader of descriptors sees what it is meant to compare: each of these edits of our own descriptor shows.
#[test]
fn an_edit_of_the_descriptor_is_found() {
    let upstream = parse(UPSTREAM);
    let edits: [(&[u8], &[u8]); 4] = [
        (b"SIGNAL_SIGABRT", b"SIGNAL_SIGABRR"),
        (b"image_sub_path", b"image_sup_path"),
        (b"imageSubPath", b"imageSupPath"),
        (b"StreamPodSandboxes\x12", b"StreamPodSandboxen\x12"),
    ];
    for (from, to) in edits {
        let edited = replace_once(FILE_DESCRIPTOR_SET, from, to);
        let found = difference(&upstream, &of_descriptor_set(&edited));
        assert_eq!(found.lines().count(), 2, "{}:\n{found}", String::from_utf8_lossy(to));
    }
}

fn replace_once(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "lengths inside the descriptor must stay true");
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the descriptor holds the text");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}
