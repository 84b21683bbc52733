//! `get`: one object, copied from the cache.

use coracle_api::ApiResult;
use http::Response;

use super::Call;
use crate::body::Body;
use crate::render;

impl Call {
    /// Answers with the object; subresources such as `status` show all of it.
    pub(super) async fn get(&mut self) -> ApiResult<Response<Body>> {
        let storage = &self.server.config.storage;
        match self.options.version()? {
            Some(version) => storage.wait_for(version).await?,
            None => storage.fresh().await?,
        }
        let entry = self.row.get(&self.info.namespace, &self.info.name).ok_or_else(|| self.not_found())?;
        let shown = self.present_one(entry).await?;
        Ok(render::object(200, shown.json(), &self.row.resource, self.accept, self.options.include_object))
    }
}
