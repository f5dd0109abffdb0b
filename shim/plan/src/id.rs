//! Identifiers of sandboxes and containers: 64 lower-case hexadecimal digits, as the CRI's other runtimes have them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A text that is no identifier. It is never echoed whole: it may be megabytes of somebody's input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier: 64 lower-case hexadecimal digits are due")]
pub struct InvalidId;

const LENGTH: usize = 64;

fn is_id(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier spelled by 32 random bytes.
            #[must_use]
            pub fn from_random(bytes: [u8; 32]) -> Self {
                use fmt::Write as _;
                let mut text = String::with_capacity(LENGTH);
                for byte in bytes {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{byte:02x}");
                }
                Self(text)
            }

            /// The 64 digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                if is_id(&text) { Ok(Self(text)) } else { Err(InvalidId) }
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;

            fn try_from(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.0[..12])
            }
        }
    };
}

id! {
    /// The identifier of a pod sandbox.
    SandboxId
}
id! {
    /// The identifier of a container.
    ContainerId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lower_case_hex_digits_are_an_id() {
        assert!(SandboxId::try_from("a1".repeat(32)).is_ok());
        for bad in ["", "../..", "A1", &"a".repeat(63), &"a".repeat(65), &"g".repeat(64), &"A".repeat(64)] {
            assert_eq!(SandboxId::try_from(bad), Err(InvalidId));
        }
        assert_eq!(ContainerId::from_random([0xab; 32]).as_str(), "ab".repeat(32));
    }
}
