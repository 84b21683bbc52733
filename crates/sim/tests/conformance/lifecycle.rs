//! What upstream's "API operations" and "lifecycle" behaviours have in common: a kind is in discovery, takes every
//! verb, and a watch tells of each change.

use coracle_sim::Cluster;
use kube::api::{DeleteParams, Patch, PostParams, Preconditions};
use kube::discovery::verbs;
use serde_json::{Value, json};

use crate::objects::Objects;
use crate::support::*;

/// A kind takes every verb. `object` is a manifest; three are made of it, named after it, and one more in another
/// namespace if they have namespaces. `change` is what a merge patch changes, `status` a status to set (null: the kind
/// has no such subresource).
#[track_caller]
pub fn takes_every_verb(object: Value, change: Value, status: Value) {
    api(async |cluster| Run::start(cluster, object).await?.all(change, status).await);
}

const LABEL: &str = "conformance=true";
const VERBS: [&str; 8] = [
    verbs::CREATE,
    verbs::DELETE,
    verbs::DELETE_COLLECTION,
    verbs::GET,
    verbs::LIST,
    verbs::PATCH,
    verbs::UPDATE,
    verbs::WATCH,
];

struct Run {
    client: kube::Client,
    objects: Objects,
    manifest: Value,
    /// What a watch must tell: type and name.
    expected: Vec<(&'static str, String)>,
}

impl Run {
    async fn start(cluster: &Cluster, mut manifest: Value) -> anyhow::Result<Run> {
        manifest["metadata"]["labels"]["conformance"] = "true".into();
        let objects = Objects::of(cluster, &manifest).await?;
        Ok(Run { client: cluster.client(), objects, manifest, expected: vec![] })
    }

    async fn all(mut self, change: Value, status: Value) -> anyhow::Result<()> {
        self.discovery(!status.is_null()).await?;
        let mut watch = self.objects.watch(LABEL, &self.objects.now().await?).await?;
        let first = self.create().await?;
        self.patch(&first, change).await?;
        self.update(&first).await?;
        if !status.is_null() {
            self.status(&first, status).await?;
        }
        self.delete(&first).await?;
        let mut seen = 0;
        for expected in &self.expected {
            let (kind, object) = watch.next().await?;
            assert_eq!((kind, name(&object)), (expected.0, expected.1.as_str()));
            assert!(version(&object) > seen, "versions grow");
            seen = version(&object);
        }
        Ok(())
    }

    /// The group and its version are in `/apis` and `/apis/<group>`, the resource with its verbs in the version.
    async fn discovery(&self, has_status: bool) -> anyhow::Result<()> {
        let resource = &self.objects.resource;
        if !resource.group.is_empty() {
            let groups = self.client.list_api_groups().await?.groups;
            let group = groups.iter().find(|group| group.name == resource.group).expect("the group is in /apis");
            assert!(group.versions.iter().any(|version| version.group_version == resource.api_version));
            let path = http::Request::get(format!("/apis/{}", resource.group)).body(vec![])?;
            let alone: Value = self.client.request(path).await?;
            let versions = alone["versions"].as_array().expect("a group has versions");
            assert!(versions.iter().any(|version| version["groupVersion"] == resource.api_version.as_str()));
        }
        let capabilities = &self.objects.capabilities;
        assert!(VERBS.iter().all(|verb| capabilities.supports_operation(verb)), "{:?}", capabilities.operations);
        let status = capabilities.subresources.iter().find(|(sub, _)| sub.plural == "status");
        assert_eq!(status.is_some(), has_status, "{resource:?}");
        if let Some((_, status)) = status {
            let all = [verbs::GET, verbs::PATCH, verbs::UPDATE].iter().all(|verb| status.supports_operation(verb));
            assert!(all, "{:?}", status.operations);
        }
        Ok(())
    }

    /// Creates three objects (one named by the server) and finds them; the first one's name.
    async fn create(&mut self) -> anyhow::Result<String> {
        let base = name(&self.manifest).to_owned();
        let mut named = self.manifest.clone();
        named["metadata"]["name"] = format!("{base}-1").into();
        let dry = PostParams { dry_run: true, ..Default::default() };
        assert_contains(&self.objects.create_with(&named, &dry).await?, &named);
        assert!(self.objects.list(LABEL).await?.is_empty(), "a dry run stores nothing");
        let first = self.objects.create(&named).await?;
        assert_contains(&first, &named);
        assert!(version(&first) > 0 && !text(&first, "/metadata/uid").is_empty());
        refused(self.objects.create(&named).await, 409, "AlreadyExists");
        named["metadata"]["name"] = format!("{base}-2").into();
        let second = self.objects.create(&named).await?;
        named["metadata"] =
            json!({ "generateName": format!("{base}-"), "labels": self.manifest["metadata"]["labels"] });
        let third = self.objects.create(&named).await?;
        assert!(name(&third).starts_with(&format!("{base}-")) && name(&third).len() == base.len() + 6);
        self.expected.extend([&first, &second, &third].map(|object| ("ADDED", name(object).to_owned())));

        assert_eq!(self.objects.get(&format!("{base}-1")).await?, first);
        assert_eq!(self.objects.list(LABEL).await?.len(), 3);
        assert!(self.objects.list("conformance=false").await?.is_empty());
        let mut everywhere = 3;
        if self.objects.namespaced() {
            let namespace = json!({ "metadata": { "name": "elsewhere" } });
            let request = http::Request::post("/api/v1/namespaces").header("content-type", "application/json");
            self.client.request::<Value>(request.body(serde_json::to_vec(&namespace)?)?).await?;
            // Where it names its namespace (as an Event does), that is another now.
            let there: Value = serde_json::from_str(&named.to_string().replace("\"default\"", "\"elsewhere\""))?;
            self.objects.in_namespace("elsewhere").create(&there).await?;
            everywhere = 4;
        }
        assert_eq!(self.objects.everywhere().list(LABEL).await?.len(), everywhere);
        Ok(format!("{base}-1"))
    }

    /// All four kinds of patches.
    async fn patch(&mut self, first: &str, change: Value) -> anyhow::Result<()> {
        let mut last = self.objects.get(first).await?;
        let mut merge = change;
        merge["metadata"]["annotations"]["patched"] = "true".into();
        let json_patch = json!([{ "op": "add", "path": "/metadata/annotations/jsoned", "value": "true" }]);
        let strategic =
            json!({ "metadata": { "uid": last["metadata"]["uid"], "annotations": { "strategic": "true" } } });
        let patches = [
            (Patch::Merge(merge.clone()), merge),
            (Patch::Strategic(strategic.clone()), strategic),
            (
                Patch::Json(serde_json::from_value(json_patch)?),
                json!({ "metadata": { "annotations": { "jsoned": "true" } } }),
            ),
            (Patch::Apply(Value::Null), json!({ "metadata": { "annotations": { "applied": "true" } } })),
        ];
        for (mut patch, effect) in patches {
            if let Patch::Apply(apply) = &mut patch {
                // All that is there, as a tool's manifest would have it.
                *apply = json!({ "metadata": { "name": first, "annotations": { "applied": "true" } } });
                let all = last.as_object().into_iter().flatten();
                all.filter(|(field, _)| !["metadata", "status"].contains(&field.as_str()))
                    .for_each(|(field, value)| apply[field] = value.clone());
            }
            let patched = self.objects.patch(first, &patch).await?;
            assert_contains(&patched, &effect);
            assert!(version(&patched) > version(&last));
            assert_eq!(self.objects.get(first).await?, patched);
            self.expected.push(("MODIFIED", first.to_owned()));
            last = patched;
        }
        let managers = last["metadata"]["managedFields"].as_array().expect("every write leaves its manager's mark");
        assert!(managers.iter().any(|entry| entry["manager"] == "conformance" && entry["operation"] == "Apply"));
        Ok(())
    }

    async fn update(&mut self, first: &str) -> anyhow::Result<()> {
        let old = self.objects.get(first).await?;
        let mut new = old.clone();
        new["metadata"]["annotations"]["updated"] = "true".into();
        let updated = self.objects.replace(&new).await?;
        self.expected.push(("MODIFIED", first.to_owned()));
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
        assert_eq!(updated["metadata"]["annotations"]["patched"], "true", "nothing else changed");
        assert!(version(&updated) > version(&old));
        let conflict = refused(self.objects.replace(&new).await, 409, "Conflict");
        assert!(
            conflict.message.ends_with(
                "the object has been modified; please apply your changes to the latest version and try again"
            )
        );
        Ok(())
    }

    async fn status(&mut self, first: &str, status: Value) -> anyhow::Result<()> {
        let patch = json!({ "metadata": { "annotations": { "patchedstatus": "true" } }, "status": status });
        let patched = self.objects.patch_sub("status", first, &Patch::Merge(patch.clone())).await?;
        assert_contains(&patched, &patch);
        assert_eq!(self.objects.get_sub("status", first).await?, patched, "of the same kind, with the same UID");
        let mut update = patched.clone();
        update["metadata"]["annotations"]["updatedstatus"] = "true".into();
        let updated = self.objects.replace_sub("status", &update).await?;
        assert_eq!(updated["metadata"]["annotations"]["updatedstatus"], "true");
        assert_contains(&updated["status"], &status);
        // The main resource leaves the status alone.
        let mut emptied = updated.clone();
        emptied["metadata"]["annotations"]["emptied"] = "true".into();
        emptied.as_object_mut().expect("it is an object").remove("status");
        assert_contains(&self.objects.replace(&emptied).await?["status"], &status);
        self.expected.extend(std::iter::repeat_n(("MODIFIED", first.to_owned()), 3));
        Ok(())
    }

    async fn delete(&mut self, first: &str) -> anyhow::Result<()> {
        // There is no controller to take protection off.
        let all = self.objects.list(LABEL).await?;
        for protected in all.iter().filter(|object| !object["metadata"]["finalizers"].is_null()) {
            let free = json!({ "metadata": { "finalizers": null } });
            self.objects.patch(name(protected), &Patch::Merge(free)).await?;
            self.expected.push(("MODIFIED", name(protected).to_owned()));
        }
        let other = Preconditions { uid: Some("of-another".into()), resource_version: None };
        let delete = DeleteParams::default().preconditions(other);
        refused(self.objects.delete_with(first, &delete).await, 409, "Conflict");
        self.objects.delete(first).await?;
        self.expected.push(("DELETED", first.to_owned()));
        let resource = &self.objects.resource;
        let full = match resource.group.as_str() {
            "" => resource.plural.clone(),
            group => format!("{}.{group}", resource.plural),
        };
        let gone = refused(self.objects.get(first).await, 404, "NotFound");
        assert_eq!(gone.message, format!("{full} {first:?} not found"));
        let left = self.objects.list(LABEL).await?;
        assert_eq!(left.len(), 2);
        self.objects.delete_collection("conformance=false").await?;
        assert_eq!(self.objects.list(LABEL).await?.len(), 2, "the selector is heeded");
        self.objects.delete_collection(LABEL).await?;
        assert!(self.objects.list(LABEL).await?.is_empty());
        self.expected.extend(left.iter().map(|object| ("DELETED", name(object).to_owned())));
        let elsewhere = self.objects.everywhere().list(LABEL).await?;
        assert_eq!(elsewhere.len(), usize::from(self.objects.namespaced()), "other namespaces are left alone");
        Ok(())
    }
}
