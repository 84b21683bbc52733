//! Which objects a list or watch is about: a namespace, a label selector, a field selector.

use std::sync::Arc;

use coracle_api::selector::{FieldSelector, Selector};
use coracle_api::{ApiError, ApiResult, Resource};
use coracle_store::Revision;

use crate::options::Options;
use crate::storage::Entry;
use crate::storage::cache::ResourceCache;

/// The selection of a list or watch.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The namespace; empty for all (and for cluster-wide resources).
    pub namespace: String,
    labels: Selector,
    fields: FieldSelector,
    /// Which fields the resource can be selected by, besides name and namespace.
    selectable: Vec<String>,
}

impl Filter {
    /// Everything in a namespace.
    pub fn namespace(namespace: &str) -> Self {
        Filter {
            namespace: namespace.to_owned(),
            labels: Selector::everything(),
            fields: FieldSelector::default(),
            selectable: Vec::new(),
        }
    }

    /// What the options of a request select.
    ///
    /// # Errors
    /// 400 for selectors that cannot be parsed, and for fields the resource cannot be selected by.
    pub fn of(resource: &Resource, namespace: &str, options: &Options) -> ApiResult<Self> {
        let labels = Selector::parse(&options.label_selector)
            .map_err(|problem| ApiError::bad_request(format!("unable to parse requirement: {problem}")))?;
        let fields = FieldSelector::parse(&options.field_selector)?;
        fields.check(resource)?;
        let selectable = resource.selectable_fields.clone();
        Ok(Filter { namespace: namespace.to_owned(), labels, fields, selectable })
    }

    /// Whether labels or fields matter.
    pub fn selects(&self) -> bool {
        !(self.labels.is_everything() && self.fields.is_empty())
    }

    /// The one object's name that the field selector asks for, if it does.
    pub fn name(&self) -> Option<&str> {
        self.fields.required("metadata.name")
    }

    /// The value of the cache's indexed field that the field selector asks for, if it does.
    pub fn indexed(&self, cache: &ResourceCache) -> Option<&str> {
        // An empty value is that of objects without the field, which the index does not know.
        self.fields.required(cache.indexed()?).filter(|value| !value.is_empty())
    }

    /// The objects among which all selected ones are, in key order, and the revision they are as of.
    pub fn candidates(&self, cache: &ResourceCache, applied: Revision) -> (Vec<Arc<Entry>>, Revision) {
        match self.indexed(cache) {
            Some(value) => cache.list_by_value(value, &self.namespace, applied),
            None => cache.list(&self.namespace, applied),
        }
    }

    /// Whether an object is in the namespace, by its key below the resource's prefix.
    pub fn in_namespace(&self, key: &str) -> bool {
        self.namespace.is_empty() || key.strip_prefix(self.namespace.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether an object of the namespace, in the resource's version, is selected.
    pub fn matches(&self, entry: &Entry) -> bool {
        let selectable = || entry.selectable(&self.selectable);
        let text = |field: &str| match &entry.indexed {
            Some((indexed, value)) if field == *indexed => value,
            _ => selectable().fields.get(field).map_or("", String::as_str),
        };
        (self.labels.is_everything() || self.labels.matches(&selectable().labels))
            && self.fields.terms.iter().all(|(field, equal, value)| (text(field) == value) == *equal)
    }
}
