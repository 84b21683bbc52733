//! API approval: groups that belong to the Kubernetes community say who approved a kind in them.

use serde_json::Value;

/// The annotation that says so.
pub const ANNOTATION: &str = "api-approved.kubernetes.io";

/// What the annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// Nothing.
    Missing,
    /// Nothing that makes sense.
    Invalid,
    /// That it was not.
    Bypassed,
    /// That it was, and where.
    Approved,
}

/// Whether the group belongs to the community.
pub fn protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
}

/// What a definition's annotations say, and why that is so.
pub fn state(annotations: &Value) -> (Approval, String) {
    let text = annotations[ANNOTATION].as_str().unwrap_or_default();
    let url = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match text {
        "" => (
            Approval::Missing,
            format!(
                "protected groups must have approval annotation {ANNOTATION:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
        text if text.starts_with("unapproved") => (Approval::Bypassed, format!("not approved: {text:?}")),
        text if url.is_some_and(|rest| !rest.split('/').next().unwrap_or_default().is_empty()) => {
            (Approval::Approved, format!("approved in {text}"))
        }
        _ => (
            Approval::Invalid,
            format!(
                "protected groups must have approval annotation {ANNOTATION:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
    }
}
