//! Objects in other versions: the one step between what is stored and what a request speaks.
//!
//! Built-in kinds, and custom resources with `strategy: None`, are [converted](convert::to) here and now. All others
//! are their conversion webhook's: one `ConversionReview` asks for all objects that are not in the wanted version
//! yet, or for as many as make a megabyte.

use std::sync::Arc;
use std::time::Duration;

use coracle_api::custom::conversion::{Review, review_version};
use coracle_api::{ApiError, ApiResult, Resource};
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
        let answer = self.call(&webhook["clientConfig"], &review.body(), TIMEOUT).await;
        let failed = |error| format!("conversion webhook for {} failed: {error}", review.subject());
        review.converted(&mut answer.map_err(failed)?)
    }

    /// Stored objects as a row's version shows them.
    ///
    /// # Errors
    /// As [`Webhooks::convert`].
    pub async fn present(&self, row: &Row, mut entries: Vec<Arc<Entry>>) -> ApiResult<Vec<Arc<Entry>>> {
        if entries.iter().all(|entry| row.shows(&entry.stored)) {
            return Ok(entries);
        }
        let version = row.resource.api_version();
        let mut strange = Vec::new();
        for (at, entry) in entries.iter_mut().enumerate().filter(|(_, entry)| !row.shows(&entry.stored)) {
            match entry.view(&version) {
                Some(view) => *entry = view,
                None => strange.push(at),
            }
        }
        let objects = strange.iter().map(|at| entries[*at].parse()).collect();
        // What took a call is kept; the rest is made anew faster than memory is found for it.
        let keep = row.resource.custom.as_ref().is_some_and(|kind| kind.webhook.is_some());
        for (at, object) in strange.into_iter().zip(self.convert(objects, &row.resource).await?) {
            entries[at] = entries[at].seen_as(&object, keep);
        }
        Ok(entries)
    }
}
