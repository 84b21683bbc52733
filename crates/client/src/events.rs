//! Events: what components tell people about objects.
//!
//! A repetition (same object, type, reason and message) raises the count of the event that is there instead of adding
//! one, which is how `kubectl` comes to print `3s (x4 over 2m)`. Where ever new messages are told of one object for the
//! same reason, one event stands for all further ones, and says what the last of them did. So much is client-go's
//! `EventCorrelator`.

use std::collections::{BTreeMap, BTreeSet};
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

/// With so many messages the events about one object for one reason are combined, if no pause between them is longer
/// than this.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
const COMBINED: &str = "(combined from similar events): ";
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

/// What is remembered of an event.
#[derive(Clone, Debug)]
struct Observed {
    name: String,
    count: i32,
    first: jiff::Timestamp,
    last: jiff::Timestamp,
}

/// The messages told of one object for one reason.
struct Similar {
    messages: BTreeSet<String>,
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

/// Decides what becomes of each occurrence.
#[derive(Default)]
struct Correlator {
    similar: BTreeMap<String, Similar>,
    observed: BTreeMap<String, Observed>,
    allowance: Allowance,
}

impl Correlator {
    /// The event that stands for an occurrence, and its message; none if it is not to be written.
    fn correlate(&mut self, occurrence: &Occurrence) -> Option<(Observed, String)> {
        let Occurrence { object, kind, reason, message, at } = occurrence;
        let about = format!("{:?}/{:?}/{:?}/{:?}", object.kind, object.namespace, object.name, object.uid);
        let why = format!("{about}/{}/{reason}", kind.as_str());
        let (key, message) = if self.is_one_of_many(&why, message, *at) {
            (why, format!("{COMBINED}{message}"))
        } else {
            (format!("{why}/{:?}/{message}", object.field_path), message.clone())
        };
        if self.observed.len() >= REMEMBERED_MAX {
            forget_older_half(&mut self.observed, |observed| observed.last);
        }
        let observed = self.observed.entry(key).or_insert_with(|| Observed {
            // Upstream names an event after its object and the time in nanoseconds.
            name: format!(
                "{}.{:x}{}",
                object.name.as_deref().unwrap_or_default(),
                at.as_nanosecond(),
                coracle_clock::name_suffix(2)
            ),
            count: 0,
            first: *at,
            last: *at,
        });
        (observed.count, observed.last) = (observed.count.saturating_add(1), *at);
        // What is not written is counted all the same.
        self.allowance.take(&about, *at).then(|| (observed.clone(), message))
    }

    /// Whether a message is beyond those that have events of their own.
    fn is_one_of_many(&mut self, why: &str, message: &str, now: jiff::Timestamp) -> bool {
        if self.similar.len() >= REMEMBERED_MAX {
            forget_older_half(&mut self.similar, |similar| similar.last);
        }
        let new = || Similar { messages: BTreeSet::new(), last: now };
        let similar = self.similar.entry(why.to_owned()).or_insert_with(new);
        if now.duration_since(similar.last).unsigned_abs() > SIMILAR_WINDOW {
            *similar = new();
        }
        similar.last = now;
        let is_known = similar.messages.contains(message);
        let is_one = !is_known && similar.messages.len() + 1 >= SIMILAR_MAX;
        if !is_known && !is_one {
            similar.messages.insert(message.to_owned());
        }
        is_one
    }
}

async fn write_events(client: Client, source: EventSource, mut receiver: mpsc::Receiver<Occurrence>) {
    let mut correlator = Correlator::default();
    while let Some(occurrence) = receiver.recv().await {
        let Some((observed, message)) = correlator.correlate(&occurrence) else { continue };
        // Events about cluster-scoped objects live in the default namespace.
        let namespace = occurrence.object.namespace.clone().filter(|ns| !ns.is_empty());
        let namespace = namespace.unwrap_or_else(|| "default".into());
        if observed.count > 1 {
            let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
            let patch = json!({ "count": observed.count, "lastTimestamp": Time(observed.last), "message": message });
            match api.patch(&observed.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => continue,
                // The server has forgotten it, or was never told.
                Err(kube::Error::Api(refusal)) if refusal.code == 404 => {}
                Err(error) => {
                    tracing::debug!(reason = occurrence.reason, %error, "event not updated");
                    continue;
                }
            }
        }
        let reason = occurrence.reason.clone();
        let event = new_event(occurrence, observed, message, &source, namespace.clone());
        if let Err(error) = written::create(&client, &namespace, &event).await {
            tracing::debug!(reason, %error, "event not written");
        }
    }
}

fn new_event(
    occurrence: Occurrence,
    observed: Observed,
    message: String,
    source: &EventSource,
    namespace: String,
) -> Event {
    Event {
        metadata: ObjectMeta { name: Some(observed.name), namespace: Some(namespace), ..Default::default() },
        involved_object: occurrence.object,
        type_: Some(occurrence.kind.as_str().into()),
        reason: Some(occurrence.reason),
        message: Some(message),
        count: Some(observed.count),
        first_timestamp: Some(Time(observed.first)),
        last_timestamp: Some(Time(observed.last)),
        reporting_component: source.component.clone(),
        reporting_instance: Some(source.host.clone().unwrap_or_default()),
        source: Some(source.clone()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written of messages told of one object for one reason: in which second, what, and what then stands in
    /// which event.
    #[track_caller]
    fn check(told: &[(i64, &str)], expected: &[&str]) {
        let (mut correlator, mut names) = (Correlator::default(), Vec::new());
        let written = told.iter().filter_map(|&(second, message)| {
            let object = ObjectReference { name: Some("o".into()), ..ObjectReference::default() };
            let at = jiff::Timestamp::from_second(second).unwrap();
            let (kind, message) = (EventType::Normal, message.to_owned());
            let (observed, message) =
                correlator.correlate(&Occurrence { object, kind, reason: "Reason".into(), message, at })?;
            let number = names.iter().position(|name| *name == observed.name).unwrap_or_else(|| {
                names.push(observed.name.clone());
                names.len() - 1
            });
            Some(format!(
                "{number}: {message} (x{} over {}s)",
                observed.count,
                (observed.last - observed.first).get_seconds()
            ))
        });
        assert_eq!(written.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn repetitions_are_counted_and_many_messages_combined() {
        check(
            &[(0, "a"), (5, "b"), (9, "a"), (9000, "a")],
            &["0: a (x1 over 0s)", "1: b (x1 over 0s)", "0: a (x2 over 9s)", "0: a (x3 over 9000s)"],
        );
        let nine: Vec<_> = ["1", "2", "3", "4", "5", "6", "7", "8", "9"].map(|message| (0, message)).into();
        let alone: Vec<_> = nine.iter().enumerate().map(|(i, (_, text))| format!("{i}: {text} (x1 over 0s)")).collect();
        let with = |told: &[(i64, &'static str)], expected: &[&str]| {
            let expected: Vec<&str> = alone.iter().map(String::as_str).chain(expected.iter().copied()).collect();
            check(&[&nine, told].concat(), &expected);
        };
        with(
            &[(1, "10"), (2, "11"), (3, "4"), (600, "10"), (1201, "10")],
            &[
                "9: (combined from similar events): 10 (x1 over 0s)",
                "9: (combined from similar events): 11 (x2 over 1s)",
                "3: 4 (x2 over 3s)",
                "9: (combined from similar events): 10 (x3 over 599s)",
                // After more than ten quiet minutes they are no longer many.
                "10: 10 (x1 over 0s)",
            ],
        );
        with(&[(600, "10")], &["9: (combined from similar events): 10 (x1 over 0s)"]);
        with(&[(601, "10")], &["9: 10 (x1 over 0s)"]);
    }

    #[test]
    fn what_is_not_written_is_counted() {
        let often: Vec<_> = (0..26).map(|_| (0, "a")).chain([(300, "a")]).collect();
        let expected: Vec<_> = (1..=25).map(|count| format!("0: a (x{count} over 0s)")).collect();
        let expected = expected.iter().map(String::as_str).chain(["0: a (x27 over 300s)"]).collect::<Vec<_>>();
        check(&often, &expected);
    }

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
