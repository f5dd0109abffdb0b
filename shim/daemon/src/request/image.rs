//! `ImageSpec`, where a container names an image.

use super::common::{bounded_text, labels, name, shortened};
use super::{Labels, RequestError};
use podbox_proto::v1;
use serde::{Deserialize, Serialize};

/// The image that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRequest {
    /// A name or an id.
    pub image: String,
    /// As the pod's author wrote it; echoed.
    pub user_specified_image: String,
    /// Echoed.
    pub annotations: Labels,
    /// The digest that the kubelet found for an image volume; echoed.
    #[serde(default)]
    pub image_ref: String,
}

impl ImageRequest {
    /// Checks what the request says in `field`.
    pub(super) fn new(field: &'static str, image: v1::ImageSpec) -> Result<Self, RequestError> {
        let part = |part: &str| format!("{field}.{part}");
        if !image.runtime_handler.is_empty() {
            let handler = shortened(&image.runtime_handler);
            return Err(RequestError::invalid(part("runtime_handler"), format!("there is no runtime handler {handler:?}")));
        }
        Ok(Self {
            image: name(part("image"), image.image)?,
            user_specified_image: bounded_text(part("user_specified_image"), image.user_specified_image)?,
            annotations: labels(part("annotations"), image.annotations)?,
            image_ref: bounded_text(part("image_ref"), image.image_ref)?,
        })
    }
}
