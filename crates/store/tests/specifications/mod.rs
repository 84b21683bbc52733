//! What every engine must do, in short times: they are virtual where the engine is in this process, and pass where it
//! is a server. What takes hours is in `conformance`, for engines in this process alone.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::time::Duration;

use bytes::Bytes;
use coracle_clock::sleep;
use coracle_store::*;
use futures::{FutureExt, StreamExt};

/// Runs each specification over an engine: `start` makes a fresh store and whatever must live as long as it, given the
/// specification's name, or nothing if it cannot be run.
macro_rules! conformance {
    ($engine:ident, $test:meta, $start:path) => {
        conformance! { @ $engine, $test, $start:
            a_new_store_is_empty_at_revision_1,
            a_put_gives_a_key_its_revisions_and_version,
            an_optimistic_put_wins_once,
            every_compare_looks_at_its_own_field,
            a_transaction_sees_its_own_writes_and_takes_one_revision,
            a_compare_of_a_range_holds_for_every_key_of_it,
            a_transaction_may_choose_within_a_choice,
            an_update_keeps_what_it_does_not_give,
            a_transaction_that_changes_nothing_takes_no_revision,
            a_transaction_that_writes_a_key_twice_is_refused_whole,
            a_range_is_ordered_limited_and_counted,
            a_range_reads_any_revision_since_the_compaction,
            compaction_keeps_what_was_true_at_its_revision,
            a_watch_reports_history_then_the_present_without_gap_or_duplicate,
            a_watch_reports_its_range_only,
            a_watch_may_begin_in_the_future,
            a_watch_from_a_compacted_revision_is_refused,
            a_watcher_that_slept_through_a_compaction_is_told,
            a_quiet_watcher_survives_compaction,
            a_watch_tells_how_far_it_is,
            a_watch_tells_how_far_it_is_when_asked,
            leases_tell_how_they_stand,
            a_lease_takes_its_keys_along_when_it_ends,
            a_lease_that_is_kept_alive_lives_on,
            a_put_moves_a_key_between_leases,
            lease_names_are_unique_and_must_exist,
            a_closed_store_refuses_everything_and_ends_its_watches,
        }
    };
    (@ $engine:ident, $test:meta, $start:path: $($specification:ident,)*) => {
        mod $engine {
            $(#[$test]
            async fn $specification() {
                if let Some((store, _alive)) = $start(stringify!($specification)).await {
                    $crate::specifications::$specification(store).await;
                }
            })*
        }
    };
}
/// The shortest that every server grants, and long enough to be kept alive in time.
const TTL: Duration = Duration::from_secs(3);

pub async fn put(store: &dyn Store, key: &'static str, value: &'static str) -> Revision {
    put_leased(store, key, value, 0).await
}

async fn put_leased(store: &dyn Store, key: &'static str, value: &'static str, lease: LeaseId) -> Revision {
    let success = vec![Op::Put { key: key.into(), value: value.into(), lease }];
    store.txn(Txn { success, ..Txn::default() }).await.unwrap().revision
}

async fn delete(store: &dyn Store, range: KeyRange) -> Revision {
    store.txn(Txn { success: vec![Op::Delete(range)], ..Txn::default() }).await.unwrap().revision
}

async fn get(store: &dyn Store, key: &'static str) -> Option<KeyValue> {
    store.range(RangeRequest::new(KeyRange::key(key))).await.unwrap().kvs.pop()
}

pub fn all_at(revision: Revision) -> RangeRequest {
    RangeRequest { revision: Some(revision), ..RangeRequest::new(KeyRange::prefix("")) }
}

async fn text_at(store: &dyn Store, revision: Revision) -> String {
    let kvs = store.range(all_at(revision)).await.unwrap().kvs;
    kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect::<Vec<_>>().join(" ")
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

async fn watch(store: &dyn Store, prefix: &'static str, start: Option<Revision>) -> WatchStream {
    store.watch(WatchRequest::new(KeyRange::prefix(prefix), start)).await.unwrap()
}

/// The next changes, as `4:put a=2(1)`: revision, what, and the value before.
async fn changes(stream: &mut WatchStream, count: usize) -> Vec<String> {
    let mut changes = Vec::new();
    while changes.len() < count {
        for Event { kv, prev, deleted } in stream.next().await.unwrap().unwrap().events {
            let verb = if deleted { "delete" } else { "put" };
            let prev = prev.map_or_else(|| "-".into(), |prev| text(&prev.value).to_owned());
            changes.push(format!("{}:{verb} {}={}({prev})", kv.mod_revision, text(&kv.key), text(&kv.value)));
        }
    }
    changes
}

pub async fn a_new_store_is_empty_at_revision_1(store: SharedStore) {
    assert_eq!(store.revision(), 1);
    let all = store.range(RangeRequest::new(KeyRange::prefix(""))).await.unwrap();
    assert_eq!((all.revision, all.count, all.more), (1, 0, false));
    assert_eq!(put(&*store, "a", "1").await, 2);
    assert!(store.size_bytes().await.unwrap() > 0);
}

pub async fn a_put_gives_a_key_its_revisions_and_version(store: SharedStore) {
    put(&*store, "a", "1").await;
    put(&*store, "b", "1").await;
    put(&*store, "a", "2").await;
    let kv = get(&*store, "a").await.unwrap();
    assert_eq!((text(&kv.value), kv.create_revision, kv.mod_revision, kv.version), ("2", 2, 4, 2));
    delete(&*store, KeyRange::key("a")).await;
    assert_eq!(get(&*store, "a").await, None);
    put(&*store, "a", "3").await;
    let kv = get(&*store, "a").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (6, 6, 1), "a deleted key begins anew");
}

pub async fn an_optimistic_put_wins_once(store: SharedStore) {
    assert!(store.txn(Txn::put_if("a", 0, "1", 0)).await.unwrap().succeeded);
    let lost = store.txn(Txn::put_if("a", 0, "2", 0)).await.unwrap();
    let OpResponse::Range(found) = &lost.responses[0] else { panic!("{lost:?}") };
    assert_eq!((lost.succeeded, lost.revision, text(&found.kvs[0].value)), (false, 2, "1"));
    assert!(store.txn(Txn::put_if("a", 2, "2", 0)).await.unwrap().succeeded);
    assert!(!store.txn(Txn::delete_if("a", 2)).await.unwrap().succeeded);
    let deleted = store.txn(Txn::delete_if("a", 3)).await.unwrap();
    assert!(matches!(&deleted.responses[0], OpResponse::Delete(kvs) if text(&kvs[0].value) == "2"));
}

pub async fn every_compare_looks_at_its_own_field(store: SharedStore) {
    use CompareOperator::*;
    use CompareTarget::*;
    put(&*store, "other", "").await;
    let lease = store.lease_grant(77, Duration::from_secs(60)).await.unwrap();
    put_leased(&*store, "a", "1", lease).await;
    put_leased(&*store, "a", "2", lease).await;
    // a: create 3, mod 4, version 2, value "2", lease 77
    let cases = [
        ("a", CreateRevision(3), Equal, true),
        ("a", CreateRevision(4), Equal, false),
        ("a", ModRevision(4), Equal, true),
        ("a", ModRevision(3), Greater, true),
        ("a", ModRevision(4), Greater, false),
        ("a", Version(2), NotEqual, false),
        ("a", Version(3), Less, true),
        ("a", Value("2".into()), Equal, true),
        ("a", Value("1".into()), Greater, true),
        ("a", Lease(77), Equal, true),
        ("missing", ModRevision(0), Equal, true),
        ("missing", Version(1), Less, true),
        ("missing", Value("".into()), Equal, false),
        ("missing", Value("x".into()), NotEqual, false),
    ];
    for (key, target, operator, expected) in cases {
        let compare = Compare { range: KeyRange::key(key), target, operator };
        let message = format!("{compare:?}");
        let response = store.txn(Txn { compare: vec![compare], ..Txn::default() }).await.unwrap();
        assert_eq!(response.succeeded, expected, "{message}");
    }
}

pub async fn a_transaction_sees_its_own_writes_and_takes_one_revision(store: SharedStore) {
    put(&*store, "a", "1").await;
    let success = vec![
        Op::Put { key: "b".into(), value: "1".into(), lease: 0 },
        Op::Delete(KeyRange::key("a")),
        Op::Range(RangeRequest::new(KeyRange::prefix(""))),
    ];
    let response = store.txn(Txn { success, ..Txn::default() }).await.unwrap();
    let OpResponse::Range(range) = &response.responses[2] else { panic!("{response:?}") };
    assert_eq!((response.revision, range.revision, range.count), (3, 3, 1));
    assert_eq!((text(&range.kvs[0].key), range.kvs[0].mod_revision), ("b", 3));
    let mut events = watch(&*store, "", Some(3)).await;
    assert_eq!(changes(&mut events, 2).await, ["3:put b=1(-)", "3:delete a=(1)"]);
}

pub async fn a_compare_of_a_range_holds_for_every_key_of_it(store: SharedStore) {
    put(&*store, "p/a", "1").await;
    put(&*store, "p/b", "1").await;
    let holds = async |range, target| {
        let compare = vec![Compare { range, target, operator: CompareOperator::Equal }];
        store.txn(Txn { compare, ..Txn::default() }).await.unwrap().succeeded
    };
    assert!(holds(KeyRange::prefix("p/"), CompareTarget::Version(1)).await);
    assert!(!holds(KeyRange::prefix("p/"), CompareTarget::ModRevision(3)).await);
    assert!(holds(KeyRange::prefix("q/"), CompareTarget::ModRevision(0)).await);
}

pub async fn a_transaction_may_choose_within_a_choice(store: SharedStore) {
    put(&*store, "a", "1").await;
    let put_op = |key: &'static str, value: &'static str| Op::Put { key: key.into(), value: value.into(), lease: 0 };
    let inner = |expected| {
        let (success, failure) = (vec![put_op("b", "yes")], vec![put_op("b", "no"), Op::Delete(KeyRange::key("c"))]);
        Op::Txn(Txn { compare: vec![Compare::unchanged("a", expected)], success, failure })
    };
    // What the outer transaction writes does not change what the inner one decides by.
    let response = store.txn(Txn { success: vec![put_op("a", "2"), inner(2)], ..Txn::default() }).await.unwrap();
    let OpResponse::Txn(chosen) = &response.responses[1] else { panic!("{response:?}") };
    assert_eq!((chosen.succeeded, chosen.revision, chosen.responses.len()), (true, 3, 1));
    assert_eq!(text_at(&*store, 3).await, "a=2 b=yes");
    let response = store.txn(Txn { success: vec![inner(2)], ..Txn::default() }).await.unwrap();
    assert!(matches!(&response.responses[0], OpResponse::Txn(chosen) if !chosen.succeeded));
    assert_eq!(text_at(&*store, 4).await, "a=2 b=no");
    for other in [put_op("b", "3"), Op::Delete(KeyRange::prefix("b"))] {
        let twice = store.txn(Txn { success: vec![other, inner(0)], ..Txn::default() }).await;
        assert!(matches!(twice, Err(StoreError::DuplicateKey)));
    }
}

pub async fn an_update_keeps_what_it_does_not_give(store: SharedStore) {
    let lease = store.lease_grant(7, Duration::from_secs(60)).await.unwrap();
    put_leased(&*store, "a", "1", lease).await;
    let update = |key: &'static str, value: Option<&'static str>, lease| Txn {
        success: vec![Op::Update { key: key.into(), value: value.map(Bytes::from), lease }],
        ..Txn::default()
    };
    store.txn(update("a", Some("2"), None)).await.unwrap();
    let kv = get(&*store, "a").await.unwrap();
    assert_eq!((text(&kv.value), kv.lease, kv.version), ("2", 7, 2));
    store.txn(update("a", None, Some(0))).await.unwrap();
    let kv = get(&*store, "a").await.unwrap();
    assert_eq!((text(&kv.value), kv.lease, kv.version), ("2", 0, 3));
    assert!(matches!(store.txn(update("b", None, None)).await, Err(StoreError::KeyNotFound)));
}

pub async fn a_transaction_that_changes_nothing_takes_no_revision(store: SharedStore) {
    put(&*store, "a", "1").await;
    assert_eq!(delete(&*store, KeyRange::prefix("nothing")).await, 2);
    let backwards = KeyRange { start: "z".into(), end: Some("a".into()) };
    assert_eq!(delete(&*store, backwards).await, 2);
    assert_eq!(store.revision(), 2);
}

pub async fn a_transaction_that_writes_a_key_twice_is_refused_whole(store: SharedStore) {
    let put = |key: &'static str| Op::Put { key: key.into(), value: "1".into(), lease: 0 };
    for success in [vec![put("a"), put("b"), put("a")], vec![put("a"), Op::Delete(KeyRange::prefix("a"))]] {
        let refused = store.txn(Txn { success, ..Txn::default() }).await;
        assert!(matches!(refused, Err(StoreError::DuplicateKey)));
    }
    assert_eq!((store.revision(), get(&*store, "b").await), (1, None));
}

pub async fn a_range_is_ordered_limited_and_counted(store: SharedStore) {
    for key in ["p/c", "p/a", "q", "p/b", "o"] {
        put(&*store, key, "value").await;
    }
    let request = RangeRequest { limit: 2, ..RangeRequest::new(KeyRange::prefix("p/")) };
    let page = store.range(request.clone()).await.unwrap();
    let keys: Vec<_> = page.kvs.iter().map(|kv| text(&kv.key)).collect();
    assert_eq!((keys, page.count, page.more), (vec!["p/a", "p/b"], 3, true));
    let rest = KeyRange { start: "p/b\0".into(), end: Some("p0".into()) };
    let page = store.range(RangeRequest { range: rest, ..request.clone() }).await.unwrap();
    assert_eq!((text(&page.kvs[0].key), page.count, page.more), ("p/c", 1, false));
    let page = store.range(RangeRequest { keys_only: true, limit: 0, ..request.clone() }).await.unwrap();
    assert!(page.kvs.len() == 3 && page.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 0));
    let page = store.range(RangeRequest { count_only: true, ..request }).await.unwrap();
    assert_eq!((page.kvs.len(), page.count, page.more), (0, 3, false));
}

pub async fn a_range_reads_any_revision_since_the_compaction(store: SharedStore) {
    put(&*store, "a", "1").await;
    put(&*store, "b", "1").await;
    put(&*store, "a", "2").await;
    delete(&*store, KeyRange::key("b")).await;
    let expected = ["", "a=1", "a=1 b=1", "a=2 b=1", "a=2"];
    for (revision, expected) in (1..).zip(expected) {
        assert_eq!(text_at(&*store, revision).await, expected, "at {revision}");
    }
    assert!(matches!(store.range(all_at(6)).await, Err(StoreError::FutureRevision { current: 5 })));
}

pub async fn compaction_keeps_what_was_true_at_its_revision(store: SharedStore) {
    put(&*store, "a", "1").await;
    put(&*store, "b", "1").await;
    put(&*store, "a", "2").await;
    delete(&*store, KeyRange::key("b")).await;
    assert!(matches!(store.compact(6).await, Err(StoreError::FutureRevision { current: 5 })));
    store.compact(4).await.unwrap();
    assert!(matches!(store.compact(4).await, Err(StoreError::Compacted { compact_revision: 4 })));
    assert!(matches!(store.range(all_at(3)).await, Err(StoreError::Compacted { compact_revision: 4 })));
    assert_eq!(text_at(&*store, 4).await, "a=2 b=1");
    assert_eq!(text_at(&*store, 5).await, "a=2");
    store.compact(5).await.unwrap();
    assert_eq!(text_at(&*store, 5).await, "a=2");
    assert_eq!(get(&*store, "a").await.unwrap().version, 2);
}

pub async fn a_watch_reports_history_then_the_present_without_gap_or_duplicate(store: SharedStore) {
    put(&*store, "a", "1").await;
    put(&*store, "a", "2").await;
    let mut from_start = watch(&*store, "", Some(2)).await;
    let mut from_now = watch(&*store, "", None).await;
    assert_eq!(changes(&mut from_start, 1).await, ["2:put a=1(-)", "3:put a=2(1)"]);
    put(&*store, "b", "1").await;
    delete(&*store, KeyRange::prefix("")).await;
    let present = ["4:put b=1(-)", "5:delete a=(2)", "5:delete b=(1)"];
    assert_eq!(changes(&mut from_start, 3).await, present);
    assert_eq!(changes(&mut from_now, 3).await, present);
    assert!(from_now.next().now_or_never().is_none(), "there is nothing more");
}

pub async fn a_watch_reports_its_range_only(store: SharedStore) {
    let mut pods = watch(&*store, "pods/", None).await;
    for key in ["nodes/1", "pods/1", "services/1", "pods/2"] {
        put(&*store, key, "").await;
    }
    assert_eq!(changes(&mut pods, 2).await, ["3:put pods/1=(-)", "5:put pods/2=(-)"]);
    assert!(pods.next().now_or_never().is_none());
}

pub async fn a_watch_may_begin_in_the_future(store: SharedStore) {
    let mut later = watch(&*store, "", Some(4)).await;
    for key in ["a", "b", "c"] {
        put(&*store, key, "").await;
    }
    assert_eq!(changes(&mut later, 1).await, ["4:put c=(-)"]);
}

pub async fn a_watch_from_a_compacted_revision_is_refused(store: SharedStore) {
    put(&*store, "a", "1").await;
    put(&*store, "a", "2").await;
    store.compact(2).await.unwrap();
    let request = WatchRequest::new(KeyRange::key("a"), Some(2));
    assert!(matches!(store.watch(request).await, Err(StoreError::Compacted { compact_revision: 2 })));
    let mut next = watch(&*store, "", Some(3)).await;
    assert_eq!(changes(&mut next, 1).await, ["3:put a=2(1)"]);
}

pub async fn a_watcher_that_slept_through_a_compaction_is_told(store: SharedStore) {
    let mut slow = watch(&*store, "", None).await;
    put(&*store, "a", "1").await;
    put(&*store, "a", "2").await;
    store.compact(2).await.unwrap();
    assert!(matches!(slow.next().await, Some(Err(StoreError::Compacted { compact_revision: 2 }))));
    assert!(slow.next().await.is_none());
}

pub async fn a_quiet_watcher_survives_compaction(store: SharedStore) {
    let mut quiet = watch(&*store, "quiet", Some(2)).await;
    for _ in 0..10 {
        put(&*store, "loud", "").await;
    }
    assert!(quiet.next().now_or_never().is_none());
    store.compact(8).await.unwrap();
    put(&*store, "quiet", "1").await;
    assert_eq!(changes(&mut quiet, 1).await, ["12:put quiet=1(-)"]);
}

pub async fn a_watch_tells_how_far_it_is(store: SharedStore) {
    let progress = Some(Duration::from_secs(1));
    let request = WatchRequest { progress, ..WatchRequest::new(KeyRange::prefix("quiet"), None) };
    let mut quiet = store.watch(request).await.unwrap();
    put(&*store, "loud", "").await;
    let before = coracle_clock::instant();
    let batch = quiet.next().await.unwrap().unwrap();
    assert_eq!((batch.revision, batch.events.len()), (2, 0));
    assert!(before.elapsed() >= Duration::from_secs(1));
}

pub async fn a_watch_tells_how_far_it_is_when_asked(store: SharedStore) {
    let ask = std::sync::Arc::new(tokio::sync::Notify::new());
    let request = WatchRequest { ask: Some(ask.clone()), ..WatchRequest::new(KeyRange::prefix("a"), None) };
    let mut events = store.watch(request).await.unwrap();
    let seen = put(&*store, "a", "1").await;
    let newest = put(&*store, "b", "1").await;
    ask.notify_one();
    let mut next = async || events.next().await.unwrap().unwrap();
    assert_eq!(next().await.events[0].kv.mod_revision, seen, "what there is to report comes first");
    let progress = next().await;
    assert_eq!((progress.revision, progress.events.len()), (newest, 0));
}

pub async fn leases_tell_how_they_stand(store: SharedStore) {
    let lease = store.lease_grant(9, Duration::from_secs(60)).await.unwrap();
    put_leased(&*store, "b", "1", lease).await;
    put_leased(&*store, "a", "1", lease).await;
    let status = store.lease_status(lease).await.unwrap();
    assert!(status.left <= status.granted && status.left > Duration::from_secs(55), "{status:?}");
    assert_eq!((status.granted.as_secs(), status.keys), (60, vec![Bytes::from("a"), Bytes::from("b")]));
    assert_eq!(store.leases().await.unwrap(), [9]);
    assert!(matches!(store.lease_status(8).await, Err(StoreError::LeaseNotFound)));
}

pub async fn a_lease_takes_its_keys_along_when_it_ends(store: SharedStore) {
    let expiring = store.lease_grant(0, TTL).await.unwrap();
    let revoked = store.lease_grant(0, Duration::from_secs(60)).await.unwrap();
    put_leased(&*store, "a", "1", expiring).await;
    put_leased(&*store, "b", "1", expiring).await;
    put_leased(&*store, "c", "1", revoked).await;
    let mut events = watch(&*store, "", None).await;
    store.lease_revoke(revoked).await.unwrap();
    assert_eq!(changes(&mut events, 1).await, ["5:delete c=(1)"]);
    sleep(TTL / 2).await;
    assert!(get(&*store, "a").await.is_some());
    let deleted = ["6:delete a=(1)", "6:delete b=(1)"];
    assert_eq!(changes(&mut events, 2).await, deleted, "both at one revision");
    assert!(matches!(store.lease_keep_alive(expiring).await, Err(StoreError::LeaseNotFound)));
}

pub async fn a_lease_that_is_kept_alive_lives_on(store: SharedStore) {
    let lease = store.lease_grant(0, TTL).await.unwrap();
    put_leased(&*store, "a", "1", lease).await;
    for _ in 0..3 {
        sleep(TTL / 2).await;
        assert_eq!(store.lease_keep_alive(lease).await.unwrap(), TTL);
    }
    assert!(get(&*store, "a").await.is_some());
    let mut events = watch(&*store, "", None).await;
    let before = coracle_clock::instant();
    changes(&mut events, 1).await;
    // Servers answer after they have begun to count.
    assert!(before.elapsed() >= TTL / 2);
}

pub async fn a_put_moves_a_key_between_leases(store: SharedStore) {
    let short = store.lease_grant(1, TTL).await.unwrap();
    let long = store.lease_grant(2, Duration::from_secs(1000)).await.unwrap();
    for key in ["stays", "moves", "is-freed"] {
        put_leased(&*store, key, "1", short).await;
    }
    put_leased(&*store, "moves", "2", long).await;
    put(&*store, "is-freed", "2").await;
    let mut events = watch(&*store, "", None).await;
    assert_eq!(changes(&mut events, 1).await, ["7:delete stays=(1)"]);
    assert_eq!(text_at(&*store, 7).await, "is-freed=2 moves=2");
}

pub async fn lease_names_are_unique_and_must_exist(store: SharedStore) {
    store.lease_grant(5, Duration::from_secs(10)).await.unwrap();
    assert!(matches!(store.lease_grant(5, Duration::from_secs(10)).await, Err(StoreError::LeaseExists)));
    assert!(matches!(store.lease_revoke(6).await, Err(StoreError::LeaseNotFound)));
    let put = |key: &'static str, lease| Op::Put { key: key.into(), value: "".into(), lease };
    let refused = store.txn(Txn { success: vec![put("a", 5), put("b", 6)], ..Txn::default() }).await;
    assert!(matches!(refused, Err(StoreError::LeaseNotFound)));
    assert_eq!((store.revision(), get(&*store, "a").await), (1, None), "nothing half-done");
}

pub async fn a_closed_store_refuses_everything_and_ends_its_watches(store: SharedStore) {
    put(&*store, "a", "1").await;
    let mut events = watch(&*store, "", None).await;
    store.close().await.unwrap();
    assert!(events.next().await.is_none());
    assert!(matches!(store.range(all_at(2)).await, Err(StoreError::Closed)));
    assert!(matches!(store.txn(Txn::default()).await, Err(StoreError::Closed)));
    assert!(matches!(store.compact(2).await, Err(StoreError::Closed)));
    assert!(matches!(store.lease_grant(0, Duration::from_secs(1)).await, Err(StoreError::Closed)));
    assert!(matches!(store.close().await, Err(StoreError::Closed)));
}
