//! Coming from client-side apply: kubectl's annotation with the configuration that it applied last.
//!
//! Only for the manager `kubectl`: what that annotation holds unchanged was its own before, so it does not conflict;
//! and the annotation follows what is applied, for those who go back.

use serde_json::Value;

use super::set::FieldSet;
use super::walk::{self, Node};

/// The manager that kubectl applies as.
pub(super) const KUBECTL: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What client-side apply set and nobody changed since; nothing if it never did.
pub(super) fn last_applied(node: Node<'_>, live: &Value) -> Option<FieldSet> {
    let text = live["metadata"]["annotations"][ANNOTATION].as_str()?;
    let applied: Value = serde_json::from_str(text).ok()?;
    if applied["apiVersion"] != live["apiVersion"] {
        return None;
    }
    let (changed, removed) = walk::compare(node, &applied, live);
    Some(walk::fields(node, &applied, false).difference(&changed).difference(&removed))
}

/// Brings the annotation, if there is one, up to date with what is applied now.
pub(super) fn follow(object: &mut Value, applied: &Value) {
    const ANNOTATIONS: &str = "/metadata/annotations";
    let annotation = object.pointer_mut(ANNOTATIONS).and_then(|all| all.get_mut(ANNOTATION));
    let Some(annotation) = annotation else { return };
    let mut config = applied.clone();
    if let Some(annotations) = config.pointer_mut(ANNOTATIONS).and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    *annotation = format!("{config}\n").into();
}
