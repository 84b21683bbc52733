//! The Kubernetes API as data and pure functions.
//!
//! Nothing here performs input or output; everything is a table or a function from values to values,
//! so that the API server, `kubectl`-like tools and tests can all stand on it.

pub mod certificates;
pub mod cron;
pub mod custom;
pub mod decode;
pub mod defaults;
pub mod field;
pub mod kinds;
pub mod managed_fields;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod registry;
pub mod resource;
pub mod rules;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod validate;
pub mod warnings;

pub use field::{FieldError, FieldErrorKind, FieldErrors};
pub use resource::{Column, Resource, Scope, Strategy, Subresource};
pub use status::{ApiError, ApiResult};
