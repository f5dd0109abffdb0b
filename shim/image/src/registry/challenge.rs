//! What a 401 asks for: the `WWW-Authenticate` header (RFC 9110, section 11.6.1), of which registries use `Basic` and `Bearer`.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Longer headers are no challenges.
const HEADER_LEN_MAX: usize = 8 * 1024;

/// What is asked for; `Bearer` goes before `Basic` where both would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Some(text) = value.to_str().ok().filter(|text| text.len() <= HEADER_LEN_MAX) else { continue };
            for (scheme, parameters) in challenges(text) {
                if scheme.eq_ignore_ascii_case("bearer") {
                    let get = |name: &str| {
                        let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
                    };
                    if let Some(realm) = get("realm") {
                        return Some(Self::Bearer { realm, service: get("service"), scope: get("scope") });
                    }
                } else if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

type Parameters = Vec<(String, String)>;

/// Takes a header apart: schemes with their parameters. What is malformed ends it.
fn challenges(text: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word_len = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if word_len == 0 {
            return found;
        }
        let (word, after) = rest.split_at(word_len);
        match after.trim_start().strip_prefix('=') {
            // A word with a value is a parameter of the scheme before it.
            Some(value) => {
                let Some((value, after)) = parameter_value(value.trim_start()) else { return found };
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_owned(), value));
                }
                rest = after;
            }
            None => {
                found.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let len = text.find(|c: char| !is_token(c)).unwrap_or(text.len());
        return Some((text[..len].to_owned(), &text[len..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().expect("a header"));
        }
        Challenge::of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let usual = r#"Bearer realm="https://auth.test/token",service="reg.test",scope="repository:a/b:pull,push""#;
        assert_eq!(of(&[usual]), bearer("https://auth.test/token", Some("reg.test"), Some("repository:a/b:pull,push")));
        assert_eq!(of(&["Basic realm=\"x, y=\\\"z\\\"\""]), Some(Challenge::Basic));
        assert_eq!(of(&["basic"]), Some(Challenge::Basic));
        assert_eq!(of(&["Basic realm=a, Bearer realm=\"r\""]), bearer("r", None, None));
        assert_eq!(of(&["Basic realm=a", "BEARER realm = \"r\" , service=s"]), bearer("r", Some("s"), None));
        assert_eq!(of(&["Negotiate"]), None);
        assert_eq!(of(&["Bearer"]), None, "a token server is due");
        assert_eq!(of(&["Bearer realm=\"never ends"]), None);
        assert_eq!(of(&[]), None);
    }
}
