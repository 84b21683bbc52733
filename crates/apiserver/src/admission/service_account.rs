//! ServiceAccount: every pod runs as a ServiceAccount of its namespace, finds a token for it in
//! `/var/run/secrets/kubernetes.io/serviceaccount`, and pulls images with the account's secrets.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_api::ApiResult;
use serde_json::{Value, json};

use super::{containers, is, items, list_mut, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};
use crate::rbac::node::{Kind, names};

/// Where pods find their token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the volume that holds it is called, up to its random end.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// A token lives an hour and the seconds by which one knows that this plugin asked for it.
const TOKEN_SECONDS: i64 = 3607;
/// A new namespace's `default` account is made by a controller: wait a little for it.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Gives pods their ServiceAccount.
#[derive(Debug)]
pub struct ServiceAccount;

#[async_trait]
impl AdmissionPlugin for ServiceAccount {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let made = request.operation == Operation::Create && is(request, "pods");
        if !made || is_mirror(request) || !request.object["spec"].is_object() {
            return Ok(());
        }
        if text(&request.object, "/spec/serviceAccountName").is_empty() {
            request.object["spec"]["serviceAccountName"] = "default".into();
        }
        let name = text(&request.object, "/spec/serviceAccountName").to_owned();
        request.object["spec"]["serviceAccount"] = name.as_str().into();
        let account = account(request, context, &name).await?;
        let spec = &mut request.object["spec"];
        let secrets = &account["imagePullSecrets"];
        if items(&spec["imagePullSecrets"]).next().is_none() && items(secrets).next().is_some() {
            spec["imagePullSecrets"] = secrets.clone();
        }
        let automount = spec["automountServiceAccountToken"]
            .as_bool()
            .or(account["automountServiceAccountToken"].as_bool())
            .unwrap_or(true);
        if automount {
            mount_token(spec, &format!("{VOLUME_PREFIX}{}", coracle_clock::name_suffix(5)));
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let added = request.operation == Operation::Update && request.subresource == "ephemeralcontainers";
        let made = request.operation == Operation::Create && request.subresource.is_empty();
        if request.resource.qualified() != "pods" || !added && !made {
            return Ok(());
        }
        let pod = &request.object;
        if is_mirror(request) {
            return mirror_objection(pod).map_or(Ok(()), |why| Err(refuse(request, why)));
        }
        let name = text(pod, "/spec/serviceAccountName");
        if name.is_empty() {
            let why = format!("no service account specified for pod {}/{}", request.namespace, request.name);
            return Err(refuse(request, why));
        }
        let account = account(request, context, name).await?;
        if account["metadata"]["annotations"]["kubernetes.io/enforce-mountable-secrets"] != "true" {
            return Ok(());
        }
        secrets_objection(pod, &account).map_or(Ok(()), |why| Err(refuse(request, why)))
    }
}

fn is_mirror(request: &AdmissionRequest) -> bool {
    !request.object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null()
}

/// A mirror pod runs without the API: it can have nothing of it.
fn mirror_objection(pod: &Value) -> Option<&'static str> {
    let token = |volume: &Value| items(&volume["projected"]["sources"]).any(|s| !s["serviceAccountToken"].is_null());
    match () {
        () if !text(pod, "/spec/serviceAccountName").is_empty() => {
            Some("a mirror pod may not reference service accounts")
        }
        () if !names(pod, Kind::Secret).is_empty() => Some("a mirror pod may not reference secrets"),
        () if items(&pod["spec"]["volumes"]).any(token) => {
            Some("a mirror pod may not use ServiceAccountToken volume projections")
        }
        () => None,
    }
}

/// What of a pod's Secrets an account that lists all it may use does not list.
fn secrets_objection(pod: &Value, account: &Value) -> Option<String> {
    let (spec, owner) = (&pod["spec"], text(account, "/metadata/name"));
    let listed = |field: &str, name: &str| items(&account[field]).any(|secret| secret["name"] == name);
    let foreign = |secret: &Value| secret.as_str().filter(|name| !listed("secrets", name)).map(str::to_owned);
    let unlisted = |what: String, kind: &str| {
        Some(format!("{what} is not allowed because service account {owner} does not reference that {kind}"))
    };
    for volume in items(&spec["volumes"]) {
        if let Some(name) = foreign(&volume["secret"]["secretName"]) {
            return unlisted(format!("volume with secret.secretName={name:?}"), "secret");
        }
    }
    for (field, container) in containers(spec) {
        let noun = match field {
            "initContainers" => "init container",
            "ephemeralContainers" => "ephemeral container",
            _ => "container",
        };
        let noun = format!("{noun} {}", text(container, "/name"));
        for variable in items(&container["env"]) {
            if let Some(name) = foreign(&variable["valueFrom"]["secretKeyRef"]["name"]) {
                let variable = text(variable, "/name");
                let what = format!("{noun} with envVar {variable} referencing secret.secretName={name:?}");
                return unlisted(what, "secret");
            }
        }
        for source in items(&container["envFrom"]) {
            if let Some(name) = foreign(&source["secretRef"]["name"]) {
                return unlisted(format!("{noun} with envFrom referencing secret.secretName={name:?}"), "secret");
            }
        }
    }
    for (position, secret) in items(&spec["imagePullSecrets"]).enumerate() {
        let name = text(secret, "/name");
        if !listed("imagePullSecrets", name) {
            return unlisted(format!("imagePullSecrets[{position}].name={name:?}"), "imagePullSecret");
        }
    }
    None
}

async fn account(request: &AdmissionRequest, context: &AdmissionContext, name: &str) -> ApiResult<Arc<Value>> {
    let namespace = &request.namespace;
    find(context, namespace, name).await?.ok_or_else(|| {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        refuse(request, why)
    })
}

async fn find(context: &AdmissionContext, namespace: &str, name: &str) -> ApiResult<Option<Arc<Value>>> {
    for attempt in 1.. {
        let account = context.get("", "serviceaccounts", namespace, name).await?;
        if account.is_some() || name != "default" || attempt == ATTEMPTS {
            return Ok(account);
        }
        coracle_clock::sleep(PAUSE).await;
    }
    Ok(None)
}

/// Mounts the token into every container that has nothing mounted there.
fn mount_token(spec: &mut Value, volume: &str) {
    // A template made from a running pod brings its volume along.
    let there = items(&spec["volumes"]).map(|v| text(v, "/name")).find(|name| name.starts_with(VOLUME_PREFIX));
    let (name, new) = match there {
        Some(name) => (name.to_owned(), false),
        None => (volume.to_owned(), true),
    };
    let mut used = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if items(&container["volumeMounts"]).any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            if let Some(mounts) = list_mut(container, "volumeMounts") {
                mounts.push(json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH }));
                used = true;
            }
        }
    }
    if let (true, true, Some(volumes)) = (used, new, list_mut(spec, "volumes")) {
        volumes.push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    let namespace =
        json!({ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } });
    let ca = json!({ "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] });
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": ca },
                { "downwardAPI": { "items": [namespace] } },
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn a_pod_runs_as_its_service_account_and_finds_its_token() {
        in_world("ServiceAccount", async |world| {
            let admitted = world.create("", "pods", pod(json!({}))).await.unwrap();
            let spec = &admitted["spec"];
            assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
            let volume = &spec["volumes"][0];
            assert!(text(volume, "/name").starts_with("kube-api-access-") && text(volume, "/name").len() == 21);
            assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
            let mount = &spec["containers"][0]["volumeMounts"][0];
            assert_eq!((&mount["name"], &mount["readOnly"]), (&volume["name"], &json!(true)));

            let without = pod(json!({ "automountServiceAccountToken": false }));
            assert!(world.create("", "pods", without).await.unwrap()["spec"]["volumes"].is_null());

            let message = world.create("", "pods", pod(json!({ "serviceAccountName": "x" }))).await.unwrap_err();
            assert_eq!(
                message,
                "pods \"web\" is forbidden: error looking up service account default/x: serviceaccount \"x\" not found"
            );
        });
    }

    #[test]
    fn an_account_may_list_the_secrets_its_pods_use() {
        in_world("ServiceAccount", async |world| {
            let account = json!({ "metadata": { "name": "robot", "namespace": "default",
                "annotations": { "kubernetes.io/enforce-mountable-secrets": "true" } },
                "secrets": [{ "name": "mine" }], "imagePullSecrets": [{ "name": "registry" }] });
            put(&world.storage, "", "serviceaccounts", account).await;
            let env = |name: &str| json!([{ "name": "c", "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": name, "key": "k" } } }] }]);
            let volume = |name: &str| json!([{ "name": "v", "secret": { "secretName": name } }]);
            let because = "is not allowed because service account robot does not reference that";
            for (spec, refused) in [
                (json!({ "containers": env("mine"), "volumes": volume("mine") }), String::new()),
                (
                    json!({ "volumes": volume("other") }),
                    format!("volume with secret.secretName=\"other\" {because} secret"),
                ),
                (
                    json!({ "containers": env("other") }),
                    format!("container c with envVar A referencing secret.secretName=\"other\" {because} secret"),
                ),
                (
                    json!({ "initContainers": [{ "name": "i", "envFrom": [{ "secretRef": { "name": "other" } }] }] }),
                    format!("init container i with envFrom referencing secret.secretName=\"other\" {because} secret"),
                ),
                (
                    json!({ "imagePullSecrets": [{ "name": "registry" }, { "name": "other" }] }),
                    format!("imagePullSecrets[1].name=\"other\" {because} imagePullSecret"),
                ),
            ] {
                let mut pod = pod(spec);
                pod["spec"]["serviceAccountName"] = "robot".into();
                let told = world.create("", "pods", pod).await.err().unwrap_or_default();
                assert_eq!(told.trim_start_matches("pods \"web\" is forbidden: "), refused);
            }
        });
    }

    #[test]
    fn a_mirror_pod_has_nothing_of_the_api() {
        in_world("ServiceAccount", async |world| {
            for (spec, refused) in [
                (json!({}), ""),
                (json!({ "serviceAccountName": "x" }), "a mirror pod may not reference service accounts"),
                (json!({ "imagePullSecrets": [{ "name": "s" }] }), "a mirror pod may not reference secrets"),
                (
                    json!({ "volumes": [{ "name": "v", "projected": { "sources": [{ "serviceAccountToken": { "path": "t" } }] } }] }),
                    "a mirror pod may not use ServiceAccountToken volume projections",
                ),
            ] {
                let mut pod = pod(spec);
                pod["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
                let told = world.create("", "pods", pod).await.err().unwrap_or_default();
                assert_eq!(told.trim_start_matches("pods \"web\" is forbidden: "), refused);
            }
        });
    }
}
