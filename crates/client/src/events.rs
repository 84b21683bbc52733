//! Events: what components tell people about objects.
//!
//! A repetition (same object, type, reason and message within ten minutes) raises the count of the event that is
//! there instead of adding one, which is how `kubectl` comes to print `3s (x4 over 2m)`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

use crate::written;

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Things go as they should.
    Normal,
    /// Somebody may want to look.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// How long a repetition is counted on the old event.
const REPETITION_WINDOW: Duration = Duration::from_secs(600);
/// So many events about one object are written at once, and then one more every so often: upstream's limit, so that what
/// goes wrong again and again drowns nothing.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// When so many are remembered, the older half is forgotten.
const REMEMBERED_MAX: usize = 4096;

struct Occurrence {
    object: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: jiff::Timestamp,
}

/// Records events in the name of one component. Never blocks and never fails: events are best effort.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    sender: mpsc::Sender<Occurrence>,
}

impl EventRecorder {
    /// A recorder for `component` (the `From` column of `kubectl describe`), on `host` for node components.
    /// Its events are written by a task that ends when the last clone is dropped.
    pub fn new(client: Client, component: &str, host: Option<&str>) -> Self {
        let (sender, receiver) = mpsc::channel(1000);
        let source = EventSource { component: Some(component.into()), host: host.map(Into::into) };
        tokio::spawn(write_events(client, source, receiver));
        EventRecorder { sender }
    }

    /// Records that `reason` happened to `object`. A full queue drops the event, as upstream does.
    pub fn event(&self, object: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let occurrence = Occurrence {
            object: object.clone(),
            kind,
            reason: reason.into(),
            message: message.into(),
            at: coracle_clock::now(),
        };
        if self.sender.try_send(occurrence).is_err() {
            tracing::debug!(reason, "event dropped");
        }
    }
}

struct Written {
    name: String,
    count: i32,
    last: jiff::Timestamp,
}

fn forget_older_half<T>(remembered: &mut BTreeMap<String, T>, time: impl Fn(&T) -> jiff::Timestamp) {
    let mut times: Vec<_> = remembered.values().map(&time).collect();
    times.sort_unstable();
    let middle = times.get(times.len() / 2).copied();
    remembered.retain(|_, one| Some(time(one)) > middle);
}

/// How many events may be written about each object, and as of when.
#[derive(Default)]
struct Allowance(BTreeMap<String, (f64, jiff::Timestamp)>);

impl Allowance {
    /// Whether one more may be written.
    fn take(&mut self, object: &str, now: jiff::Timestamp) -> bool {
        let at = |left: f64, since: jiff::Timestamp| {
            (left + now.duration_since(since).as_secs_f64() / REFILL.as_secs_f64()).min(BURST)
        };
        if self.0.len() >= REMEMBERED_MAX {
            forget_older_half(&mut self.0, |(_, since)| *since);
        }
        let (left, since) = self.0.entry(object.to_owned()).or_insert((BURST, now));
        (*left, *since) = (at(*left, *since), now);
        let may = *left >= 1.0;
        *left -= f64::from(u8::from(may));
        may
    }
}

async fn write_events(client: Client, source: EventSource, mut receiver: mpsc::Receiver<Occurrence>) {
    let (mut known, mut allowance) = (BTreeMap::<String, Written>::new(), Allowance::default());
    while let Some(occurrence) = receiver.recv().await {
        let object = &occurrence.object;
        let about = format!("{:?}/{:?}/{:?}/{:?}", object.kind, object.namespace, object.name, object.uid);
        if !allowance.take(&about, occurrence.at) {
            continue;
        }
        let what = (object.field_path.as_deref(), occurrence.kind.as_str(), &occurrence.reason, &occurrence.message);
        let key = format!("{about}/{what:?}");
        if known.len() >= REMEMBERED_MAX {
            forget_older_half(&mut known, |written| written.last);
        }
        // Events about cluster-scoped objects live in the default namespace.
        let namespace = object.namespace.clone().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let repeated =
            known.get_mut(&key).filter(|w| occurrence.at.duration_since(w.last).unsigned_abs() < REPETITION_WINDOW);
        if let Some(old) = repeated {
            old.count += 1;
            old.last = occurrence.at;
            let patch = json!({ "count": old.count, "lastTimestamp": Time(occurrence.at) });
            match api.patch(&old.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => continue,
                Err(error) => tracing::debug!(%error, "event not updated; writing a new one"),
            }
        }
        let event = new_event(&occurrence, &source, namespace);
        let name = event.metadata.name.clone().unwrap_or_default();
        match written::create(&client, event.metadata.namespace.as_deref().unwrap_or_default(), &event).await {
            Ok(_) => drop(known.insert(key, Written { name, count: 1, last: occurrence.at })),
            Err(error) => tracing::debug!(reason = occurrence.reason, %error, "event not written"),
        }
    }
}

fn new_event(occurrence: &Occurrence, source: &EventSource, namespace: String) -> Event {
    // Upstream names an event after its object and the time in nanoseconds.
    let name = format!(
        "{}.{:x}{}",
        occurrence.object.name.as_deref().unwrap_or_default(),
        occurrence.at.as_nanosecond(),
        coracle_clock::name_suffix(2)
    );
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
        involved_object: occurrence.object.clone(),
        type_: Some(occurrence.kind.as_str().into()),
        reason: Some(occurrence.reason.clone()),
        message: Some(occurrence.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(occurrence.at)),
        last_timestamp: Some(Time(occurrence.at)),
        reporting_component: source.component.clone(),
        reporting_instance: Some(source.host.clone().unwrap_or_default()),
        source: Some(source.clone()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_written_25_times_and_then_every_five_minutes() {
        let mut allowance = Allowance::default();
        let second = |second: i64| jiff::Timestamp::from_second(second).unwrap();
        let mut written = |object: &str, seconds: std::ops::Range<i64>| {
            seconds.step_by(15).filter(|at| allowance.take(object, second(*at))).count()
        };
        assert_eq!(written("a", 0..600), 26);
        assert_eq!(written("a", 600..4200), 12);
        assert_eq!(written("b", 4200..4500), 20);
        assert_eq!(written("a", 44_200..44_600), 25 + 1);
    }
}
