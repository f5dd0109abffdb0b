//! Writes a descriptor set in the line format of `tests/cri-table` (described at the top of its `main.go`), and
//! compares two such tables.

use std::collections::BTreeSet;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ServiceDescriptor};
use prost_reflect::{DynamicMessage, FileDescriptor, Syntax};

/// The lines of one table. Their order does not matter: each names all that it belongs to.
pub type Table = BTreeSet<String>;

/// Reads a table.
///
/// # Panics
/// If a line comes twice: then either file or generator is broken.
pub fn parse(text: &str) -> Table {
    let mut table = Table::new();
    for line in text.lines() {
        assert!(table.insert(line.to_owned()), "line comes twice: {line}");
    }
    table
}

/// Tells what is missing from `ours` or is too much in it, one line each, sorted by what it is about; empty if nothing.
pub fn difference(upstream: &Table, ours: &Table) -> String {
    let missing = upstream.difference(ours).map(|line| (line, "upstream "));
    let extra = ours.difference(upstream).map(|line| (line, "ours     "));
    let all: BTreeSet<_> = missing.chain(extra).collect();
    all.into_iter().map(|(line, side)| format!("{side} {line}\n")).collect()
}

/// The table of every file in an encoded `FileDescriptorSet`.
pub fn of_descriptor_set(encoded: &[u8]) -> Table {
    let pool = DescriptorPool::decode(encoded).expect("the descriptor set decodes and resolves");
    let mut lines = Vec::new();
    for file in pool.files() {
        lines.push(format!("file {} {}", syntax(&file), file.package_name()));
    }
    pool.services().for_each(|service| push_service(&mut lines, &service));
    pool.all_messages().filter(|message| !message.is_map_entry()).for_each(|message| push_message(&mut lines, &message));
    pool.all_enums().for_each(|of| push_enum(&mut lines, &of));
    parse(&lines.join("\n"))
}

fn syntax(file: &FileDescriptor) -> &'static str {
    match file.syntax() {
        Syntax::Proto2 => "proto2",
        Syntax::Proto3 => "proto3",
    }
}

fn push_service(lines: &mut Vec<String>, service: &ServiceDescriptor) {
    let name = service.full_name();
    lines.push(format!("service {name}"));
    let streaming = |yes| if yes { "stream" } else { "unary" };
    for method in service.methods() {
        lines.push(format!(
            "method {name} {} {} {} client={} server={}",
            method.name(),
            method.input().full_name(),
            method.output().full_name(),
            streaming(method.is_client_streaming()),
            streaming(method.is_server_streaming()),
        ));
    }
}

fn push_message(lines: &mut Vec<String>, message: &MessageDescriptor) {
    let name = message.full_name();
    lines.push(format!("message {name}"));
    for field in message.fields() {
        let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
        lines.push(format!(
            "field {name} {} {} {} {} oneof={} json={} flags={}",
            field.number(),
            field.name(),
            label(&field),
            type_name(&field),
            oneof.as_ref().map_or("-", |oneof| oneof.name()),
            field.json_name(),
            flags(&field.options(), &["deprecated", "debug_redact"], is_unpacked(&field)),
        ));
    }
}

fn label(field: &FieldDescriptor) -> &'static str {
    if field.is_map() {
        "map"
    } else if field.is_list() {
        "repeated"
    } else if field.field_descriptor_proto().proto3_optional() {
        "optional"
    } else {
        "singular"
    }
}

fn type_name(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            format!("{},{}", type_name(&entry.map_entry_key_field()), type_name(&entry.map_entry_value_field()))
        }
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(of) => of.full_name().to_owned(),
        // The scalar's Debug is its name in the .proto.
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn is_unpacked(field: &FieldDescriptor) -> bool {
    field.field_descriptor_proto().options.as_ref().is_some_and(|options| options.packed == Some(false))
}

fn push_enum(lines: &mut Vec<String>, of: &EnumDescriptor) {
    let name = of.full_name();
    lines.push(format!("enum {name}"));
    for value in of.values() {
        let flags = flags(&value.options(), &["deprecated", "debug_redact"], false);
        lines.push(format!("value {name} {} {} flags={flags}", value.number(), value.name()));
    }
}

/// Names of the boolean options that are set, then `unpacked`; `-` if there are none.
fn flags(options: &DynamicMessage, names: &[&'static str], unpacked: bool) -> String {
    let is_set = |name: &&&str| options.get_field_by_name(name).is_some_and(|value| value.as_bool() == Some(true));
    let mut set: Vec<&str> = names.iter().filter(is_set).copied().collect();
    if unpacked {
        set.push("unpacked");
    }
    if set.is_empty() { "-".to_owned() } else { set.join(",") }
}
