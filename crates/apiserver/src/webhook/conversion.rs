//! Objects in other versions: the one step between what is stored and what a request speaks.
//!
//! Built-in kinds, and custom resources with `strategy: None`, are [converted](convert::to) here and now. All others
//! are their conversion webhook's: one `ConversionReview` asks for all objects that are not in the wanted version
//! yet, or for as many as make a megabyte. Who needs what somebody else asks for just then waits for that answer, so
//! that a thousand watchers are one question.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use coracle_api::custom::conversion::{Review, ReviewError, review_version};
use coracle_api::{ApiError, ApiResult, Resource};
use coracle_client::metrics::{Histogram, head, line};
use coracle_clock::Instant;
use coracle_store::Revision;
use serde_json::Value;

use super::Webhooks;
use crate::storage::{Entry, Row, convert};

/// How long a webhook may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// With so much a question is long enough: an answer may be several times as long, and has its limit, too.
const BATCH_BYTES: usize = 1024 * 1024;

impl Webhooks {
    /// Objects of one resource in the version of `to`.
    ///
    /// # Errors
    /// 500 without a reason, as upstream has it, if the conversion webhook cannot do it.
    pub async fn convert(&self, mut objects: Vec<Value>, to: &Resource) -> ApiResult<Vec<Value>> {
        let Some(webhook) = to.custom.as_ref().and_then(|kind| kind.webhook.as_ref()) else {
            objects.iter_mut().for_each(|object| convert::to(object, to));
            return Ok(objects);
        };
        let version = to.api_version();
        let (mut at, mut asked) = (0, Vec::new());
        while at < objects.len() {
            let (start, mut bytes) = (at, 0);
            while at < objects.len() && bytes < BATCH_BYTES {
                if objects[at]["apiVersion"] != version {
                    bytes += objects[at].to_string().len();
                    asked.push(objects[at].take());
                }
                at += 1;
            }
            if asked.is_empty() {
                break;
            }
            let failed = |message| ApiError { code: 500, reason: "", message, details: Value::Null };
            let mut converted = self.review(webhook, std::mem::take(&mut asked), to).await.map_err(failed)?.into_iter();
            for object in objects[start..at].iter_mut().filter(|object| object.is_null()) {
                *object = converted.next().unwrap_or_default();
                convert::prune(object, to);
            }
        }
        Ok(objects)
    }

    /// One object in the version of `to`.
    ///
    /// # Errors
    /// As [`Webhooks::convert`].
    pub async fn convert_one(&self, object: Value, to: &Resource) -> ApiResult<Value> {
        Ok(self.convert(vec![object], to).await?.pop().unwrap_or_default())
    }

    async fn review(&self, webhook: &Value, objects: Vec<Value>, to: &Resource) -> Result<Vec<Value>, String> {
        let version =
            review_version(&webhook["conversionReviewVersions"]).ok_or("no supported conversion review versions")?;
        let review = Review { uid: coracle_clock::uuid(), version, to, objects };
        let since = coracle_clock::instant();
        let converted = match self.call(&webhook["clientConfig"], &review.body(), TIMEOUT).await {
            Ok(mut answer) => review.converted(&mut answer),
            Err(error) => Err(review.failed("conversion_webhook_call_failure", error)),
        };
        self.conversions.observe(&review, converted.as_ref().err(), since);
        converted.map_err(|error| error.message)
    }

    /// Stored objects as a row's version shows them.
    ///
    /// # Errors
    /// As [`Webhooks::convert`].
    pub async fn present(&self, row: &Row, mut entries: Vec<Arc<Entry>>) -> ApiResult<Vec<Arc<Entry>>> {
        let version = row.resource.api_version();
        let mut strange: Vec<usize> = (0..entries.len()).filter(|at| !row.shows(&entries[*at].stored)).collect();
        let look = |entries: &mut [Arc<Entry>], strange: &mut Vec<usize>| {
            strange.retain(|at| match entries[*at].view(&version) {
                Some(view) => {
                    entries[*at] = view;
                    false
                }
                None => true,
            });
        };
        look(&mut entries, &mut strange);
        let Some(first) = strange.first() else { return Ok(entries) };
        // What took a call is kept; the rest is made anew faster than memory is found for it.
        let keep = row.resource.custom.as_ref().is_some_and(|kind| kind.webhook.is_some());
        let since = coracle_clock::instant();
        let turn = keep.then(|| self.conversions.turn(&version, &entries[*first]));
        let mut turn = match &turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        if let Some(Some((at, error))) = turn.as_deref()
            && *at >= since
        {
            return Err(error.clone());
        }
        look(&mut entries, &mut strange);
        let objects = strange.iter().map(|at| entries[*at].parse()).collect();
        let converted = self.convert(objects, &row.resource).await;
        if let (Some(turn), Err(error)) = (&mut turn, &converted) {
            **turn = Some((coracle_clock::instant(), error.clone()));
        }
        for (at, object) in strange.into_iter().zip(converted?) {
            entries[at] = entries[at].seen_as(&object, keep);
        }
        Ok(entries)
    }
}

/// Held by who asks for an object in another version; in it is when and why that failed.
type Turn = tokio::sync::Mutex<Option<(Instant, ApiError)>>;
/// The version that is wanted, and key and revision of the object with which the question begins.
type Question = (String, Arc<str>, Revision);

/// What conversion webhooks are asked just now, and how they did so far.
#[derive(Debug, Default)]
pub(super) struct Conversions {
    turns: Mutex<BTreeMap<Question, Weak<Turn>>>,
    /// By result and failure type.
    calls: Mutex<BTreeMap<String, Histogram>>,
    /// By definition, versions and success.
    conversions: Mutex<BTreeMap<String, Histogram>>,
}

const CALL_BOUNDS: [f64; 15] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
const CONVERSION_BOUNDS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

impl Conversions {
    fn turn(&self, version: &str, entry: &Entry) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (version.to_owned(), entry.key.clone(), entry.revision);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::<Turn>::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    fn observe(&self, review: &Review<'_>, error: Option<&ReviewError>, since: Instant) {
        let took = coracle_clock::instant().duration_since(since);
        let count = |all: &Mutex<BTreeMap<String, Histogram>>, labels: String, bounds| {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(labels).or_insert_with(|| Histogram::new(bounds)).observe(took);
        };
        let result = if error.is_some() { "failure" } else { "success" };
        let failure = error.map_or("", |error| error.failure);
        count(&self.calls, format!("failure_type=\"{failure}\",result=\"{result}\""), &CALL_BOUNDS);
        let (plural, group, to) = (&review.to.plural, &review.to.group, &review.to.version);
        let from = review.objects[0]["apiVersion"].as_str().unwrap_or_default();
        let (from, succeeded) = (from.rsplit('/').next().unwrap_or_default(), error.is_none());
        let labels = format!(
            "crd_name=\"{plural}.{group}\",from_version=\"{from}\",succeeded=\"{succeeded}\",to_version=\"{to}\""
        );
        count(&self.conversions, labels, &CONVERSION_BOUNDS);
    }

    /// Writes the metrics.
    pub(super) fn render(&self, out: &mut String) {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "apiserver_conversion_webhook_request_total";
        let help = "Counter for conversion webhook requests with success/failure and failure error type";
        head(out, name, "counter", help);
        calls.iter().for_each(|(labels, calls)| line(out, name, labels, calls.count()));
        let durations = [
            ("apiserver_conversion_webhook_duration_seconds", "Conversion webhook request latency", calls),
            (
                "apiserver_crd_conversion_webhook_duration_seconds",
                "CRD webhook conversion duration in seconds",
                self.conversions.lock().unwrap_or_else(PoisonError::into_inner),
            ),
        ];
        for (name, help, all) in durations {
            head(out, name, "histogram", help);
            all.iter().for_each(|(labels, took)| took.render(out, name, labels));
        }
    }
}
