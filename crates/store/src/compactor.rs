//! Compaction by age: the loop that lets history older than the retention go.
//!
//! The engines bound history by bytes on their own; this loop bounds it by age and number, as
//! kube-apiserver does every five minutes. It remembers which revision was the newest at each look, and
//! compacts to the one that was newest just before the retention began.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use crate::{Revision, SharedStore, StoreError};

/// How much history a store keeps.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Revisions older than this go.
    pub age: Duration,
    /// At most so many revisions stay, however young.
    pub revisions: Revision,
    /// How often to look. Revisions live up to this much longer than `age`.
    pub interval: Duration,
}

impl Default for Retention {
    /// An hour, 100,000 revisions, looked at every five minutes.
    fn default() -> Self {
        Retention { age: Duration::from_secs(3600), revisions: 100_000, interval: Duration::from_secs(300) }
    }
}

/// Compacts `store` until `shutdown` completes or the store closes.
pub async fn run_compactor(store: SharedStore, retention: Retention, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let mut seen = VecDeque::new();
    loop {
        let (now, newest) = (coracle_clock::instant(), store.revision());
        seen.push_back((now, newest));
        let mut target = newest.saturating_sub(retention.revisions);
        while let Some((at, revision)) = seen.front().copied()
            && now.duration_since(at) >= retention.age
        {
            target = target.max(revision);
            seen.pop_front();
        }
        if target > 0 {
            match store.compact(target).await {
                Ok(()) => tracing::debug!(revision = target, "compacted"),
                // Nothing new to forget.
                Err(StoreError::Compacted { .. }) => {}
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, revision = target, "compaction failed"),
            }
        }
        tokio::select! { biased;
            () = &mut shutdown => return,
            () = coracle_clock::sleep(retention.interval) => {}
        }
    }
}
