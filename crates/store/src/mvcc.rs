//! The multi-version map: every key's history since the last compaction, and the log of changes.
//!
//! Two views of one thing are kept. `keys` answers "what was the value of *k* at revision *r*" (a range);
//! `log` answers "what happened from revision *r* on" (a watch). Values are shared between both, so a
//! change costs its value once. The example of the crate's front page looks like this inside:
//!
//! ```text
//! keys  a -> [2: "1"] [4: "2"]          log  2: put a   3: put b   4: put a   5: delete b
//!       b -> [3: "1"] [5: deleted]
//! compact(4):
//! keys  a -> [4: "2"]                   log  5: delete b
//!       b -> [3: "1"] [5: deleted]      (b=1 was still true at 4, so it stays)
//! ```
//!
//! The log has no holes: entry `i` is revision `compacted + 1 + i`. Nothing here waits, locks or knows of disks.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::Change;
use crate::{Event, KeyRange, KeyValue, LeaseId, RangeRequest, RangeResponse, Result, Revision, StoreError};

/// What an entry of history costs beyond its key and the value it superseded.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// All changes of one revision, in the order the transaction made them.
#[derive(Debug)]
pub struct Entry {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Event>,
}

/// Where one version of one key lies in the order of all changes: its revision, and its place within it.
pub(crate) type RowId = (Revision, u32);

/// One key from one revision on, until the next version.
#[derive(Debug)]
struct Version {
    id: RowId,
    /// `None`: the key was deleted.
    live: Option<KeyValue>,
}

/// The map, its history and its log.
#[derive(Debug, Default)]
pub(crate) struct Mvcc {
    keys: BTreeMap<Bytes, Vec<Version>>,
    log: VecDeque<Arc<Entry>>,
    compacted: Revision,
    live_bytes: usize,
    history_bytes: usize,
    survey: Option<Gathering>,
}

/// What the map can be made of again as of some revision.
#[derive(Debug)]
pub struct Survey {
    /// What was superseded up to here is not in it.
    pub(crate) compacted: Revision,
    /// In no order.
    pub(crate) versions: Vec<(RowId, Change)>,
}

/// A survey as of `head`, made in steps while the map goes on changing: every version has its revision, so newer ones
/// are told apart, and old ones stay until they are compacted.
#[derive(Debug)]
struct Gathering {
    head: Revision,
    last_key: Option<Bytes>,
    done: bool,
    found: Survey,
}

impl Mvcc {
    /// An empty map whose first change will be revision `revision + 1`.
    pub(crate) fn starting_at(revision: Revision) -> Self {
        Mvcc { compacted: revision, ..Mvcc::default() }
    }

    /// The newest revision, acknowledged or not.
    pub(crate) fn head(&self) -> Revision {
        self.compacted + self.log.len() as Revision
    }

    /// What can be read at all: this revision and later.
    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Bytes of superseded values and of the log.
    pub(crate) fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// Bytes of everything that is kept.
    pub(crate) fn size_bytes(&self) -> usize {
        self.live_bytes + self.history_bytes
    }

    /// The changes of one revision, if it has happened and is not compacted.
    pub(crate) fn entry(&self, revision: Revision) -> Option<&Arc<Entry>> {
        self.log.get(usize::try_from(revision - self.compacted - 1).ok()?)
    }

    /// Whether `revision` can be read when `newest` is the newest that may be seen.
    pub(crate) fn check_readable(&self, revision: Revision, newest: Revision) -> Result<()> {
        if revision > newest {
            return Err(StoreError::FutureRevision { current: newest });
        }
        if revision < self.compacted {
            return Err(StoreError::Compacted { compact_revision: self.compacted });
        }
        Ok(())
    }

    /// One key as of `revision`, which must be readable.
    pub(crate) fn get(&self, key: &[u8], revision: Revision) -> Option<&KeyValue> {
        at(self.keys.get(key)?, revision)
    }

    /// The live keys of a range as of `revision`, in order.
    pub(crate) fn live(&self, range: &KeyRange, revision: Revision) -> impl Iterator<Item = &KeyValue> {
        // An ordered map refuses (panics on) bounds in the wrong order; etcd answers such a range with nothing.
        let backwards = range.end.as_ref().is_some_and(|end| !end.is_empty() && *end <= range.start);
        (!backwards)
            .then(|| self.keys.range(range.bounds()))
            .into_iter()
            .flatten()
            .filter_map(move |(_, history)| at(history, revision))
    }

    /// Answers a range as of `revision`, which must be readable; `newest` goes into the answer.
    pub(crate) fn range(&self, request: &RangeRequest, revision: Revision, newest: Revision) -> RangeResponse {
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let mut response = RangeResponse { revision: newest, ..RangeResponse::default() };
        for kv in self.live(&request.range, revision) {
            response.count += 1;
            if !request.count_only && response.kvs.len() < limit {
                let value = if request.keys_only { Bytes::new() } else { kv.value.clone() };
                response.kvs.push(KeyValue { value, key: kv.key.clone(), ..*kv });
            }
        }
        response.more = !request.count_only && response.count > response.kvs.len();
        response
    }

    /// Writes a key at revision `id`; tells what changed. The caller appends the event to the log with [`Mvcc::append`].
    pub(crate) fn put(&mut self, id: RowId, key: Bytes, value: Bytes, lease: LeaseId) -> Event {
        let entry = self.keys.entry(key);
        // One copy of a key serves all its versions.
        let key = entry.key().clone();
        let history = entry.or_insert_with(one_version);
        let prev = at(history, Revision::MAX).cloned();
        let (create_revision, version) = prev.as_ref().map_or((id.0, 1), |kv| (kv.create_revision, kv.version + 1));
        let kv = KeyValue { key, value, create_revision, mod_revision: id.0, version, lease };
        history.push(Version { id, live: Some(kv.clone()) });
        self.live_bytes += size(&kv);
        self.live_bytes -= prev.as_ref().map_or(0, size);
        Event { kv, prev, deleted: false }
    }

    /// Deletes a live key at revision `id`; `None` if it does not live.
    pub(crate) fn delete(&mut self, id: RowId, key: &[u8]) -> Option<Event> {
        let prev = self.get(key, Revision::MAX)?.clone();
        self.live_bytes -= size(&prev);
        self.keys.get_mut(key)?.push(Version { id, live: None });
        Some(Event { kv: tombstone(&prev.key, id.0), prev: Some(prev), deleted: true })
    }

    /// Adds a version exactly as given: how a store is filled from disk.
    pub(crate) fn restore(&mut self, id: RowId, kv: KeyValue) {
        self.live_bytes += size(&kv);
        let history = self.keys.entry(kv.key.clone()).or_insert_with(one_version);
        history.push(Version { id, live: Some(kv) });
    }

    /// Closes revision `head + 1` with the changes it made.
    pub(crate) fn append(&mut self, events: Vec<Event>) -> Arc<Entry> {
        let entry = Arc::new(Entry { revision: self.head() + 1, events });
        self.history_bytes += cost(&entry);
        self.log.push_back(entry.clone());
        entry
    }

    /// Begins to gather every version that can be read at `head`.
    pub(crate) fn begin_survey(&mut self, head: Revision) {
        let versions = Vec::with_capacity(self.keys.len() + self.log.len());
        let found = Survey { compacted: self.compacted, versions };
        self.survey = Some(Gathering { head, last_key: None, done: false, found });
    }

    /// Whether a survey is begun and not taken.
    pub(crate) fn surveying(&self) -> bool {
        self.survey.is_some()
    }

    /// Goes on with a survey, if there is one, by so many keys.
    pub(crate) fn survey(&mut self, keys: usize) {
        let Some(survey) = self.survey.as_mut().filter(|survey| !survey.done) else { return };
        let from = survey.last_key.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.keys.range::<Bytes, _>((from, Bound::Unbounded));
        for (key, history) in rest.by_ref().take(keys) {
            let readable = history.iter().take_while(|version| version.id.0 <= survey.head);
            survey.found.versions.extend(readable.map(|Version { id, live }| {
                let kv = live.clone().unwrap_or_else(|| tombstone(key, id.0));
                (*id, Change { kv, deleted: live.is_none() })
            }));
            survey.last_key = Some(key.clone());
        }
        survey.done = rest.next().is_none();
    }

    /// What a survey has found, once it is through.
    pub(crate) fn take_survey(&mut self) -> Option<Survey> {
        self.survey.take_if(|survey| survey.done).map(|survey| survey.found)
    }

    /// Forgets every version that was superseded at or before `revision` (at most `head`).
    pub(crate) fn compact(&mut self, revision: Revision) {
        // A survey must not miss what this takes away.
        self.survey(usize::MAX);
        while self.compacted < revision
            && let Some(entry) = self.log.pop_front()
        {
            self.compacted = entry.revision;
            self.history_bytes -= cost(&entry);
            for event in &entry.events {
                self.forget_before(&event.kv.key, entry.revision);
            }
        }
    }

    /// How far to compact so that the history shrinks by at least `bytes`, but not past `newest`.
    pub(crate) fn compaction_target(&self, bytes: usize, newest: Revision) -> Revision {
        let mut freed = 0;
        let enough = |entry: &&Arc<Entry>| {
            freed += cost(entry);
            freed >= bytes
        };
        self.log.iter().find(enough).map_or(newest, |entry| entry.revision.min(newest))
    }

    fn forget_before(&mut self, key: &Bytes, revision: Revision) {
        let Some(history) = self.keys.get_mut(key) else { return };
        let superseded = history.partition_point(|version| version.id.0 <= revision).saturating_sub(1);
        history.drain(..superseded);
        if history.first().is_some_and(|first| first.live.is_none() && first.id.0 <= revision) {
            history.remove(0);
        }
        match history.len() {
            0 => _ = self.keys.remove(key),
            _ => history.shrink_to(4),
        }
    }
}

/// Most keys have one version; room for four, the least that a vector would make, is most of what they cost.
fn one_version() -> Vec<Version> {
    Vec::with_capacity(1)
}

/// What stands for a key that was deleted.
fn tombstone(key: &Bytes, revision: Revision) -> KeyValue {
    let key = key.clone();
    KeyValue { key, value: Bytes::new(), create_revision: 0, mod_revision: revision, version: 0, lease: 0 }
}

fn at(history: &[Version], revision: Revision) -> Option<&KeyValue> {
    let newer = history.partition_point(|version| version.id.0 <= revision);
    history[..newer].last()?.live.as_ref()
}

fn size(kv: &KeyValue) -> usize {
    kv.key.len() + kv.value.len()
}

fn cost(entry: &Entry) -> usize {
    entry.events.iter().map(|event| EVENT_OVERHEAD_BYTES + event.prev.as_ref().map_or(0, size)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8),
        Delete(u8),
        Compact(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0_u8..12;
        prop_oneof![
            5 => key.clone().prop_map(Step::Put),
            2 => key.prop_map(Step::Delete),
            1 => (0_u8..8).prop_map(Step::Compact),
        ]
    }

    fn apply(mvcc: &mut Mvcc, step: &Step) {
        let id = (mvcc.head() + 1, 0);
        let event = match step {
            Step::Put(key) => Some(mvcc.put(id, vec![*key].into(), vec![*key; 3].into(), 0)),
            Step::Delete(key) => mvcc.delete(id, &[*key]),
            Step::Compact(behind) => {
                mvcc.compact(mvcc.head() - Revision::from(*behind));
                None
            }
        };
        if let Some(event) = event {
            mvcc.append(vec![event]);
        }
    }

    proptest! {
        /// A survey finds what was there when it began, whatever happens before it is through.
        #[test]
        fn a_survey_is_of_one_moment(
            before in prop::collection::vec(step(), 0..60),
            meanwhile in prop::collection::vec((step(), 0_usize..3), 0..60),
        ) {
            let [mut at_once, mut in_steps] = [Mvcc::starting_at(1), Mvcc::starting_at(1)];
            for mvcc in [&mut at_once, &mut in_steps] {
                before.iter().for_each(|step| apply(mvcc, step));
                mvcc.begin_survey(mvcc.head());
            }
            for (step, keys) in &meanwhile {
                apply(&mut in_steps, step);
                in_steps.survey(*keys);
            }
            let surveys = [at_once, in_steps].map(|mut mvcc| {
                mvcc.survey(usize::MAX);
                let mut survey = mvcc.take_survey().unwrap();
                survey.versions.sort_by_key(|(id, _)| *id);
                let versions = survey.versions.into_iter().map(|(id, change)| (id, change.kv, change.deleted));
                (survey.compacted, versions.collect::<Vec<_>>())
            });
            prop_assert_eq!(&surveys[0], &surveys[1]);
        }
    }
}
