//! Selectors: which objects a list, a watch or a controller is about.
//!
//! ```
//! use std::collections::BTreeMap;
//! use coracle_api::selector::Selector;
//!
//! let selector = Selector::parse("app in (web, api), !canary, tier!=db").unwrap();
//! let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
//! assert!(selector.matches(&labels));
//! ```

mod field;
mod label;

pub use field::{FieldSelector, field_value};
pub use label::{Labels, Operator, Requirement, Selector};
