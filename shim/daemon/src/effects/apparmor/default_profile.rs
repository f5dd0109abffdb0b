//! Whether podbox's own profile is there: what is known of it, and who loads it.
//!
//! ```text
//! Untried ──► WasThere        from then on nothing starts without the profile that is to have it
//!    └──────► Lacking ──┐     containers that ask for no profile are not confined by one
//!                ▲──────┘     tried again by each who wants it, and those who asked meanwhile take what comes of it
//! ```
//!
//! Nobody who only wants to know waits for one who loads.

use super::{AppArmorError, DEFAULT_PROFILE, is_loaded, load_default};
use crate::chain::Chain;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// podbox's own profile on this node.
#[derive(Debug, Default)]
pub struct DefaultProfile {
    /// Never held while something is waited for.
    known: Mutex<Known>,
    /// Held by who loads.
    loading: Mutex<()>,
}

#[derive(Debug, Default)]
enum Known {
    #[default]
    Untried,
    WasThere,
    Lacking {
        error: Arc<AppArmorError>,
        since: Instant,
    },
}

impl DefaultProfile {
    /// Sees to it that the profile is loaded. This may wait for the parser.
    ///
    /// # Errors
    /// It is not, and cannot be.
    pub fn ensure_loaded(&self) -> Result<(), Arc<AppArmorError>> {
        self.ensure_by(|| is_loaded(DEFAULT_PROFILE).unwrap_or(false), load_default)
    }

    /// Why it could not be had, on a node that never had it.
    #[must_use]
    pub fn lacking(&self) -> Option<String> {
        match &*self.known() {
            Known::Lacking { error, .. } => Some(Chain(&**error).to_string()),
            Known::Untried | Known::WasThere => None,
        }
    }

    fn ensure_by(&self, is_there: impl Fn() -> bool, load: impl FnOnce() -> Result<(), AppArmorError>) -> Result<(), Arc<AppArmorError>> {
        let asked = Instant::now();
        if is_there() {
            *self.known() = Known::WasThere;
            return Ok(());
        }
        let _guard = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Known::Lacking { error, since } = &*self.known()
            && *since >= asked
        {
            return Err(error.clone());
        }
        let loaded = if is_there() { Ok(()) } else { load().map_err(Arc::new) };
        let mut known = self.known();
        match &loaded {
            Ok(()) => *known = Known::WasThere,
            Err(_) if matches!(*known, Known::WasThere) => {}
            Err(error) => {
                if matches!(*known, Known::Untried) {
                    let reason = Chain(&**error).to_string();
                    tracing::warn!(reason, "containers that ask for no AppArmor profile are not confined by one");
                }
                *known = Known::Lacking { error: error.clone(), since: Instant::now() };
            }
        }
        loaded
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::sync::mpsc;
    use std::thread;

    fn absent() -> bool {
        false
    }

    #[test]
    fn what_failed_is_tried_again_by_the_next_who_asks() {
        let profile = DefaultProfile::default();
        assert_eq!(profile.lacking(), None);
        profile.ensure_by(absent, || Err(AppArmorError::NoParser)).expect_err("no parser");
        assert!(profile.lacking().expect("why").contains("not installed"));
        profile.ensure_by(absent, || Ok(())).expect("there is one now");
        assert_eq!(profile.lacking(), None);
    }

    /// Else containers would lose it silently, when somebody unloads it and the parser is gone.
    #[test]
    fn a_node_that_had_it_does_not_come_to_lack_it() {
        let profile = DefaultProfile::default();
        profile.ensure_by(|| true, || Err(AppArmorError::NoParser)).expect("it is there");
        profile.ensure_by(absent, || Err(AppArmorError::NoParser)).expect_err("it is gone");
        assert_eq!(profile.lacking(), None);
    }

    #[test]
    fn who_asks_while_it_is_loaded_takes_what_comes_of_it_and_who_only_looks_does_not_wait() {
        let profile = DefaultProfile::default();
        let tries = AtomicU32::new(0);
        let (begun, is_begun) = mpsc::channel();
        let (finish, is_finished) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (profile, tries) = (&profile, &tries);
            scope.spawn(move || {
                let load = || {
                    tries.fetch_add(1, SeqCst);
                    begun.send(()).expect("somebody waits");
                    is_finished.recv().expect("somebody ends it");
                    Err(AppArmorError::NoParser)
                };
                profile.ensure_by(absent, load).expect_err("no parser");
            });
            is_begun.recv().expect("it is being loaded");
            assert_eq!(profile.lacking(), None);
            let (asks, has_asked) = mpsc::channel();
            for _ in 0..3 {
                let asks = asks.clone();
                scope.spawn(move || {
                    let looks = || {
                        // The first look comes after the asker's time was taken.
                        let _ = asks.send(());
                        false
                    };
                    let load = || {
                        tries.fetch_add(1, SeqCst);
                        Ok(())
                    };
                    profile.ensure_by(looks, load).expect_err("that of the first");
                });
            }
            (0..3).for_each(|_| has_asked.recv().expect("it asks"));
            finish.send(()).expect("it is loading");
        });
        assert_eq!(tries.load(SeqCst), 1);
    }
}
