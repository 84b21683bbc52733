//! DefaultBinder: writes the decision as a Binding; the API server sets `spec.nodeName` by it.

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;

use crate::framework::{Placement, Plugin, Point, Work};

#[derive(Debug)]
pub(super) struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Bind]
    }

    fn bind(&self, placement: &Placement) -> Option<Work<anyhow::Result<()>>> {
        let key = placement.pod.key.clone();
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                // Not another pod of the same name.
                uid: placement.pod.pod.metadata.uid.clone(),
                ..Default::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(placement.node.clone()),
                ..Default::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(placement.client.clone(), &key.namespace);
        Some(Box::pin(async move {
            let _: Value = api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await?;
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use coracle_client::{EventRecorder, Informers};
    use http::{Method, Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::json;
    use tokio_util::sync::CancellationToken;
    use tower::{BoxError, service_fn};

    use super::*;
    use crate::testing::pod;
    use crate::volumes::Volumes;

    type Asked = Arc<Mutex<Vec<(String, Value)>>>;

    /// An API server that answers every POST with a code, and what it was asked.
    fn server(code: u16) -> (Client, Asked) {
        let asked = Asked::default();
        let note = asked.clone();
        let answer = json!({ "kind": "Status", "apiVersion": "v1", "code": code,
                             "status": if code < 300 { "Success" } else { "Failure" } });
        let service = service_fn(move |request: Request<Body>| {
            let (note, answer) = (note.clone(), answer.to_string());
            async move {
                let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                let body = request.into_body().collect_bytes().await?;
                if method != Method::POST || path.ends_with("/events") {
                    return Ok(Response::builder().status(404).body(Body::empty())?);
                }
                note.lock().unwrap().push((path, serde_json::from_slice(&body)?));
                Ok::<_, BoxError>(Response::builder().status(code).body(Body::from(answer.into_bytes()))?)
            }
        });
        (Client::new(service, "default"), asked)
    }

    #[tokio::test]
    async fn the_decision_is_written_as_a_binding_and_a_refusal_comes_back() {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": { "name": "web", "namespace": "default", "uid": "web" },
            "target": { "kind": "Node", "name": "a" },
        });
        for (code, expected) in [(201, None), (404, Some(404)), (409, Some(409)), (500, Some(500))] {
            let (client, asked) = server(code);
            let volumes = Volumes::new(Informers::new(client.clone(), CancellationToken::new()).get());
            let (pod, node) = (Arc::new(pod("web").info()), "a".to_owned());
            let recorder = EventRecorder::new(client.clone(), "default-scheduler", None);
            let placement = Placement { client, recorder, volumes, pod, node, assumed: Vec::new() };
            let refused = DefaultBinder.bind(&placement).unwrap().await.err().map(|error| match error.downcast_ref() {
                Some(kube::Error::Api(status)) => status.code,
                _ => panic!("{error:?}"),
            });
            assert_eq!(refused, expected);
            let path = "/api/v1/namespaces/default/pods/web/binding".to_owned();
            assert_eq!(*asked.lock().unwrap(), [(path, binding.clone())]);
        }
    }
}
