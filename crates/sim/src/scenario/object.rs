//! Objects by name, as kubectl takes them: `deployment/web`, `deploy/shop/web` in a namespace.

use std::fmt;
use std::str::FromStr;

use coracle_api::registry;

/// An object of a built-in kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// The resource, such as `deployments`.
    pub plural: String,
    /// The kind in small letters, such as `deployment`.
    pub kind: String,
    /// `default` unless said.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Namespace and name: `shop/web`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "default" => write!(f, "{}/{}", self.kind, self.name),
            namespace => write!(f, "{}/{namespace}/{}", self.kind, self.name),
        }
    }
}

impl FromStr for ObjectRef {
    type Err = String;

    fn from_str(text: &str) -> Result<ObjectRef, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts[..] {
            [kind, name] => (kind, "default", name),
            [kind, namespace, name] => (kind, namespace, name),
            _ => return Err(format!("{text:?} names no object; write deployment/web, or deployment/shop/web")),
        };
        let known = registry::builtin().into_iter().find(|r| {
            r.stored && (r.plural == kind || r.singular == kind || r.short_names.iter().any(|short| short == kind))
        });
        let known = known
            .ok_or_else(|| format!("there is no kind {kind:?}; write it as kubectl takes it, such as deployment"))?;
        if namespace.is_empty() || name.is_empty() {
            return Err(format!("{text:?} names no object; write {kind}/NAME"));
        }
        let (plural, kind) = (known.plural.clone(), known.singular.clone());
        Ok(ObjectRef { plural, kind, namespace: namespace.into(), name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_as_for_kubectl() {
        for (text, shown, plural) in [
            ("deployment/web", "deployment/web", "deployments"),
            ("deploy/web", "deployment/web", "deployments"),
            ("hpa/shop/web", "horizontalpodautoscaler/shop/web", "horizontalpodautoscalers"),
            ("po/default/a", "pod/a", "pods"),
        ] {
            let object: ObjectRef = text.parse().unwrap();
            assert_eq!((object.to_string().as_str(), object.plural.as_str()), (shown, plural));
        }
        for wrong in ["web", "gadget/web", "deployment/", "a/b/c/d"] {
            assert!(wrong.parse::<ObjectRef>().is_err(), "{wrong}");
        }
    }
}
