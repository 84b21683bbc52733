//! Kinds are data: one [`Resource`] per served resource.
//!
//! Built-in kinds come from the table in [`crate::registry`], custom ones from their
//! CustomResourceDefinition; the API server's one generic handler asks nothing but this row.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::custom::CustomKind;
use crate::field::FieldErrors;

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// A subresource, such as `status` or `scale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Its name in the path.
    pub name: String,
    /// The verbs discovery lists, in discovery's order: `get`, `patch`, `update`, `create`, `delete`.
    pub verbs: Vec<String>,
    /// Group, version and kind of its bodies, such as `autoscaling/v1 Scale`; discovery prints these.
    pub kind: (String, String, String),
}

/// A printed column of the kind's Table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The header, such as `Ready`.
    pub name: String,
    /// The OpenAPI type: `string`, `integer`, `boolean`, `date`, `number`.
    pub kind: String,
    /// The OpenAPI format: `name`, `int64`, or empty.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0: always shown; 1: shown by `-o wide`.
    pub priority: i32,
}

/// The code of a kind: what a table cannot say. Upstream's "REST strategy".
///
/// All functions work on the object's JSON in the resource's own version. The generic handler has
/// already checked types, pruned unknown fields, and set the metadata that every object gets.
pub trait Strategy: fmt::Debug + Send + Sync {
    /// Brings an object as the client sent it into form, where the schema table does not know its type. `problems`
    /// receives `unknown field "…"` for each field that was dropped.
    ///
    /// # Errors
    /// What has the wrong type.
    fn decode(&self, _object: &mut Value, _problems: &mut Vec<String>) -> Result<(), String> {
        Ok(())
    }

    /// Fills in default values.
    fn default(&self, _object: &mut Value) {}

    /// Clears what a creator may not set (such as `status`) and derives what creation derives.
    fn prepare_for_create(&self, _object: &mut Value) {}

    /// Writes down who asked for a new object; `user` is an `authentication.k8s.io` UserInfo.
    fn requested_by(&self, _object: &mut Value, _user: &Value) {}

    /// Carries over what an updater may not change (such as `status`), before `new` replaces `old`.
    /// `subresource` is empty for the object itself. The handler bumps `metadata.generation` when `spec` changes.
    fn prepare_for_update(&self, _new: &mut Value, _old: &Value, _subresource: &str) {}

    /// Marks what a deletion marks, besides its time and finalizers, on an object that is not gone at once.
    fn prepare_for_delete(&self, _object: &mut Value) {}

    /// What is wrong with a new object, besides its metadata.
    fn validate(&self, _object: &Value, _errors: &mut FieldErrors) {}

    /// What only a new object may not hold.
    fn validate_create(&self, _object: &Value, _errors: &mut FieldErrors) {}

    /// What is wrong with replacing `old` by `new`.
    fn validate_update(&self, _new: &Value, _old: &Value, _subresource: &str, _errors: &mut FieldErrors) {}

    /// Warnings for the `Warning` header, as for deprecated fields.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// The schema of a custom resource as its definition has it; built-in ones are in the [table](crate::schema).
    fn openapi(&self) -> Option<Value> {
        None
    }

    /// The cells of the object's Table row, one per column.
    fn cells(&self, object: &Value) -> Vec<Value>;
}

/// One served resource.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The API group; empty for core.
    pub group: String,
    /// The version, such as `v1`.
    pub version: String,
    /// The kind, such as `Pod`.
    pub kind: String,
    /// The kind of a list of them, such as `PodList`.
    pub list_kind: String,
    /// The plural name in paths, such as `pods`.
    pub plural: String,
    /// The singular name, such as `pod`.
    pub singular: String,
    /// Short names, such as `po`.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// The verbs, in discovery's order.
    pub verbs: Vec<String>,
    /// The subresources.
    pub subresources: Vec<Subresource>,
    /// The name of its schema, such as `io.k8s.api.core.v1.Pod`.
    pub definition: String,
    /// The Table's columns.
    pub columns: Vec<Column>,
    /// Field selectors besides `metadata.name` and `metadata.namespace`, such as `spec.nodeName`.
    pub selectable_fields: Vec<String>,
    /// Whether it is kept in the store (reviews, bindings and tokens are not).
    pub stored: bool,
    /// The kind's code.
    pub strategy: Arc<dyn Strategy>,
    /// What its definition says, if it comes from one.
    pub custom: Option<Arc<CustomKind>>,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether the objects live in a namespace.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// `pods` or `deployments.apps`.
    pub fn qualified(&self) -> String {
        crate::status::qualified(&self.group, &self.plural)
    }

    /// The prefix of the resource's keys: `/registry/pods/`, `/registry/deployments/`; groups that upstream
    /// prefixes keep theirs. Ends with a slash.
    pub fn key_prefix(&self) -> String {
        // Upstream's storage prefixes: built-in groups use the bare plural except where two kinds would meet,
        // custom resources `<group>/<plural>`. Events of both groups are one set of objects.
        match (self.group.as_str(), self.plural.as_str()) {
            ("", "nodes") => "/registry/minions/".into(),
            ("", "services") => "/registry/services/specs/".into(),
            ("", "endpoints") => "/registry/services/endpoints/".into(),
            ("networking.k8s.io", "ingresses") => "/registry/ingress/".into(),
            (group @ ("apiextensions.k8s.io" | "apiregistration.k8s.io"), plural) => {
                format!("/registry/{group}/{plural}/")
            }
            (_, plural) if self.builtin() => format!("/registry/{plural}/"),
            (group, plural) => format!("/registry/{group}/{plural}/"),
        }
    }

    /// Whether this is one of Kubernetes' own kinds.
    pub fn builtin(&self) -> bool {
        self.custom.is_none()
    }

    /// Whether a deletion that is done at once answers with the object; the others answer with a Status.
    pub fn delete_returns_object(&self) -> bool {
        let core = ["pods", "podtemplates", "resourcequotas", "serviceaccounts", "services"];
        let plural = self.plural.as_str();
        match self.group.as_str() {
            "" => core.contains(&plural) || plural.starts_with("persistentvolume"),
            "resource.k8s.io" => true,
            "storage.k8s.io" => plural != "csistoragecapacities",
            _ => false,
        }
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}
