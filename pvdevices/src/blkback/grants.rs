//! The granted pages of a queue: mapped for one request, or kept for many where the frontend says
//! that it uses the same ones again (`feature-persistent`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{Access, Grant, GrantError, GrantTable};

/// Pages that a queue keeps mapped at most: Linux's default of `max_persistent_grants`.
const MAX_KEPT: usize = 1056;
/// One in so many of the kept pages is given back when there is no room for another.
const PURGED: usize = 20;
/// A page that was not used for so long is given back.
const UNUSED: Duration = Duration::from_secs(60);
/// Room is made no oftener than this: a frontend whose set does not fit gets the rest mapped anew
/// for each request, which is cheaper than to change the set all the time.
const PURGE_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Kept {
    grant: Arc<Grant>,
    used: Instant,
}

/// Maps the pages of a queue's requests.
#[derive(Debug)]
pub struct Pages {
    table: Arc<dyn GrantTable>,
    persistent: bool,
    limit: usize,
    kept: HashMap<u32, Kept>,
    /// There was no room for a page since the last purge.
    overflow: bool,
    purged: Instant,
}

impl Pages {
    /// Pages out of `table`, kept mapped if `persistent`.
    #[must_use]
    pub fn new(table: Arc<dyn GrantTable>, persistent: bool, now: Instant) -> Self {
        Self {
            table,
            persistent,
            limit: MAX_KEPT,
            kept: HashMap::new(),
            overflow: false,
            purged: now,
        }
    }

    /// The page behind a grant reference, `write` if the request writes to it.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn get(&mut self, gref: u32, write: bool, now: Instant) -> Result<Arc<Grant>, GrantError> {
        if !self.persistent {
            return self.map(gref, write);
        }
        if let Some(kept) = self.kept.get_mut(&gref) {
            kept.used = now;
            return Ok(kept.grant.clone());
        }
        // What is kept must serve every later request, so it is mapped for writing; a page that the
        // frontend does not share so is nothing to keep.
        let grant = match self.map(gref, true) {
            Err(GrantError::ReadOnly(_)) if !write => return self.map(gref, false),
            grant => grant?,
        };
        if self.kept.len() < self.limit {
            let kept = Kept {
                grant: grant.clone(),
                used: now,
            };
            self.kept.insert(gref, kept);
        } else {
            self.overflow = true;
        }
        Ok(grant)
    }

    /// Maps a page for one use, and keeps nothing: an indirect request's lists.
    ///
    /// # Errors
    /// [`GrantError`].
    pub fn map(&self, gref: u32, write: bool) -> Result<Arc<Grant>, GrantError> {
        let access = if write { Access::Write } else { Access::Read };
        Grant::map(&self.table, gref, access).map(Arc::new)
    }

    /// Gives pages back that were long unused, and the least used ones if there was no room.
    pub fn purge(&mut self, now: Instant) {
        if self.kept.is_empty() || now.duration_since(self.purged) < PURGE_INTERVAL {
            return;
        }
        self.purged = now;
        let idle = |kept: &Kept| Arc::strong_count(&kept.grant) == 1;
        self.kept
            .retain(|_, kept| !idle(kept) || now.duration_since(kept.used) < UNUSED);
        if !std::mem::take(&mut self.overflow) || self.kept.len() < self.limit {
            return;
        }
        let mut oldest: Vec<_> = (self.kept.iter())
            .filter(|(_, kept)| idle(kept))
            .map(|(gref, kept)| (kept.used, *gref))
            .collect();
        oldest.sort_unstable();
        for (_, gref) in oldest.into_iter().take(self.limit.div_ceil(PURGED)) {
            self.kept.remove(&gref);
        }
    }

    /// How many pages are kept mapped.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept.len()
    }
}
