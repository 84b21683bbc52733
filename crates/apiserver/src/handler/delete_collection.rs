//! `deletecollection`: every selected object, one after the other.

use bytes::Bytes;
use coracle_api::ApiResult;
use http::Response;
use http::request::Parts;

use super::Call;
use super::delete::Deletion;
use crate::body::{Body, RequestBody};
use crate::render;
use crate::storage::codec;

impl Call {
    /// Deletes what the selectors select and answers with a list of it.
    pub(super) async fn delete_collection(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let options = self.delete_options(parts, body).await?;
        let (entries, meta) = self.select(&self.filter()?).await?;
        let mut items: Vec<Bytes> = Vec::with_capacity(entries.len());
        for entry in entries {
            let object = entry.parse();
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            self.info.namespace = text("namespace");
            match self.delete_object(&text("name"), &options).await {
                Ok(Deletion::Gone(object) | Deletion::Pending(object)) => items.push(codec::whole(&object)),
                Err(error) if error.code == 404 => {} // somebody else was faster
                Err(error) => return Err(error),
            }
        }
        Ok(render::list(&self.row.resource, meta, items.into_iter(), self.accept, self.options.include_object))
    }
}
