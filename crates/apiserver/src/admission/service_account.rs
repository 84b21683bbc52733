//! ServiceAccount: every pod runs as a ServiceAccount of its namespace, finds a token for it in
//! `/var/run/secrets/kubernetes.io/serviceaccount`, and pulls images with the account's secrets.

use std::time::Duration;

use async_trait::async_trait;
use coracle_api::ApiResult;
use serde_json::{Value, json};

use super::{is, items, list_mut, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

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
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let mirror = !request.object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null();
        if !is(request, "pods") || mirror || !request.object["spec"].is_object() {
            return Ok(());
        }
        if text(&request.object, "/spec/serviceAccountName").is_empty() {
            request.object["spec"]["serviceAccountName"] = "default".into();
        }
        let name = text(&request.object, "/spec/serviceAccountName").to_owned();
        request.object["spec"]["serviceAccount"] = name.as_str().into();
        let Some(account) = find(context, &request.namespace, &name).await? else {
            let namespace = &request.namespace;
            let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
            return Err(refuse(request, why));
        };
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
}

async fn find(context: &AdmissionContext, namespace: &str, name: &str) -> ApiResult<Option<Value>> {
    for attempt in 1.. {
        let account = context.storage.get("", "serviceaccounts", namespace, name).await?;
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
