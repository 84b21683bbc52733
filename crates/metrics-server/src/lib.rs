//! metrics-server: `metrics.k8s.io/v1beta1`, what nodes and pods use now, for `kubectl top` and for autoscaling.
//!
//! ```text
//! kubectl top, autoscaler ─► API server ─► this ─► API server ─► nodes/…/proxy/metrics/resource of each kubelet
//! ```
//!
//! An extension server behind an APIService, like upstream's, and a client of the API server only. Nothing is sampled
//! unless somebody asks: [`usage`] says how samples become rates, [`scrape`] how they are read. What is asked for
//! stands in [`api`], and [`kinds`] describes it.

mod api;
mod kinds;
mod register;
mod scrape;
mod usage;

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, header};
use kube::Client;
use tokio::sync::Mutex;

pub use register::{NAMESPACE, SERVICE, USER, register};

use self::usage::Usage;

/// A sample answers for so long: the shortest time over which a rate is good.
const FRESH: Duration = Duration::from_secs(10);
/// A rate over more than this says little about now: two samples are taken, [`SHORT_WINDOW`] apart.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);
const SHORT_WINDOW: Duration = Duration::from_secs(1);

/// The server.
pub struct MetricsServer {
    client: Client,
    /// Held while samples are taken, so that those who ask meanwhile get the same.
    sampled: Mutex<Sampled>,
}

#[derive(Debug, Default)]
struct Sampled {
    at: Option<coracle_clock::Instant>,
    usage: Usage,
}

impl MetricsServer {
    /// A server that reaches nodes and pods by this client.
    pub fn new(client: Client) -> Self {
        MetricsServer { client, sampled: Mutex::default() }
    }

    /// Answers a request, which is authenticated and authorised.
    pub async fn answer(&self, parts: &Parts) -> Response<Bytes> {
        let (code, body) = match api::answer(self, parts).await {
            Ok(body) => (200, body),
            Err(api::Refusal { code, status }) => (code, status.to_string().into()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        response
    }

    /// Reads something from usage that is fresh.
    async fn with_usage<T>(&self, read: impl FnOnce(&Usage) -> T) -> T {
        let mut sampled = self.sampled.lock().await;
        let age = sampled.at.map(|at| coracle_clock::instant() - at);
        if age.is_none_or(|age| age > LONGEST_WINDOW) {
            self.sample(&mut sampled).await;
            coracle_clock::sleep(SHORT_WINDOW).await;
        }
        if age.is_none_or(|age| age >= FRESH) {
            self.sample(&mut sampled).await;
        }
        read(&sampled.usage)
    }

    async fn sample(&self, sampled: &mut Sampled) {
        sampled.at = Some(coracle_clock::instant());
        sampled.usage.add(scrape::all(&self.client).await);
    }
}
