//! What the server answers: one row per path.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::logs::{LogRequest, render};
use super::lookup::{LookupError, PodLookup};
use super::query::{Query, segments};
use super::stats::{self, Meter};
use super::streaming::{Kind, PortForward, Refusal, port_forward, remote_command};
use super::tls::Identity;
use crate::runtime::{ContainerFilter, ContainerState, ContainerStats, ExecOptions, Runtime, RuntimeError};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What requests are answered from.
#[derive(Clone)]
pub struct Routes {
    /// The node's name.
    pub node: String,
    /// Finds containers.
    pub pods: Arc<dyn PodLookup>,
    /// Runs them.
    pub runtime: Arc<dyn Runtime>,
    /// By it the API server is asked who may do what.
    pub client: kube::Client,
    /// What containers used before.
    pub meter: Arc<Meter>,
}

impl Routes {
    /// Answers a request of a client that is known by its certificate, or not at all.
    pub async fn answer<B>(&self, request: Request<B>, client: Option<&Identity>) -> Response<Body> {
        match self.authorize(&request, client).await {
            Ok(()) => self.answer_api_server(request).await,
            Err(refusal) => refused(refusal),
        }
    }

    /// Answers the API server, which has asked already who may do what.
    pub async fn answer_api_server<B>(&self, request: Request<B>) -> Response<Body> {
        self.route(request).await.unwrap_or_else(refused)
    }

    async fn route<B>(&self, request: Request<B>) -> Result<Response<Body>, Refusal> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let path = segments(request.uri().path());
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let is_get = request.method() == Method::GET;
        match path[..] {
            ["healthz"] if is_get => self.healthz().await,
            ["pods"] if is_get => Ok(json(&self.pods_list().await)),
            ["runningpods"] if is_get => self.running_pods().await.map(|pods| json(&pods)),
            ["stats", "summary"] => self.summary().await,
            ["metrics"] if is_get => {
                let mut counted = String::new();
                coracle_client::metrics::render(&mut counted);
                Ok(text(StatusCode::OK, counted))
            }
            ["metrics", "resource"] if is_get => self.metrics().await,
            ["containerLogs", namespace, pod, container] if is_get => {
                self.container_logs(namespace, pod, container, &query).await
            }
            // Clients that know a pod's uid put it before the container's name.
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                self.remote_command(request, Kind::Exec, [namespace, pod, container], &query).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                self.remote_command(request, Kind::Attach, [namespace, pod, container], &query).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                self.forward(request, namespace, pod, &query).await
            }
            _ => Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found")),
        }
    }

    /// The kubelet lives; whether its runtime does is said by the node's status.
    async fn healthz(&self) -> Result<Response<Body>, Refusal> {
        Ok(text(StatusCode::OK, "ok".into()))
    }

    async fn pods_list(&self) -> Value {
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.pods.pods().await})
    }

    /// What runs, seen from the runtime: pods that nobody wants any more among it.
    async fn running_pods(&self) -> Result<Value, Refusal> {
        let running = ContainerFilter { state: Some(ContainerState::Running), ..Default::default() };
        let mut pods = std::collections::BTreeMap::<_, Vec<Value>>::new();
        for container in self.runtime.list_containers(&running).await.map_err(of_runtime)? {
            let entry = json!({"name": container.name, "image": container.image, "resources": {}});
            pods.entry(container.pod).or_default().push(entry);
        }
        let items = pods.into_iter().map(|(pod, containers)| {
            json!({
                "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "spec": {"containers": containers},
                "status": {},
            })
        });
        Ok(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items.collect::<Vec<_>>()}))
    }

    async fn summary(&self) -> Result<Response<Body>, Refusal> {
        let (pods, samples, node_nanos) = self.sample().await?;
        Ok(json(&stats::summary(&self.node, &pods, &samples, node_nanos)))
    }

    async fn metrics(&self) -> Result<Response<Body>, Refusal> {
        let (pods, samples, node_nanos) = self.sample().await?;
        Ok(text(StatusCode::OK, stats::resource_metrics(&pods, &samples, node_nanos)))
    }

    async fn sample(&self) -> Result<(Vec<Pod>, Vec<ContainerStats>, u64), Refusal> {
        let mut samples = self.runtime.list_stats().await.map_err(of_runtime)?;
        let node_nanos = self.meter.read(&mut samples);
        Ok((self.pods.pods().await, samples, node_nanos))
    }

    async fn container_logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let request = LogRequest::parse(query, coracle_clock::now())?;
        let id = self.pods.log_container(namespace, pod, container, request.previous).await.map_err(of_lookup)?;
        let log = self.runtime.logs(&id, &request.options).await.map_err(of_runtime)?;
        let frames = render(log, &request).map(|bytes| bytes.map(Frame::data).map_err(io::Error::other));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }

    async fn remote_command<B>(
        &self,
        request: Request<B>,
        kind: Kind,
        [namespace, pod, container]: [&str; 3],
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        only_get_or_post(&request)?;
        // Older clients write `input=1&output=1&error=1`.
        let flag = |name: &str, old: &str| query.flag(name) || query.flag(old);
        let tty = query.flag("tty");
        let options = ExecOptions {
            command: query.all("command"),
            tty,
            stdin: flag("stdin", "input"),
            stdout: flag("stdout", "output"),
            // A terminal has one output.
            stderr: flag("stderr", "error") && !tty,
        };
        if !(options.stdin || options.stdout || options.stderr) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr"));
        }
        let id = self.pods.running_container(namespace, pod, container).await.map_err(of_lookup)?;
        Ok(remote_command::<B, Empty>(request, kind, self.runtime.clone(), id, options)?.map(Empty::into))
    }

    async fn forward<B>(
        &self,
        request: Request<B>,
        namespace: &str,
        pod: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        only_get_or_post(&request)?;
        let ports = query.all("port").join(",").split(',').filter_map(|port| port.parse().ok()).collect();
        let sandbox = self.pods.sandbox(namespace, pod).await.map_err(of_lookup)?;
        let to = PortForward { runtime: self.runtime.clone(), sandbox, pod: pod.into(), ports };
        Ok(port_forward::<B, Empty>(request, to)?.map(Empty::into))
    }
}

fn refused(refusal: Refusal) -> Response<Body> {
    tracing::debug!(status = %refusal.status, refusal.message, "refused a request");
    text(refusal.status, refusal.message + "\n")
}

fn only_get_or_post<B>(request: &Request<B>) -> Result<(), Refusal> {
    match *request.method() {
        Method::GET | Method::POST => Ok(()),
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")),
    }
}

fn of_lookup(error: LookupError) -> Refusal {
    let status = match error {
        LookupError::NotFound(_) => StatusCode::NOT_FOUND,
        LookupError::BadRequest(_) => StatusCode::BAD_REQUEST,
        LookupError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, error.to_string())
}

fn of_runtime(error: RuntimeError) -> Refusal {
    let status = match error {
        RuntimeError::NotFound(_) => StatusCode::NOT_FOUND,
        RuntimeError::EngineDown(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, error.to_string())
}

/// The body of an answer that has none.
#[derive(Default)]
struct Empty;

impl From<Empty> for Body {
    fn from(_: Empty) -> Body {
        full(Bytes::new())
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
