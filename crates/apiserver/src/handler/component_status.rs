//! ComponentStatuses: objects that nobody stores. The store is asked how it does at every request; the other components
//! are clients, of which the server knows no more than their Leases say.

use coracle_api::ApiResult;
use http::Response;
use serde_json::json;

use super::Call;
use super::modify::Outcome;
use crate::body::Body;
use crate::render;
use crate::storage::codec;

impl Call {
    /// Answers `get` and `list`.
    pub(super) async fn component_status(&self) -> ApiResult<Response<Body>> {
        let (status, message) = match self.server.config.storage.store().size_bytes().await {
            Ok(_) => ("True", "ok".to_owned()),
            Err(error) => ("False", error.to_string()),
        };
        let object = json!({
            "kind": "ComponentStatus", "apiVersion": "v1",
            "metadata": { "name": "etcd-0", "creationTimestamp": null },
            "conditions": [{ "type": "Healthy", "status": status, "message": message }],
        });
        match (self.info.verb.as_str(), self.info.name.as_str()) {
            ("list", _) => {
                let (resource, items) = (&self.row.resource, std::iter::once(codec::whole(&object)));
                Ok(render::list(resource, json!({}), items, self.accept, self.options.include_object))
            }
            (_, "etcd-0") => self.answer_object(200, Outcome::Unwritten(object)).await,
            _ => Err(self.not_found()),
        }
    }
}
