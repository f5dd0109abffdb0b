//! Lists of CPUs and memory nodes (`cpuset(7)`, "List format").

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// More CPUs or memory nodes than any kernel is built for.
const ID_MAX: u32 = 65_535;

/// Numbers of CPUs or of memory nodes, such as `0-3,7`. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdList(BTreeSet<u32>);

/// The text is no [`IdList`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a list of numbers and ranges is due, like 0-3,7")]
pub struct InvalidIdList;

impl IdList {
    /// Those that `other` does not have, as a list; `None`: it has all.
    pub fn missing_in(&self, other: &Self) -> Option<Self> {
        let missing: BTreeSet<u32> = self.0.difference(&other.0).copied().collect();
        (!missing.is_empty()).then_some(Self(missing))
    }
}

impl FromStr for IdList {
    type Err = InvalidIdList;

    fn from_str(text: &str) -> Result<Self, InvalidIdList> {
        let mut ids = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(InvalidIdList);
            }
            ids.extend(first..=last);
        }
        Ok(Self(ids))
    }
}

fn number(text: &str) -> Result<u32, InvalidIdList> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| plain && *id <= ID_MAX).ok_or(InvalidIdList)
}

impl fmt::Display for IdList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> IdList {
        text.parse().expect(text)
    }

    #[test]
    fn ranges_and_numbers_are_read_and_nothing_else() {
        assert_eq!(list("0-3,7").to_string(), "0-3,7");
        assert_eq!(list("7,2,1,0,3-3").to_string(), "0-3,7");
        for text in ["", ",", "0,", "all", "-1", "1-", "3-1", "0 1", "+1", "0-65536", "99999999999", "0-1-2", "0\n"] {
            assert_eq!(text.parse::<IdList>(), Err(InvalidIdList), "{text:?}");
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        assert_eq!(list("0-1").missing_in(&list("0-7")), None);
        assert_eq!(list("0-9").missing_in(&list("0-7")).map(|missing| missing.to_string()), Some("8-9".to_owned()));
    }
}
