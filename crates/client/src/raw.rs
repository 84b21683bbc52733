//! Objects of any kind as one type, so that the machinery of lists and watches exists once and not once a kind.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicResourceScope;
use kube::{Api, Resource};
use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, Visitor};
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

/// An object's metadata. It comes early, and what follows it is not looked at.
struct Head<'de, 'a>(&'a mut Option<HeadMeta<'de>>);

impl<'de> Visitor<'de> for Head<'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(field) = fields.next_key::<Cow<'de, str>>()? {
            if field == "metadata" {
                *self.0 = Some(fields.next_value()?);
                return Ok(());
            }
            fields.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::missing_field("metadata"))
    }
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

    /// Decodes it as a `K`; if somebody in this process holds the same object, that.
    pub(crate) fn decode<K: DeserializeOwned + Send + Sync + 'static>(&self) -> serde_json::Result<Object> {
        let key = Held::key::<K>(&self.text);
        if let Some(object) = HELD.get(&key) {
            return Ok(object);
        }
        let object: Object = Arc::new(serde_json::from_str::<K>(&self.text)?);
        HELD.insert(key, &object);
        Ok(object)
    }
}

/// The objects that are held by this process's informers. A scheduler, controllers and kubelets that live in one process
/// see the same objects at about the same time: each is decoded, and held, once for all of them.
static HELD: LazyLock<Held> = LazyLock::new(Held::default);

/// A type and 128 bits of an object's text.
type Key = (TypeId, u64, u64);

#[derive(Debug, Default)]
struct Held(Mutex<Objects>);

#[derive(Debug, Default)]
struct Objects {
    by_key: BTreeMap<Key, Weak<dyn Any + Send + Sync>>,
    /// With so many those are looked for that nobody holds any more.
    most: usize,
}

impl Held {
    /// With fewer it is not worth while.
    const FEW: usize = 1024;

    fn key<K: 'static>(text: &str) -> Key {
        // Keyed by chance, so that nobody can make two texts that are taken for one; what is decoded depends on no key.
        static HASHES: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);
        let [one, other] = [0, 1].map(|at| HASHES[at].hash_one(text));
        (TypeId::of::<K>(), one, other)
    }

    fn get(&self, key: &Key) -> Option<Object> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_key.get(key)?.upgrade()
    }

    fn insert(&self, key: Key, object: &Object) {
        let mut objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        objects.by_key.insert(key, Arc::downgrade(object));
        if objects.by_key.len() >= objects.most.max(Self::FEW) {
            objects.by_key.retain(|_, object| object.strong_count() > 0);
            objects.most = 2 * objects.by_key.len();
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let text = text.get();
        let mut metadata = None;
        let read = serde_json::Deserializer::from_str(text).deserialize_map(Head(&mut metadata));
        // Once the metadata is there, it is no error that there is more.
        let Some(metadata) = metadata else {
            return Err(read.err().map_or_else(|| D::Error::missing_field("metadata"), D::Error::custom));
        };
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

    #[test]
    fn an_object_is_decoded_once_while_somebody_holds_it() {
        let raw = |value: &str| -> Raw {
            let object = json!({ "data": { "a": value }, "metadata": { "name": "shared", "resourceVersion": "7" } });
            serde_json::from_str(&object.to_string()).unwrap()
        };
        let first = raw("1").decode::<ConfigMap>().unwrap();
        assert!(Arc::ptr_eq(&first, &raw("1").decode::<ConfigMap>().unwrap()));
        assert!(!Arc::ptr_eq(&first, &raw("2").decode::<ConfigMap>().unwrap()));
        assert!(raw("1").decode::<kube::core::DynamicObject>().unwrap().is::<kube::core::DynamicObject>());
        let held = Held::default();
        for number in 0..10 * Held::FEW {
            let object: Object = Arc::new(number);
            held.insert(Held::key::<usize>(&number.to_string()), &object);
            assert!(held.get(&Held::key::<usize>(&number.to_string())).is_some());
        }
        assert!(held.0.lock().unwrap().by_key.len() <= Held::FEW, "what nobody holds is forgotten");
    }
}
