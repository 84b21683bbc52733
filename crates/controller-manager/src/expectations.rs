//! Expectations: what a controller has asked for and not yet seen in its cache.
//!
//! A cache lags behind the API. Having created three pods, a controller that looks again at once sees
//! none of them and would create three more. So it notes what it expects (three creations, or the
//! deletion of these UIDs), and makes no further decision on that key until the watch has shown it all,
//! or five minutes have passed, after which something was lost and the cache is taken at its word.
//!
//! The owner lies in another cache than its dependents, and either may be behind the other. A controller whose status
//! is its memory (what a Job has counted) also waits until it sees what it wrote itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use coracle_client::ObjectKey;
use coracle_clock::Instant;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// How long unfulfilled expectations hold a key back.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);

struct Expected {
    creations: usize,
    deletions: BTreeSet<String>,
    since: Instant,
    /// The version of the owner that was last written.
    written: u64,
}

/// An object's version, as a number.
fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// The expectations of one controller, by the key of the owning object.
#[derive(Default)]
pub(crate) struct Expectations(Mutex<BTreeMap<ObjectKey, Expected>>);

const LOCK: &str = "no code panics while it holds the expectations";

impl Expectations {
    /// Whether everything expected of `key` has been seen (or given up).
    pub(crate) fn satisfied(&self, key: &ObjectKey) -> bool {
        self.0.lock().expect(LOCK).get(key).is_none_or(|expected| {
            expected.creations == 0 && expected.deletions.is_empty() || expected.since.elapsed() > TIMEOUT
        })
    }

    /// Expects `count` more dependents to appear. To be called *before* they are created.
    pub(crate) fn expect_creations(&self, key: &ObjectKey, count: usize) {
        self.set(key, |expected| expected.creations = count);
    }

    /// Expects dependents with these UIDs to go, or to be marked for deletion.
    pub(crate) fn expect_deletions(&self, key: &ObjectKey, uids: impl IntoIterator<Item = String>) {
        self.set(key, |expected| expected.deletions = uids.into_iter().collect());
    }

    /// The owner itself was written, and became this.
    pub(crate) fn wrote(&self, key: &ObjectKey, owner: &ObjectMeta) {
        self.with(key, |expected| expected.written = version(owner));
    }

    /// Whether the owner, as the cache has it, is not older than what was last written.
    pub(crate) fn is_current(&self, key: &ObjectKey, owner: &ObjectMeta) -> bool {
        self.0.lock().expect(LOCK).get(key).is_none_or(|expected| version(owner) >= expected.written)
    }

    fn set(&self, key: &ObjectKey, change: impl FnOnce(&mut Expected)) {
        self.with(key, |expected| {
            expected.since = coracle_clock::instant();
            change(expected);
        });
    }

    fn with(&self, key: &ObjectKey, change: impl FnOnce(&mut Expected)) {
        let since = coracle_clock::instant();
        let fresh = || Expected { creations: 0, deletions: BTreeSet::new(), since, written: 0 };
        change(self.0.lock().expect(LOCK).entry(key.clone()).or_insert_with(fresh));
    }

    /// A dependent appeared, or its creation failed.
    pub(crate) fn created(&self, key: &ObjectKey) {
        if let Some(expected) = self.0.lock().expect(LOCK).get_mut(key) {
            expected.creations = expected.creations.saturating_sub(1);
        }
    }

    /// A dependent went, or its deletion failed.
    pub(crate) fn deleted(&self, key: &ObjectKey, uid: &str) {
        if let Some(expected) = self.0.lock().expect(LOCK).get_mut(key) {
            expected.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.0.lock().expect(LOCK).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_held_back_until_all_creations_and_deletions_are_seen() {
        let (expectations, key) = (Expectations::default(), ObjectKey::new("ns", "rs"));
        assert!(expectations.satisfied(&key));
        expectations.expect_creations(&key, 2);
        expectations.created(&key);
        assert!(!expectations.satisfied(&key));
        expectations.created(&key);
        assert!(expectations.satisfied(&key));
        expectations.expect_deletions(&key, ["a".to_owned()]);
        expectations.deleted(&key, "b");
        assert!(!expectations.satisfied(&key));
        expectations.deleted(&key, "a");
        assert!(expectations.satisfied(&key));
    }

    #[tokio::test(start_paused = true)]
    async fn lost_events_hold_a_key_back_for_five_minutes_only() {
        let (expectations, key) = (Expectations::default(), ObjectKey::new("ns", "rs"));
        expectations.expect_creations(&key, 1);
        coracle_clock::sleep(TIMEOUT + Duration::from_secs(1)).await;
        assert!(expectations.satisfied(&key));
    }
    #[test]
    fn an_owner_that_is_older_than_what_was_written_is_not_current() {
        let (expectations, key) = (Expectations::default(), ObjectKey::new("ns", "job"));
        let at = |version: &str| ObjectMeta { resource_version: Some(version.into()), ..Default::default() };
        assert!(expectations.is_current(&key, &at("9")));
        expectations.wrote(&key, &at("10"));
        assert!(!expectations.is_current(&key, &at("9")) && expectations.is_current(&key, &at("10")));
        expectations.forget(&key);
        assert!(expectations.is_current(&key, &at("1")));
    }
}
