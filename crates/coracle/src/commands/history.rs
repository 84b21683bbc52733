//! `coracle history`: what became of an object, revision by revision.
//!
//! The store keeps what every key was at every revision since the last compaction. A watch from there on tells all of
//! it, deletions too; `managedFields` in the objects say who made a change.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::storage::codec;
use coracle_store::{Event, KeyRange, KeyValue, RangeRequest, Revision, Store, StoreError, WatchRequest};
use futures::StreamExt;
use serde_json::Value;
use tokio::sync::Notify;

use crate::cli::History;
use crate::commands::client;
use crate::commands::kinds::resolve;
use crate::data_dir::DataDir;

pub async fn run(data_dir: Option<PathBuf>, options: History) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let (kind, name) = options.object.split_once('/').context("say what as KIND/NAME, such as pod/web")?;
    let kind = resolve(&client(&dir).await?, kind).await?;
    let store = crate::store::of_cluster(&options.store, &dir).await?;
    let past = read(&*store, &kind.key(&options.namespace, name)).await.context("the store")?;
    if past.first.is_none() && past.events.is_empty() {
        let since = past.since;
        bail!("Error from server (NotFound): {} {name:?} not found, nor since revision {since}", kind.qualified());
    }
    print!("{}", told(&past));
    Ok(())
}

/// What is known of a key.
#[derive(Default)]
struct Past {
    /// From which revision on.
    since: Revision,
    /// What it was then.
    first: Option<KeyValue>,
    /// What happened since.
    events: Vec<Event>,
}

/// How long a store may take to tell that a watch has come to the present.
const TELL: Duration = Duration::from_secs(2);

/// Reads all that the store keeps of a key.
async fn read(store: &dyn Store, key: &str) -> Result<Past, StoreError> {
    let range = KeyRange::key(key.to_owned());
    let until = store.current().await?;
    match read_until(store, &range, &range, until).await? {
        Some(past) => Ok(past),
        // Not every etcd tells how far a watch is. One of everything is at least told of the last revision.
        None => Ok(read_until(store, &range, &KeyRange::prefix(""), until).await?.unwrap_or_default()),
    }
}

/// Reads what the store keeps of a key by a watch of this and perhaps more, if that tells when it has come to the end.
async fn read_until(
    store: &dyn Store,
    key: &KeyRange,
    watched: &KeyRange,
    until: Revision,
) -> Result<Option<Past>, StoreError> {
    let ask = Arc::new(Notify::new());
    let mut past = Past { since: 1, ..Past::default() };
    // Compaction may overtake a reader; then there is less to read, and it begins again.
    let mut watch = loop {
        let request =
            WatchRequest { ask: Some(ask.clone()), ..WatchRequest::new(watched.clone(), Some(past.since + 1)) };
        match store.watch(request).await {
            Err(StoreError::Compacted { compact_revision }) => past.since = compact_revision,
            watch => break watch?,
        }
    };
    if past.since > 1 {
        let at = RangeRequest { revision: Some(past.since), ..RangeRequest::new(key.clone()) };
        past.first = store.range(at).await?.kvs.pop();
    }
    ask.notify_one();
    let mut reached = past.since;
    while reached < until {
        let Ok(next) = coracle_clock::timeout(TELL, watch.next()).await else { return Ok(None) };
        let Some(batch) = next.transpose()? else { break };
        let here = |event: &Event| event.kv.mod_revision <= until && key.contains(&event.kv.key);
        past.events.extend(batch.events.into_iter().filter(here));
        reached = batch.revision;
    }
    Ok(Some(past))
}

fn told(past: &Past) -> String {
    let mut text = String::new();
    let mut before = Value::Null;
    if let Some(first) = &past.first {
        let now = object(first);
        _ = writeln!(text, "revision {}, the oldest state that is kept (as of {})", first.mod_revision, past.since);
        text += &difference(&before, &now);
        before = now;
    }
    for event in &past.events {
        let revision = event.kv.mod_revision;
        if event.deleted {
            _ = writeln!(text, "revision {revision}, deleted");
            before = Value::Null;
            continue;
        }
        let now = object(&event.kv);
        let what = if before.is_null() { ", created" } else { "" };
        _ = writeln!(text, "revision {revision}{what}{}", authors(&before, &now));
        text += &difference(&before, &now);
        before = now;
    }
    text
}

fn object(kv: &KeyValue) -> Value {
    let value = codec::readable(&kv.value);
    serde_json::from_slice(&value).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&value).into_owned()))
}

/// Who changed what there was: the managers whose entries are new or of another time than before. One that is otherwise
/// than before at the same time lost fields to somebody, or wrote twice within a second.
fn authors(before: &Value, now: &Value) -> String {
    let entries = |object: &Value| object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let known = entries(before);
    let same = |old: &Value, entry: &Value| {
        ["manager", "operation", "subresource", "apiVersion", "time"].iter().all(|field| old[field] == entry[field])
    };
    let mut changed: Vec<Value> = entries(now).into_iter().filter(|entry| !known.contains(entry)).collect();
    let is_new = |entry: &Value| !known.iter().any(|old| same(old, entry));
    if changed.iter().any(is_new) {
        changed.retain(is_new);
    }
    let mut text = String::new();
    for entry in &changed {
        let field = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
        _ = write!(text, ", {} by {}", field("operation"), field("manager"));
        if let Some(subresource) = entry["subresource"].as_str().filter(|name| !name.is_empty()) {
            _ = write!(text, " ({subresource})");
        }
        _ = write!(text, " at {}", field("time"));
    }
    text
}

/// The fields that differ, one a line.
fn difference(before: &Value, now: &Value) -> String {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten(String::new(), before, &mut old);
    flatten(String::new(), now, &mut new);
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let mut text = String::new();
    for path in paths {
        let (was, is) = (old.get(path), new.get(path));
        if was != is {
            was.iter().for_each(|value| _ = writeln!(text, "  - {path}: {value}"));
            is.iter().for_each(|value| _ = writeln!(text, "  + {path}: {value}"));
        }
    }
    text
}

/// Every value that has no parts, by its path. Elements of lists are called by name or type if they have one, so that
/// a new first one does not change all.
fn flatten(path: String, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if inner != "metadata.managedFields" {
                    flatten(inner, value, out);
                }
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for (index, element) in elements.iter().enumerate() {
                let name = ["name", "type"].iter().find_map(|field| element[field].as_str());
                let inner = format!("{path}[{}]", name.map_or_else(|| index.to_string(), str::to_owned));
                let inner =
                    if out.keys().any(|known| known.starts_with(&inner)) { format!("{path}[{index}]") } else { inner };
                flatten(inner, element, out);
            }
        }
        Value::Null if path.is_empty() => {}
        leaf => _ = out.insert(path, leaf.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use coracle_store::{MemoryStore, Op, Txn};
    use serde_json::json;

    use super::*;

    async fn put(store: &dyn Store, value: Value) {
        let put = Op::Put { key: "/registry/x".into(), value: value.to_string().into(), lease: 0 };
        store.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap();
    }

    fn scaled(replicas: u8, managers: &[(&str, &str, u8)]) -> Value {
        let entry = |(manager, subresource, second): &(&str, &str, u8)| {
            json!({
                "manager": manager, "operation": "Update", "subresource": subresource, "time": format!("T{second}"),
            })
        };
        let entries: Vec<Value> = managers.iter().map(entry).collect();
        json!({"metadata": {"managedFields": entries}, "spec": {"replicas": replicas}})
    }

    #[tokio::test]
    async fn every_revision_tells_who_changed_what() {
        let store = MemoryStore::new();
        put(&*store, scaled(1, &[("kubectl", "", 1)])).await;
        put(&*store, scaled(2, &[("kubectl", "", 1), ("hpa", "scale", 2)])).await;
        let delete = Txn { success: vec![Op::Delete(KeyRange::key("/registry/x"))], ..Txn::default() };
        store.txn(delete).await.unwrap();
        put(&*store, scaled(3, &[("kubectl", "", 3)])).await;
        let all = told(&read(&*store, "/registry/x").await.unwrap());
        let rest = "revision 4, deleted\nrevision 5, created, Update by kubectl at T3\n  + spec.replicas: 3\n";
        let scaling = "revision 3, Update by hpa (scale) at T2\n  - spec.replicas: 1\n  + spec.replicas: 2\n";
        let creation = "revision 2, created, Update by kubectl at T1\n  + spec.replicas: 1\n";
        assert_eq!(all, format!("{creation}{scaling}{rest}"));
        store.compact(3).await.unwrap();
        let oldest = "revision 3, the oldest state that is kept (as of 3)\n  + spec.replicas: 2\n";
        assert_eq!(told(&read(&*store, "/registry/x").await.unwrap()), format!("{oldest}{rest}"));
    }

    #[test]
    fn elements_go_by_their_names() {
        let one = json!({"c": [{"name": "a", "image": "x"}]});
        let two = json!({"c": [{"name": "b", "image": "y"}, {"name": "a", "image": "x"}]});
        assert_eq!(difference(&one, &two), "  + c[b].image: \"y\"\n  + c[b].name: \"b\"\n");
        assert_eq!(difference(&json!({"l": [1, 2]}), &json!({"l": [1]})), "  - l[1]: 2\n");
        assert_eq!(difference(&json!({"e": {}}), &json!({"e": null})), "  - e: {}\n  + e: null\n");
    }
}
