//! Whom a request is about, before its object has an id.

use super::common::shortened;
use podbox_proto::v1;
use std::fmt;

/// What a request calls its object. For messages: it may well be what is wrong with the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(String);

/// Text of a request that is not checked yet: bounded, on one line.
fn shown(text: &str) -> String {
    shortened(text).escape_debug().to_string()
}

impl Subject {
    /// `sandbox NAMESPACE/NAME`
    #[must_use]
    pub fn of_sandbox(config: Option<&v1::PodSandboxConfig>) -> Self {
        let metadata = config.and_then(|config| config.metadata.as_ref());
        Self(match metadata.filter(|metadata| !metadata.name.is_empty()) {
            Some(metadata) => format!("sandbox {}/{}", shown(&metadata.namespace), shown(&metadata.name)),
            None => "a sandbox without a name".to_owned(),
        })
    }

    /// `container NAME of sandbox ID`
    #[must_use]
    pub fn of_container(request: &v1::CreateContainerRequest) -> Self {
        let metadata = request.config.as_ref().and_then(|config| config.metadata.as_ref());
        let sandbox = shown(&request.pod_sandbox_id);
        Self(match metadata.filter(|metadata| !metadata.name.is_empty()) {
            Some(metadata) => format!("container {} of sandbox {sandbox}", shown(&metadata.name)),
            None => format!("a container without a name of sandbox {sandbox}"),
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_what_is_wrong_is_shown_bounded_and_on_one_line() {
        let named = |name: &str| {
            let metadata = v1::PodSandboxMetadata { name: name.to_owned(), namespace: "n".to_owned(), ..Default::default() };
            Subject::of_sandbox(Some(&v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() })).to_string()
        };
        assert_eq!(named("web"), "sandbox n/web");
        assert_eq!(named("a\nb"), "sandbox n/a\\nb");
        assert_eq!(named(""), "a sandbox without a name");
        assert!(named(&"x".repeat(1 << 20)).len() < 100);
    }
}
