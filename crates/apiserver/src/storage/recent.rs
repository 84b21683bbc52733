//! Objects that were written a moment ago, as they were before they became bytes: whoever writes one often writes it
//! again soon, as a scheduler and a kubelet do with a new pod, and need not have it parsed for that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use coracle_store::Revision;
use serde_json::Value;

/// How many are kept.
const KEPT: usize = 512;

/// The last few objects written.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<String, (Revision, Value)>,
    /// Their keys, and those of objects taken since, the oldest first.
    order: VecDeque<String>,
}

impl Recent {
    /// Keeps an object of a key of the store, as it was written at that revision.
    pub(crate) fn keep(&self, key: String, revision: Revision, mut object: Value) {
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.order.push_back(key.clone());
        let oldest = if kept.order.len() > KEPT { kept.order.pop_front() } else { None };
        let dropped = (oldest.and_then(|key| kept.objects.remove(&key)), kept.objects.insert(key, (revision, object)));
        drop(kept);
        // Only now, when nobody waits for it.
        drop(dropped);
    }

    /// Takes the object of a key, if it is still as it was written at that revision.
    pub(crate) fn take(&self, key: &str, revision: Revision) -> Option<Value> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).objects.remove(key);
        found.filter(|(written, _)| *written == revision).map(|(_, object)| object)
    }

    /// Forgets all: nothing was written for a while.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_written_is_had_once_and_only_as_it_still_is() {
        let recent = Recent::default();
        recent.keep("a".into(), 7, json!({ "metadata": { "resourceVersion": "5" } }));
        assert_eq!(recent.take("a", 7), Some(json!({ "metadata": { "resourceVersion": "7" } })));
        assert_eq!(recent.take("a", 7), None);
        recent.keep("a".into(), 8, json!({ "metadata": {} }));
        assert_eq!(recent.take("a", 9), None, "somebody else has written it");
        (0..=KEPT).for_each(|number| recent.keep(number.to_string(), 1, json!({ "metadata": {} })));
        assert_eq!(recent.take("0", 1), None, "others came");
        assert!(recent.take("1", 1).is_some());
        recent.clear();
        assert_eq!(recent.take("2", 1), None);
    }
}
