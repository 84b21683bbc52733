//! `/healthz`, `/livez`, `/readyz`: whether the server lives, and whether it is ready for clients.
//!
//! Ready means: the store answers, the caches have caught up with it, every start hook is done, and nobody has asked
//! the server to stop. Each check has a path of its own (`/readyz/etcd`); `?verbose` lists them, `?exclude=etcd`
//! passes over one. How they came out is counted at `/metrics/slis`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, RwLock};

use coracle_api::ApiError;
use coracle_client::metrics::{head, line};
use futures::FutureExt;
use http::header::HeaderValue;
use http::{Response, Uri};

use crate::body::Body;
use crate::negotiate::Accept;
use crate::render;
use crate::request_info::query;
use crate::storage::Storage;

const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

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

/// How checks came out, by their labels: the last time, and how often each way.
#[derive(Debug, Default)]
pub struct Outcomes(Mutex<BTreeMap<String, (bool, [u64; 2])>>);

impl Outcomes {
    fn note(&self, endpoint: &str, name: &str, ok: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, counts) = all.entry(format!("name=\"{name}\",type=\"{endpoint}\"")).or_default();
        *last = ok;
        counts[usize::from(ok)] += 1;
    }

    /// `/metrics/slis`, as Prometheus text.
    pub fn render(&self) -> String {
        let (mut out, all) = (String::new(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let name = "kubernetes_healthcheck";
        head(&mut out, name, "gauge", "This metric records the result of a single healthcheck.");
        all.iter().for_each(|(labels, (ok, _))| line(&mut out, name, labels, u8::from(*ok)));
        let name = "kubernetes_healthchecks_total";
        head(&mut out, name, "counter", "This metric records the results of all healthcheck.");
        for (labels, (_, counts)) in all.iter() {
            for (status, count) in ["error", "success"].iter().zip(counts).filter(|(_, count)| **count > 0) {
                line(&mut out, name, &format!("{labels},status=\"{status}\""), count);
            }
        }
        out
    }
}

/// Endpoint and check of a path: `readyz` and `etcd` of `/readyz/etcd`.
fn parts(path: &str) -> Option<(&str, Option<&str>)> {
    let path = path.trim_matches('/');
    let (endpoint, check) = path.split_once('/').map_or((path, None), |(endpoint, check)| (endpoint, Some(check)));
    ENDPOINTS.contains(&endpoint).then_some((endpoint, check))
}

/// Whether a path is one of the health checks, which everybody may ask.
pub fn is_check(path: &str) -> bool {
    parts(path).is_some()
}

/// The paths of all endpoints and checks.
pub async fn paths(storage: &Storage, hooks: &StartHooks) -> Vec<String> {
    let mut paths = Vec::new();
    for endpoint in ENDPOINTS {
        paths.push(format!("/{endpoint}"));
        let checks = checks(storage, hooks, endpoint).await;
        paths.extend(checks.into_iter().map(|(name, _)| format!("/{endpoint}/{name}")));
    }
    paths
}

/// The checks of an endpoint, and whether each passes.
async fn checks(storage: &Storage, hooks: &StartHooks, endpoint: &str) -> Vec<(String, bool)> {
    let store = storage.store().size_bytes().await.is_ok();
    let mut checks = vec![("ping".to_owned(), true), ("log".to_owned(), true), ("etcd".to_owned(), store)];
    if endpoint == "readyz" {
        checks.push(("etcd-readiness".to_owned(), store));
        checks.push(("informer-sync".to_owned(), storage.fresh().await.is_ok()));
    }
    checks.extend(hooks.all());
    if endpoint == "readyz" {
        checks.push(("shutdown".to_owned(), storage.stopped().now_or_never().is_none()));
    }
    checks
}

/// Answers a health check: `ok`, or what is wrong.
pub async fn answer(storage: &Storage, hooks: &StartHooks, outcomes: &Outcomes, uri: &Uri) -> Response<Body> {
    let endpoint = parts(uri.path()).map_or("", |(endpoint, _)| endpoint);
    report(&checks(storage, hooks, endpoint).await, outcomes, uri)
}

/// Answers a health check by what passes: `ok`, or what is wrong.
pub fn report(checks: &[(String, bool)], outcomes: &Outcomes, uri: &Uri) -> Response<Body> {
    let Some((endpoint, only)) = parts(uri.path()) else {
        return render::refusal(&ApiError::no_such_resource(), Accept::default());
    };
    if let Some(only) = only {
        return match checks.iter().find(|(name, _)| name == only) {
            Some((_, true)) => answered(200, "ok".into()),
            Some((name, false)) => answered(500, format!("internal server error: {name} failed\n")),
            None => render::refusal(&ApiError::no_such_resource(), Accept::default()),
        };
    }
    let verbose = query(uri).any(|(key, _)| key == "verbose");
    let mut excluded: Vec<String> =
        query(uri).filter(|(key, _)| key == "exclude").map(|(_, value)| value.into_owned()).collect();
    let mut text = String::new();
    let mut healthy = true;
    for (name, ok) in checks {
        let before = excluded.len();
        excluded.retain(|excluded| excluded != name);
        if excluded.len() == before {
            outcomes.note(endpoint, name, *ok);
        }
        let line = match (excluded.len() < before, ok) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (_, true) => format!("[+]{name} ok\n"),
            _ => format!("[-]{name} failed: reason withheld\n"),
        };
        healthy &= !line.starts_with("[-]");
        text.push_str(&line);
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    match (healthy, verbose) {
        (true, false) => answered(200, "ok".into()),
        (true, true) => answered(200, format!("{text}{endpoint} check passed\n")),
        _ => answered(500, format!("{text}{endpoint} check failed\n")),
    }
}

fn answered(code: u16, text: String) -> Response<Body> {
    let mut response = render::text(code, text);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
