//! Objects of any kind as one type, so that the machinery of lists and watches exists once and not once a kind.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicResourceScope;
use kube::{Api, Resource};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object of some kind, decoded.
pub(crate) type Object = Arc<dyn Any + Send + Sync>;

/// An object as the server sent it, not looked at yet but for what tells it from others, and without its `managedFields`:
/// they are most of many an object, and nothing to a controller.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    meta: ObjectMeta,
    text: String,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: HeadMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta<'a> {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    #[serde(borrow)]
    managed_fields: Option<&'a RawValue>,
}

/// What sets one resource apart from another for [`Raw`].
#[derive(Clone, Debug)]
pub(crate) struct RawKind {
    kind: String,
    url: String,
}

impl Raw {
    /// The same resource as `api`'s.
    pub(crate) fn api<K: Resource<DynamicType = ()>>(api: Api<K>) -> Api<Raw> {
        let kind = RawKind { kind: K::kind(&()).into_owned(), url: api.resource_url().to_owned() };
        Api::all_with(api.into_client(), &kind)
    }

    /// Decodes it as a `K`.
    pub(crate) fn decode<K: DeserializeOwned + Send + Sync + 'static>(&self) -> serde_json::Result<Object> {
        Ok(Arc::new(serde_json::from_str::<K>(&self.text)?))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let text = text.get();
        let Head { metadata } = serde_json::from_str(text).map_err(D::Error::custom)?;
        let HeadMeta { name, namespace, uid, resource_version, managed_fields } = metadata;
        let meta = ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() };
        let text = match managed_fields.map(RawValue::get) {
            Some(fields) => {
                let at = fields.as_ptr().addr() - text.as_ptr().addr();
                [&text[..at], "null", &text[at + fields.len()..]].concat()
            }
            None => text.to_owned(),
        };
        Ok(Raw { meta, text })
    }
}

impl Resource for Raw {
    type DynamicType = RawKind;
    type Scope = DynamicResourceScope;

    fn kind(kind: &RawKind) -> Cow<'_, str> {
        kind.kind.as_str().into()
    }

    // Group, version and plural only serve to make the URL, which is there already.
    fn group(_: &RawKind) -> Cow<'_, str> {
        "".into()
    }

    fn version(_: &RawKind) -> Cow<'_, str> {
        "".into()
    }

    fn plural(_: &RawKind) -> Cow<'_, str> {
        "".into()
    }

    fn url_path(kind: &RawKind, _: Option<&str>) -> String {
        kind.url.clone()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_informer_holds_is_the_object_without_its_managed_fields() {
        let object = |fields: serde_json::Value| {
            json!({ "data": { "a": "[]" }, "metadata": { "finalizers": [], "labels": { "a": "b" }, "managedFields": fields,
                    "name": "x", "namespace": "default", "resourceVersion": "7", "uid": "u" } })
        };
        for fields in [json!([]), json!(null), json!([{ "manager": "a", "fieldsV1": { "f:data": {} } }])] {
            let raw: Raw = serde_json::from_str(&object(fields).to_string()).unwrap();
            let ObjectMeta { name, namespace, uid, resource_version, .. } = raw.meta.clone();
            assert_eq!([name, namespace, uid, resource_version].map(Option::unwrap), ["x", "default", "u", "7"]);
            let map = raw.decode::<ConfigMap>().unwrap().downcast::<ConfigMap>().unwrap();
            assert_eq!(*map, serde_json::from_value(object(json!(null))).unwrap());
        }
    }
}
