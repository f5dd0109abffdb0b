//! Filters that were compiled, kept by what they were compiled from: compiling takes some tens of milliseconds, and pods come by the
//! hundred.

use super::{CompileError, Filter, Profile, ProfileError, Surroundings, compile, runtime_default};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The most filters that are kept. A node has as many profiles as it has kinds of programs.
const FILTERS_MAX: usize = 64;

/// No filter can be had.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The profile is none.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// It cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// What a filter was compiled from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Origin {
    /// SHA-256 of the profile's text; `None`: the runtime's own.
    profile: Option<[u8; 32]>,
    surroundings: Surroundings,
}

/// A filter, and whether it was there already.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The filter.
    pub filter: Arc<Filter>,
    /// It was compiled just now.
    pub is_new: bool,
}

#[derive(Debug, Default)]
struct Kept {
    /// With the moment of their last use.
    filters: HashMap<Origin, (Arc<Filter>, u64)>,
    moment: u64,
}

/// Filters by what they are of. A profile is compiled once also if several ask at the same time.
#[derive(Debug, Default)]
pub struct Filters(Mutex<Kept>);

impl Filters {
    /// The filter of podbox's own profile.
    ///
    /// # Errors
    /// libseccomp fails.
    pub fn runtime_default(&self, surroundings: Surroundings) -> Result<Compiled, FilterError> {
        let origin = Origin { profile: None, surroundings };
        self.find_or_make(origin, |surroundings| Ok(compile(&runtime_default(), surroundings)?))
    }

    /// The filter of a profile by its text.
    ///
    /// # Errors
    /// The text is no profile, or one that cannot be compiled.
    pub fn of_profile(&self, text: &[u8], surroundings: Surroundings) -> Result<Compiled, FilterError> {
        let origin = Origin { profile: Some(Sha256::digest(text).into()), surroundings };
        self.find_or_make(origin, |surroundings| Ok(compile(&Profile::parse(text)?, surroundings)?))
    }

    fn find_or_make(
        &self,
        origin: Origin,
        make: impl FnOnce(&Surroundings) -> Result<Filter, FilterError>,
    ) -> Result<Compiled, FilterError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.moment += 1;
        let now = kept.moment;
        if let Some((filter, last_use)) = kept.filters.get_mut(&origin) {
            *last_use = now;
            return Ok(Compiled { filter: filter.clone(), is_new: false });
        }
        let filter = Arc::new(make(&origin.surroundings)?);
        if kept.filters.len() >= FILTERS_MAX
            && let Some(oldest) = kept.filters.iter().min_by_key(|(_, (_, last_use))| *last_use).map(|(origin, _)| origin.clone())
        {
            kept.filters.remove(&oldest);
        }
        kept.filters.insert(origin, (filter.clone(), now));
        Ok(Compiled { filter, is_new: true })
    }
}
