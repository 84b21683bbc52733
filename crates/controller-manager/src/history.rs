//! History: the ControllerRevisions of a StatefulSet or DaemonSet, one for each pod template it has had.
//!
//! A revision's data is the strategic merge patch that brings its template back; `kubectl rollout undo` sends it as
//! it is. A template that comes back gets its old revision again, under a new number.

use std::sync::Arc;

use coracle_client::{Informer, controller_reference};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::json;

use crate::claim::{self, Owned};
use crate::error::{Error, IgnoreNotFound, Result};
use crate::hash::content_hash;

/// The label that tells which revision a pod is of.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";
/// So long may an owner's name be within a revision's.
const PREFIX_MAX: usize = 223;

/// The revisions of one owner.
pub(crate) struct History {
    /// All of them, the oldest first.
    all: Vec<Arc<ControllerRevision>>,
    /// That of the present template.
    pub(crate) update: Arc<ControllerRevision>,
    /// How often a revision's name was taken by another.
    pub(crate) collisions: i32,
}

/// What to do so that the present template has the newest revision.
#[derive(Debug, PartialEq)]
enum Plan {
    Nothing(usize),
    Raise(usize, i64),
    Create(i64),
}

fn plan(all: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Plan {
    let next = all.last().map_or(1, |newest| newest.revision + 1);
    match all.iter().rposition(|revision| template_of(revision).as_ref() == Some(template)) {
        Some(index) if index + 1 == all.len() => Plan::Nothing(index),
        Some(index) => Plan::Raise(index, next),
        None => Plan::Create(next),
    }
}

/// The template that a revision holds, if it holds one.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    PodTemplateSpec::deserialize(revision.data.as_ref()?.0.pointer("/spec/template")?).ok()
}

fn new_revision<O: Owned>(
    owner: &O,
    template: &PodTemplateSpec,
    revision: i64,
    label: &str,
    collisions: i32,
) -> ControllerRevision {
    let hash = content_hash(template, Some(collisions));
    let prefix: String = owner.name_any().chars().take(PREFIX_MAX).collect();
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(label.into(), hash.clone());
    let mut data = json!({ "spec": { "template": template } });
    data["spec"]["template"]["$patch"] = "replace".into();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..Default::default()
        },
        data: Some(RawExtension(data)),
        revision,
    }
}

impl History {
    /// Claims the owner's revisions and sees to it that the present template has the newest. `label` is where a
    /// revision of this kind of owner holds its hash, `collisions` what the owner's status counts.
    pub(crate) async fn sync<O: Owned>(
        client: &Client,
        owner: &O,
        (selector, template): (&LabelSelector, &PodTemplateSpec),
        label: &str,
        collisions: Option<i32>,
        informer: &Informer<ControllerRevision>,
    ) -> Result<History> {
        let mut all = claim::claim(client, owner, &claim::selector(selector)?, informer).await?;
        all.sort_by_key(|revision| (revision.revision, revision.creation_timestamp(), revision.name_any()));
        let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &owner.namespace().unwrap_or_default());
        let mut collisions = collisions.unwrap_or_default();
        let update = match plan(&all, template) {
            Plan::Nothing(index) => all[index].clone(),
            Plan::Raise(index, number) => {
                let patch = Patch::Merge(json!({ "revision": number }));
                Arc::new(api.patch(&all[index].name_any(), &PatchParams::default(), &patch).await?)
            }
            Plan::Create(number) => loop {
                let new = new_revision(owner, template, number, label, collisions);
                let error = match api.create(&PostParams::default(), &new).await.map_err(Error::from) {
                    Ok(created) => break Arc::new(created),
                    Err(error) => error,
                };
                if error.reason() != "AlreadyExists" {
                    return Err(error);
                }
                // Created a moment ago, and the cache has not seen it yet; or the hash means another template too.
                let there = api.get(&new.name_any()).await?;
                if template_of(&there).as_ref() == Some(template) {
                    break Arc::new(there);
                }
                collisions += 1;
            },
        };
        Ok(History { all, update, collisions })
    }

    /// The revision of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<ControllerRevision>> {
        self.all.iter().find(|revision| revision.name_any() == name)
    }

    /// Deletes the oldest beyond the limit (10 by default), apart from the newest and those in use.
    pub(crate) async fn truncate(
        &self,
        client: &Client,
        in_use: impl Fn(&ControllerRevision) -> bool,
        limit: Option<i32>,
    ) -> Result<()> {
        let update = self.update.name_any();
        let unused: Vec<_> =
            self.all.iter().filter(|revision| revision.name_any() != update && !in_use(revision)).collect();
        let surplus = unused.len().saturating_sub(usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX));
        for revision in &unused[..surplus] {
            let namespace = revision.namespace().unwrap_or_default();
            let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &namespace);
            api.delete(&revision.name_any(), &DeleteParams::default()).await.ignore_not_found()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;

    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": { "labels": { "app": "x" } },
            "spec": { "containers": [{ "name": "c", "image": image }] },
        }))
        .unwrap()
    }

    fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
        let owner: StatefulSet = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "1", "annotations": { "a": "b" } },
            "spec": { "selector": {}, "template": {} },
        }))
        .unwrap();
        Arc::new(new_revision(&owner, &template(image), number, REVISION_LABEL, 0))
    }

    #[test]
    fn a_new_template_gets_the_next_number_and_one_that_returns_its_old_revision() {
        let all = [revision("a:1", 3), revision("a:2", 5)];
        assert_eq!(plan(&[], &template("a:1")), Plan::Create(1));
        assert_eq!(plan(&all, &template("a:2")), Plan::Nothing(1));
        assert_eq!(plan(&all, &template("a:1")), Plan::Raise(0, 6));
        assert_eq!(plan(&all, &template("a:3")), Plan::Create(6));
    }

    #[test]
    fn a_revision_is_a_patch_named_after_its_content() {
        let revision = revision("a:1", 1);
        let hash = &revision.labels()[REVISION_LABEL];
        assert_eq!(revision.name_any(), format!("web-{hash}"));
        assert_eq!((&revision.labels()["app"], &revision.annotations()["a"]), (&"x".to_owned(), &"b".to_owned()));
        assert_eq!(revision.data.as_ref().unwrap().0["spec"]["template"]["$patch"], "replace");
        assert_eq!(template_of(&revision), Some(template("a:1")));
    }
}
