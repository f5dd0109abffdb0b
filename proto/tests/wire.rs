//! What the daemon relies on when messages meet the wire or a log.

use podbox_proto::v1::{AuthConfig, ContainerConfig, KeyValue, PodSandboxConfig, PullImageRequest, Signal};
use prost::Message as _;

const UPSTREAM: &str = include_str!("cri-v1-0.37.2.table");

#[test]
fn an_environment_value_that_is_not_utf8_survives_the_wire() {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let config = ContainerConfig { envs: vec![KeyValue { key: "BLOB".to_owned(), value: every_byte.clone() }], ..Default::default() };
    let back = ContainerConfig::decode(config.encode_to_vec().as_slice()).expect("decode what was just encoded");
    assert_eq!(back, config);
    assert_eq!(back.envs[0].value, every_byte);
    assert!(std::str::from_utf8(&back.envs[0].value).is_err());
}

#[test]
fn equal_maps_encode_to_equal_bytes_in_whatever_order_they_were_filled() {
    let labels = |order: &[usize]| PodSandboxConfig {
        labels: order.iter().map(|n| (format!("key{n}"), "v".to_owned())).collect(),
        ..Default::default()
    };
    assert_eq!(labels(&[1, 2, 3]).encode_to_vec(), labels(&[3, 1, 2]).encode_to_vec());
}

#[test]
fn a_number_that_no_signal_has_reads_as_the_default_and_is_kept() {
    let config = ContainerConfig { stop_signal: 4711, ..Default::default() };
    let back = ContainerConfig::decode(config.encode_to_vec().as_slice()).expect("decode what was just encoded");
    assert_eq!(back.stop_signal(), Signal::RuntimeDefault);
    assert!(Signal::try_from(back.stop_signal).is_err());
    assert_eq!(back.stop_signal, 4711);
}

#[test]
fn debug_output_never_shows_a_credential() {
    let request = PullImageRequest {
        auth: Some(AuthConfig {
            username: "someone".to_owned(),
            password: "hidden-1".to_owned(),
            auth: "hidden-2".to_owned(),
            server_address: "registry.example".to_owned(),
            identity_token: "hidden-3".to_owned(),
            registry_token: String::new(),
        }),
        ..Default::default()
    };
    for shown in [format!("{request:?}"), format!("{request:#?}")] {
        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("someone") && shown.contains("registry.example"), "{shown}");
        assert!(shown.contains("redacted") && shown.contains("unset"), "{shown}");
    }
}

/// Whoever marks another field must write that message's `Debug` as well.
#[test]
fn only_auth_config_has_fields_to_redact() {
    let marked: Vec<&str> = UPSTREAM.lines().filter(|line| line.contains("debug_redact")).collect();
    assert_eq!(marked.len(), 4);
    assert!(marked.iter().all(|line| line.starts_with("field runtime.v1.AuthConfig ")), "{marked:#?}");
}
