//! Images as the CRI shows them.

use podbox_image::{ImageRecord, Reference};
use podbox_proto::v1;
use serde_json::json;
use std::collections::BTreeMap;

/// An image's user by the CRI: a number, or else a name.
fn user(user: &str) -> (Option<v1::Int64Value>, String) {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(uid) => (Some(v1::Int64Value { value: i64::from(uid) }), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// A list's entry. Pinned is what the configuration names: podbox needs no image of its own.
pub(super) fn image(record: &ImageRecord, pinned: &[Reference]) -> v1::Image {
    let is_pinned = |name: &Reference| match name.digest() {
        Some(digest) => record.repo_digests.contains(&name.repo_digest(digest)),
        None => name.repo_tag().is_some_and(|tag| record.repo_tags.contains(&tag)),
    };
    let (uid, username) = user(&record.config.user);
    v1::Image {
        id: record.id.to_string(),
        repo_tags: record.repo_tags.clone(),
        repo_digests: record.repo_digests.clone(),
        size: record.size_bytes,
        uid,
        username,
        spec: Some(v1::ImageSpec { image: record.id.to_string(), ..Default::default() }),
        pinned: pinned.iter().any(is_pinned),
    }
}

/// The verbose part of ImageStatus.
pub(super) fn info(record: &ImageRecord, config: Option<&str>) -> BTreeMap<String, String> {
    let config: Option<serde_json::Value> = config.and_then(|text| serde_json::from_str(text).ok());
    let layers: Vec<String> = record.layers.iter().map(ToString::to_string).collect();
    let info = json!({ "chainID": layers.last(), "layers": layers, "imageSpec": config });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
