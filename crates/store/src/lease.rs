//! Leases: keys that die together when nobody says any longer that they should live.
//!
//! Kubernetes puts Events under leases of an hour. This is only the book-keeping; who deletes the keys
//! and when is the business of [`crate::core`], and who wakes up for it that of [`crate::engine`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use coracle_clock::Instant;

use crate::{LeaseId, LeaseStatus, Result, StoreError};

/// A lease's terms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) ttl: Duration,
    pub(crate) deadline: Instant,
}

/// Every lease, its terms and its keys.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    leases: BTreeMap<LeaseId, (Terms, BTreeSet<Bytes>)>,
    /// The same, by when they end.
    deadlines: BTreeSet<(Instant, LeaseId)>,
}

impl Leases {
    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(crate) fn terms(&self, id: LeaseId) -> Result<Terms> {
        self.leases.get(&id).map(|(terms, _)| *terms).ok_or(StoreError::LeaseNotFound)
    }

    /// How a lease stands at `now`.
    pub(crate) fn status(&self, id: LeaseId, now: Instant) -> Result<LeaseStatus> {
        let (terms, keys) = self.leases.get(&id).ok_or(StoreError::LeaseNotFound)?;
        let left = terms.deadline.saturating_duration_since(now);
        Ok(LeaseStatus { granted: terms.ttl, left, keys: keys.iter().cloned().collect() })
    }

    /// The name of every lease.
    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        self.leases.keys().copied().collect()
    }

    /// Creates a lease, or gives an existing one new terms.
    pub(crate) fn set(&mut self, id: LeaseId, terms: Terms) {
        let (old, _) = self.leases.entry(id).or_insert_with(|| (terms, BTreeSet::new()));
        self.deadlines.remove(&(old.deadline, id));
        *old = terms;
        self.deadlines.insert((terms.deadline, id));
    }

    /// Ends a lease; its keys are the caller's to delete.
    pub(crate) fn end(&mut self, id: LeaseId) -> Result<BTreeSet<Bytes>> {
        let (terms, keys) = self.leases.remove(&id).ok_or(StoreError::LeaseNotFound)?;
        self.deadlines.remove(&(terms.deadline, id));
        Ok(keys)
    }

    /// A key passes from one lease to another; 0 is none.
    pub(crate) fn reattach(&mut self, key: &Bytes, from: LeaseId, to: LeaseId) {
        if from == to {
            return;
        }
        if let Some((_, keys)) = self.leases.get_mut(&from) {
            keys.remove(key);
        }
        if let Some((_, keys)) = self.leases.get_mut(&to) {
            keys.insert(key.clone());
        }
    }

    /// The leases that have ended by `now`, in the order they ended.
    pub(crate) fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect()
    }

    /// When the next lease ends.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}
