//! Checks and values that sandboxes and containers share.

use super::RequestError;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Labels or annotations: returned as they came.
pub type Labels = BTreeMap<String, String>;

/// One object's labels, or its annotations: Kubernetes bounds annotations to 256 KiB an object.
const LABELS_BYTES_MAX: usize = 256 * 1024;
/// Names of pods, containers and namespaces; Kubernetes' own bound is 253.
const NAME_BYTES_MAX: usize = 1024;
/// `PATH_MAX`, less the NUL.
const PATH_BYTES_MAX: usize = 4095;

pub(super) fn labels(field: impl Into<Cow<'static, str>>, labels: BTreeMap<String, String>) -> Result<Labels, RequestError> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > LABELS_BYTES_MAX {
        return Err(RequestError::invalid(field, format!("{bytes} bytes are over the limit of {LABELS_BYTES_MAX}")));
    }
    Ok(labels)
}

pub(super) fn name(field: impl Into<Cow<'static, str>>, name: String) -> Result<String, RequestError> {
    if name.is_empty() {
        return Err(RequestError::invalid(field, "is required"));
    }
    bounded_text(field, name)
}

/// Text that ends up in names and messages: bounded, without control characters.
pub(super) fn bounded_text(field: impl Into<Cow<'static, str>>, text: String) -> Result<String, RequestError> {
    if text.len() > NAME_BYTES_MAX {
        return Err(RequestError::invalid(field, format!("{} bytes are over the limit of {NAME_BYTES_MAX}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(RequestError::invalid(field, "holds a control character"));
    }
    Ok(text)
}

pub(super) fn absolute_path(field: &'static str, text: &str) -> Result<PathBuf, RequestError> {
    if !text.starts_with('/') {
        return Err(RequestError::invalid(field, format!("an absolute path is due, not {:?}", shortened(text))));
    }
    checked_path(field, text)
}

pub(super) fn checked_path(field: &'static str, text: &str) -> Result<PathBuf, RequestError> {
    if text.len() > PATH_BYTES_MAX {
        return Err(RequestError::invalid(field, format!("{} bytes are over a path's limit of {PATH_BYTES_MAX}", text.len())));
    }
    if text.contains('\0') {
        return Err(RequestError::invalid(field, "holds a NUL byte"));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn has_parent_component(path: &Path) -> bool {
    path.components().any(|part| matches!(part, Component::ParentDir))
}

/// The beginning of a text, for messages.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Reads an enum of the CRI; numbers outside it are errors, not defaults.
pub(super) fn enum_value<E: TryFrom<i32>>(field: &'static str, number: i32) -> Result<E, RequestError> {
    E::try_from(number).map_err(|_| RequestError::invalid(field, format!("{number} is no value of this enumeration")))
}

/// Checks an id of the kernel's: 0 to 2³²−2 (the last one means "no change" to `setresuid(2)`).
pub(super) fn kernel_id(field: &'static str, value: i64) -> Result<u32, RequestError> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(RequestError::invalid(field, format!("{value} is no user or group id"))),
    }
}
