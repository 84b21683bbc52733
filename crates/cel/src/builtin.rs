//! Declarations of whole objects, of Kubernetes' own kinds and of custom ones: what a policy is type-checked against.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::schema::{self, Kind, type_of, type_of_kind};
use serde_json::Value as Json;

use crate::schema::escape;
use crate::types::{Decl, Field, ListKind, Object, Shape, Type};

/// The objects of a built-in kind; `None` if there is no such kind.
pub fn of_kind(api_version: &str, kind: &str) -> Option<Arc<Decl>> {
    Some(message(type_of_kind(api_version, kind)?, kind, &mut Vec::new()))
}

/// The objects of a custom kind with that `openAPIV3Schema`.
pub fn of_custom(schema: &Json, kind: &str) -> Option<Arc<Decl>> {
    let decl = Decl::from_schema(schema, false)?;
    let Shape::Object(object) = &decl.shape else { return None };
    let own = object.fields.iter().map(|(name, field)| (name.clone(), field.json.clone(), field.decl.clone()));
    let meta = message(type_of("meta.v1.ObjectMeta")?, &format!("{kind}.metadata"), &mut Vec::new());
    Some(declared(kind, own, Some(meta)))
}

fn declared(
    name: &str,
    fields: impl Iterator<Item = (String, String, Arc<Decl>)>,
    metadata: Option<Arc<Decl>>,
) -> Arc<Decl> {
    let mut fields: BTreeMap<String, Field> = fields.map(|(name, json, decl)| (name, Field { json, decl })).collect();
    if let Some(decl) = metadata {
        let text = || Decl::plain(Type::String);
        for (name, decl) in [("apiVersion", text()), ("kind", text()), ("metadata", decl)] {
            fields.insert(name.to_owned(), Field { json: name.to_owned(), decl });
        }
    }
    Decl::of(Shape::Object(Arc::new(Object { name: name.to_owned(), fields })))
}

/// A type of the table. What is within itself (a JSON schema) is not followed.
fn message(ty: &'static schema::Type, name: &str, within: &mut Vec<&'static str>) -> Arc<Decl> {
    if within.contains(&ty.name) {
        return Decl::plain(Type::Dyn);
    }
    within.push(ty.name);
    let mut metadata = None;
    let mut fields = Vec::new();
    for field in ty.json_fields() {
        let decl = value(field, &format!("{name}.{}", field.name), within);
        if ty.object && field.name == "metadata" {
            metadata = Some(decl);
        } else if let Some(escaped) = escape(field.name) {
            fields.push((escaped, field.name.to_owned(), decl));
        }
    }
    within.pop();
    declared(name, fields.into_iter(), metadata)
}

fn value(field: &schema::Field, name: &str, within: &mut Vec<&'static str>) -> Arc<Decl> {
    let one = match field.kind {
        // A quantity is text to an expression, whatever it was written as.
        Kind::String | Kind::Quantity | Kind::Duration => Decl::plain(Type::String),
        Kind::Bool => Decl::plain(Type::Bool),
        Kind::Int32 | Kind::Int64 => Decl::plain(Type::Int),
        Kind::Double => Decl::plain(Type::Double),
        Kind::Bytes => Decl::plain(Type::Bytes),
        Kind::Time | Kind::MicroTime => Decl::plain(Type::Timestamp),
        Kind::IntOrString => Decl::of(Shape::IntOrString),
        Kind::Raw | Kind::SchemaOrBool | Kind::SchemaOrArray | Kind::SchemaOrStrings => Decl::plain(Type::Dyn),
        Kind::Strings => Decl::of(Shape::List(Decl::plain(Type::String), ListKind::Atomic)),
        Kind::Message(_) => {
            field.message().map_or_else(|| Decl::plain(Type::Dyn), |message_type| message(message_type, name, within))
        }
    };
    match field.shape {
        schema::Shape::List => Decl::of(Shape::List(one, ListKind::Atomic)),
        schema::Shape::Map => Decl::of(Shape::Map(one)),
        schema::Shape::One | schema::Shape::Inline => one,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::env;

    #[test]
    fn expressions_are_checked_against_a_kinds_own_fields() {
        let pod = of_kind("v1", "Pod").unwrap();
        let schema = json!({ "type": "object", "properties": {
            "spec": { "type": "object", "properties": { "size": { "type": "integer" } } } } });
        let custom = of_custom(&schema, "Widget").unwrap();
        for (decl, expression, wrong) in [
            (&pod, "object.spec.containers.all(c, c.image.startsWith('a'))", ""),
            (&pod, "object.metadata.labels['app'] == 'x' && has(object.status.podIP)", ""),
            (&pod, "quantity(object.spec.containers[0].resources.limits['cpu']).isLessThan(quantity('1'))", ""),
            (&pod, "object.spec.containers[0].livenessProbe.httpGet.port == 80", ""),
            (&pod, "oldObject.spec.volumes.exists(v, has(v.hostPath))", ""),
            (&pod, "object.spec.replicas > 1", "1:12: undefined field 'replicas'"),
            (&pod, "object.kind > 1", "1:13: found no matching overload for '_>_' applied to '(string, int)'"),
            (&custom, "object.spec.size > 1 && object.metadata.namespace != '' && object.kind == 'Widget'", ""),
            (&custom, "object.spec.width > 1", "1:12: undefined field 'width'"),
        ] {
            let found =
                env(decl.clone(), None, true).compile(expression).err().map_or_else(String::new, |e| e.marked());
            assert!(found.contains(wrong) && found.is_empty() == wrong.is_empty(), "{expression}: {found}");
        }
        assert!(of_kind("v1", "Nothing").is_none());
        assert!(of_kind("apiextensions.k8s.io/v1", "CustomResourceDefinition").is_some());
    }
}
