//! `deletecollection`: every selected object.

use bytes::Bytes;
use coracle_api::ApiResult;
use futures::{StreamExt, stream};
use http::Response;
use http::request::Parts;

use super::Call;
use super::delete::Deletion;
use crate::body::{Body, RequestBody};
use crate::render;
use crate::storage::codec;

/// So many objects are being deleted at a time: each waits for the disk, and those that wait together wait once.
const AT_ONCE: usize = 64;

impl Call {
    /// Deletes what the selectors select and answers with a list of it.
    pub(super) async fn delete_collection(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let options = self.delete_options(parts, body).await?;
        let (entries, meta) = self.select(&self.filter()?).await?;
        let (call, options) = (&*self, &options);
        let delete = async move |name: String| match call.delete_object(&name, options).await {
            Ok(Deletion::Gone(object) | Deletion::Pending(object)) => Ok(Some(codec::whole(&object))),
            Err(error) if error.code == 404 => Ok(None), // somebody else was faster
            Err(error) => Err(error),
        };
        let names = entries.into_iter().map(|entry| codec::text_at(&entry.json(), "metadata.name"));
        let mut deletions = stream::iter(names).map(delete).buffered(AT_ONCE);
        let mut items: Vec<Bytes> = Vec::new();
        while let Some(deleted) = deletions.next().await {
            items.extend(deleted?);
        }
        Ok(render::list(&self.row.resource, meta, items.into_iter(), self.accept, self.options.include_object))
    }
}
