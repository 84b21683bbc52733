//! `/healthz`, `/livez`, `/readyz`: whether the server lives, and whether it is ready for clients.
//!
//! Ready means: the store answers, the caches have caught up with it, and every start hook is done.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use http::Response;
use http::header::HeaderValue;

use crate::body::Body;
use crate::render;
use crate::storage::Storage;

/// Work that must be done before the server is ready, such as creating the first namespaces.
#[derive(Debug, Default)]
pub struct StartHooks(RwLock<BTreeMap<&'static str, bool>>);

impl StartHooks {
    /// Not ready until `name` is done.
    pub fn begin(&self, name: &'static str) {
        self.set(name, false);
    }

    /// `name` is done.
    pub fn finish(&self, name: &'static str) {
        self.set(name, true);
    }

    fn set(&self, name: &'static str, done: bool) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name, done);
    }

    fn all(&self) -> Vec<(String, bool)> {
        let hooks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        hooks.iter().map(|(name, done)| (format!("poststarthook/{name}"), *done)).collect()
    }
}

/// Whether a path is one of the health checks, which everybody may ask.
pub fn is_check(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|check| path.strip_prefix(check).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Answers a health check: `ok`, or what is wrong.
pub async fn answer(storage: &Storage, hooks: &StartHooks, path: &str, verbose: bool) -> Response<Body> {
    let mut segments = path.trim_matches('/').splitn(2, '/');
    let check = segments.next().unwrap_or_default();
    let only = segments.next();
    let mut checks = vec![("ping".to_owned(), true)];
    if check != "livez" {
        checks.push(("etcd".to_owned(), storage.store().size_bytes().await.is_ok()));
        checks.push(("informer-sync".to_owned(), storage.fresh().await.is_ok()));
    }
    checks.extend(hooks.all());
    checks.retain(|(name, _)| only.is_none_or(|only| only == name));
    if checks.is_empty() {
        return render::refusal(&coracle_api::ApiError::no_such_resource());
    }
    let healthy = checks.iter().all(|(_, ok)| *ok);
    let mut text = String::new();
    for (name, ok) in &checks {
        text.push_str(&if *ok { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: not finished\n") });
    }
    text.push_str(&format!("{check} check {}\n", if healthy { "passed" } else { "failed" }));
    let body = if healthy && !verbose { "ok".to_owned() } else { text };
    let mut response = render::text(if healthy { 200 } else { 500 }, body);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
