//! `/openapi/v3`: the schema of every group and version.
//!
//! The index names each group's document with a hash of its content in the URL, so that clients may keep
//! a document for ever: `Cache-Control: public, immutable`.

use http::Response;
use http::request::Parts;

use crate::body::Body;
use crate::storage::ResourceTable;

/// Answers the index or a document; `None` if there is no such group.
pub fn answer(_table: &ResourceTable, _path: &str, _parts: &Parts) -> Option<Response<Body>> {
    None
}
