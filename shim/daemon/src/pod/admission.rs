//! Names, and who waits for what they are being given to.
//!
//! ```text
//! (free) ─ admit ─► Making ─ finish(Ok), somebody waits ─► Taken ─ release ─► (free)
//!                     │ └─── finish(Ok), nobody waits ──► Unclaimed ─ same request ─► Taken
//!                     └───── finish(Err) ─► (free)
//! ```
//!
//! A caller that gives up does not stop the making; the same request coming again joins it, or claims what it made. So does one that
//! comes after the daemon died between the making and the answer: what is found on record is offered.

use std::collections::HashMap;
use std::hash::Hash;

/// A waiting caller.
pub(super) trait Waiter<I, E> {
    /// Tells the outcome; whether the caller is still there to hear it.
    fn tell(self, outcome: Result<I, E>) -> bool;
}

/// What becomes of a request for a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<W> {
    /// The name is free: the caller waits, and the making is to begin.
    Begin,
    /// The same request is under way, or done and unclaimed: the caller waits or was told.
    Joined,
    /// Another request has the name.
    Refused(W),
}

#[derive(Debug)]
enum Entry<C, I, W> {
    Making { config: C, waiters: Vec<W> },
    Unclaimed { config: C, made: I },
    Taken,
}

/// The names of one kind of object.
#[derive(Debug)]
pub(super) struct Admissions<K, C, I, W> {
    entries: HashMap<K, Entry<C, I, W>>,
}

impl<K, C, I, W> Default for Admissions<K, C, I, W> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<K: Eq + Hash, C: PartialEq, I: Clone, W> Admissions<K, C, I, W> {
    /// A request comes in.
    pub fn admit<E>(&mut self, key: K, config: C, waiter: W) -> Verdict<W>
    where
        W: Waiter<I, E>,
    {
        match self.entries.get_mut(&key) {
            None => {
                self.entries.insert(key, Entry::Making { config, waiters: vec![waiter] });
                Verdict::Begin
            }
            Some(Entry::Making { config: other, waiters }) if *other == config => {
                waiters.push(waiter);
                Verdict::Joined
            }
            Some(Entry::Unclaimed { config: other, made }) if *other == config => {
                if waiter.tell(Ok(made.clone())) {
                    self.entries.insert(key, Entry::Taken);
                }
                Verdict::Joined
            }
            Some(_) => Verdict::Refused(waiter),
        }
    }

    /// A making ends.
    pub fn finish<E: Clone>(&mut self, key: K, outcome: Result<I, E>)
    where
        W: Waiter<I, E>,
    {
        let Some(Entry::Making { config, waiters }) = self.entries.remove(&key) else { return };
        let mut heard = false;
        for waiter in waiters {
            heard |= waiter.tell(outcome.clone());
        }
        match outcome {
            Ok(_) if heard => self.entries.insert(key, Entry::Taken),
            Ok(made) => self.entries.insert(key, Entry::Unclaimed { config, made }),
            Err(_) => None,
        };
    }

    /// A name that was given before this daemon was, to something that nobody has used since: the caller may never have heard of it.
    pub fn offer(&mut self, key: K, config: C, made: I) {
        self.entries.insert(key, Entry::Unclaimed { config, made });
    }

    /// A name that was given before this daemon was.
    pub fn take(&mut self, key: K) {
        self.entries.insert(key, Entry::Taken);
    }

    /// The object is gone.
    pub fn release(&mut self, key: &K) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    type Heard = Rc<RefCell<Vec<Result<u32, ()>>>>;

    struct Caller {
        present: bool,
        heard: Heard,
    }

    impl Waiter<u32, ()> for Caller {
        fn tell(self, outcome: Result<u32, ()>) -> bool {
            if self.present {
                self.heard.borrow_mut().push(outcome);
            }
            self.present
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Admit { config: u8, present: bool },
        Finish { works: bool },
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..2_u8, any::<bool>()).prop_map(|(config, present)| Step::Admit { config, present }),
            any::<bool>().prop_map(|works| Step::Finish { works }),
            Just(Step::Release),
        ]
    }

    proptest! {
        /// Whatever comes in whichever order: one making at a time, and an object is never told of to two different requests.
        #[test]
        fn a_name_is_made_once_and_never_given_twice(steps in prop::collection::vec(step(), 0..40)) {
            let mut names: Admissions<&str, u8, u32, Caller> = Admissions::default();
            let (mut making, mut made, mut next) = (None, None, 0_u32);
            for step in steps {
                match step {
                    Step::Admit { config, present } => {
                        let heard = Heard::default();
                        let verdict = names.admit("a", config, Caller { present, heard: heard.clone() });
                        match verdict {
                            Verdict::Begin => {
                                prop_assert!(making.is_none() && made.is_none());
                                making = Some(config);
                            }
                            Verdict::Joined => prop_assert!(making == Some(config) || made == Some(config)),
                            Verdict::Refused(_) => prop_assert!(making.is_some() || made.is_some()),
                        }
                        prop_assert!(heard.borrow().iter().all(|outcome| *outcome == Ok(next)));
                    }
                    Step::Finish { works } => if let Some(config) = making.take() {
                        if works {
                            next += 1;
                            made = Some(config);
                            names.finish("a", Ok::<u32, ()>(next));
                        } else {
                            names.finish("a", Err::<u32, ()>(()));
                        }
                    },
                    Step::Release => if making.is_none() {
                        names.release(&"a");
                        made = None;
                    },
                }
            }
        }
    }

    #[test]
    fn what_nobody_waited_for_is_claimed_by_the_retry() {
        let mut names: Admissions<&str, u8, u32, Caller> = Admissions::default();
        let caller = |present| (Heard::default(), present);
        let (heard, present) = caller(false);
        assert!(matches!(names.admit("a", 1, Caller { present, heard }), Verdict::Begin));
        names.finish("a", Ok::<u32, ()>(7));
        let (heard, present) = caller(true);
        assert!(matches!(names.admit("a", 2, Caller { present, heard }), Verdict::Refused(_)), "another request");
        let (heard, present) = caller(true);
        assert!(matches!(names.admit("a", 1, Caller { present, heard: heard.clone() }), Verdict::Joined));
        assert_eq!(*heard.borrow(), [Ok(7)]);
        let (heard, present) = caller(true);
        assert!(matches!(names.admit("a", 1, Caller { present, heard }), Verdict::Refused(_)), "it was claimed");
    }
}
