//! How a command ended, as its client reads it: a Kubernetes `Status` on the error stream, or, of clients of old, words alone.

use serde_json::json;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ended by itself with this status, 0–255.
    Exited(i32),
    /// It could not be run, or its end is not known; in words.
    Failed(String),
}

impl Outcome {
    /// Since `v4.channel.k8s.io`.
    pub(crate) fn to_json(&self) -> String {
        match self {
            Self::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.words(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.words(),
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            }),
        }
        .to_string()
    }

    /// Before: nothing, where all is well.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Exited(0) => String::new(),
            Self::Exited(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failed(why) => format!("Internal error occurred: {why}"),
        }
    }

    /// Reads what a server has said; `None` if it is no `Status`.
    #[must_use]
    pub fn from_json(text: &[u8]) -> Option<Self> {
        let status: serde_json::Value = serde_json::from_slice(text).ok()?;
        if status["status"] == "Success" {
            return Some(Self::Exited(0));
        }
        let message = status["message"].as_str().unwrap_or("the command failed").to_owned();
        let causes = status["details"]["causes"].as_array();
        let code = causes.and_then(|causes| causes.iter().find(|cause| cause["reason"] == "ExitCode"));
        let code = code.and_then(|cause| cause["message"].as_str()?.parse().ok());
        Some(code.map_or(Self::Failed(message), Self::Exited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_read_the_status_that_was_written() {
        for outcome in [Outcome::Exited(0), Outcome::Exited(137)] {
            assert_eq!(Outcome::from_json(outcome.to_json().as_bytes()), Some(outcome));
        }
        let failed = Outcome::from_json(Outcome::Failed("no such program".to_owned()).to_json().as_bytes());
        assert_eq!(failed, Some(Outcome::Failed("Internal error occurred: no such program".to_owned())));
        assert_eq!(Outcome::from_json(b"words"), None);
    }
}
