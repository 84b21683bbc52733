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

/// An object as the server sent it: its metadata, and its text, not looked at yet.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    meta: ObjectMeta,
    text: Box<RawValue>,
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
        Ok(Arc::new(serde_json::from_str::<K>(self.text.get())?))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head {
            metadata: ObjectMeta,
        }
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Head { metadata: meta } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
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
