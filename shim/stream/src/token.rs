//! Requests that wait for their client: each under a token that is good once and for a minute.

use crate::endpoint::{AttachRequest, ExecRequest, PortForwardRequest};
use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests that wait at the same time.
const PENDING_MAX: usize = 1000;
/// How long a token is good.
const LIFETIME: Duration = Duration::from_secs(60);
const TOKEN_BYTES: usize = 16;

/// What a client may come for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// A command.
    Exec(ExecRequest),
    /// A container's streams.
    Attach(AttachRequest),
    /// A pod's ports.
    PortForward(PortForwardRequest),
}

impl Awaited {
    /// The first part of the path that it has in the URL.
    #[must_use]
    pub fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// No token can be given.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Too many wait.
    #[error("{PENDING_MAX} streaming requests wait for their clients")]
    TooMany,
    /// The kernel has no random numbers.
    #[error("get random numbers")]
    Random(#[source] io::Error),
}

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pending: Mutex<HashMap<String, (Awaited, Instant)>>,
}

impl Tokens {
    /// Keeps a request for its client.
    pub(crate) fn issue(&self, awaited: Awaited) -> Result<String, TokenError> {
        let token = random_token().map_err(TokenError::Random)?;
        let now = Instant::now();
        // Nothing that holds it can panic half-way through a change.
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|_, (_, until)| *until > now);
        if pending.len() >= PENDING_MAX {
            return Err(TokenError::TooMany);
        }
        pending.insert(token.clone(), (awaited, now + LIFETIME));
        Ok(token)
    }

    /// Takes a request that waits; the token is good no more.
    pub(crate) fn redeem(&self, token: &str) -> Option<Awaited> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let (awaited, until) = pending.remove(token)?;
        (until > Instant::now()).then_some(awaited)
    }
}

fn random_token() -> io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    let mut filled = 0;
    while filled < TOKEN_BYTES {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().fold(String::with_capacity(2 * TOKEN_BYTES), |mut token, byte| {
        // Strings take all that is written to them.
        let _ = write!(token, "{byte:02x}");
        token
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awaited() -> Awaited {
        Awaited::PortForward(PortForwardRequest { sandbox: "a".to_owned() })
    }

    #[test]
    fn a_token_is_good_once() {
        let tokens = Tokens::default();
        let token = tokens.issue(awaited()).expect("a token");
        assert_eq!(token.len(), 32);
        assert_eq!(tokens.redeem(&token), Some(awaited()));
        assert_eq!(tokens.redeem(&token), None);
        assert_eq!(tokens.redeem(""), None);
    }

    #[test]
    fn so_many_wait_and_no_more_until_one_is_taken_or_old() {
        let tokens = Tokens::default();
        let issued: Vec<String> = (0..PENDING_MAX).map(|_| tokens.issue(awaited()).expect("a token")).collect();
        assert!(matches!(tokens.issue(awaited()), Err(TokenError::TooMany)));
        tokens.redeem(&issued[0]).expect("it waits");
        tokens.issue(awaited()).expect("a token");
        {
            let mut pending = tokens.pending.lock().expect("lock");
            pending.get_mut(&issued[1]).expect("it waits").1 = Instant::now() - Duration::from_secs(1);
        }
        tokens.issue(awaited()).expect("one was too old");
        assert_eq!(tokens.redeem(&issued[1]), None);
    }
}
