//! What a refusal must look like.

use std::fmt::Debug;
use tonic::{Code, Status};

/// Asserts that a call was refused with this code and a message that holds each of the words.
///
/// # Panics
/// It was not.
#[track_caller]
pub fn assert_refused<T: Debug>(outcome: Result<T, Status>, code: Code, words: &[&str]) {
    let status = match outcome {
        Ok(answer) => panic!("expected {code:?}, got the answer {answer:?}"),
        Err(status) => status,
    };
    assert_eq!(status.code(), code, "{}", status.message());
    for word in words {
        assert!(status.message().contains(word), "{word:?} is not in the message: {}", status.message());
    }
}
