//! Images as the CRI shows them.

use podbox_image::ImageRecord;
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

/// A list's entry. Nothing is pinned: podbox needs no image of its own.
pub(super) fn image(record: &ImageRecord) -> v1::Image {
    let (uid, username) = user(&record.config.user);
    v1::Image {
        id: record.id.to_string(),
        repo_tags: record.repo_tags.clone(),
        repo_digests: record.repo_digests.clone(),
        size: record.size_bytes,
        uid,
        username,
        spec: Some(v1::ImageSpec { image: record.id.to_string(), ..Default::default() }),
        pinned: false,
    }
}

/// The verbose part of ImageStatus.
pub(super) fn info(record: &ImageRecord, config: Option<&str>) -> BTreeMap<String, String> {
    let config: Option<serde_json::Value> = config.and_then(|text| serde_json::from_str(text).ok());
    let layers: Vec<String> = record.layers.iter().map(ToString::to_string).collect();
    let info = json!({ "chainID": layers.last(), "layers": layers, "imageSpec": config });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
