//! Which objects a list or watch is about: a namespace, a label selector, a field selector.

use coracle_api::selector::{FieldSelector, Selector};
use coracle_api::{ApiError, ApiResult, Resource};

use crate::options::Options;
use crate::storage::Entry;

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

    /// Whether an object is in the namespace, by its key below the resource's prefix.
    pub fn in_namespace(&self, key: &str) -> bool {
        self.namespace.is_empty() || key.strip_prefix(self.namespace.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether an object of the namespace, in the resource's version, is selected.
    pub fn matches(&self, entry: &Entry) -> bool {
        if !self.selects() {
            return true;
        }
        let selectable = entry.selectable(&self.selectable);
        self.labels.matches(&selectable.labels)
            && self.fields.terms.iter().all(|(field, equal, value)| {
                selectable.fields.get(field).map_or("", String::as_str).eq(value) == *equal
            })
    }
}
