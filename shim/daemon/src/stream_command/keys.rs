//! The keys by which a terminal is taken off a container: Ctrl-P, Ctrl-Q.

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// What has been typed. A Ctrl-P waits for the key after it, which says what it was meant for.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    is_first_typed: bool,
}

impl DetachKeys {
    /// Adds to `passed` what the container is to get of what was typed; whether both keys were among it. What came after them is dropped.
    pub(super) fn feed(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> bool {
        for &key in typed {
            if self.is_first_typed {
                if key == CTRL_Q {
                    return true;
                }
                passed.push(CTRL_P);
            }
            self.is_first_typed = key == CTRL_P;
            if !self.is_first_typed {
                passed.push(key);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_both_keys_one_after_the_other_detach_and_nothing_else_is_lost() {
        for (typed, passed, is_detached) in [
            (&[&b"ab"[..]][..], &b"ab"[..], false),
            (&[b"a\x10", b"\x11b"], b"a", true),
            (&[b"\x10\x11"], b"", true),
            (&[b"\x10\x10\x11"], b"\x10", true),
            (&[b"\x10", b"x\x11"], b"\x10x\x11", false),
            (&[b"\x11\x10"], b"\x11", false),
        ] {
            let (mut keys, mut got) = (DetachKeys::default(), Vec::new());
            let detached = typed.iter().any(|typed| keys.feed(typed, &mut got));
            assert_eq!((&*got, detached), (passed, is_detached), "{typed:?}");
        }
    }
}
