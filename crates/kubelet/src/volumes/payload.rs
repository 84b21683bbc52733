//! The files of volumes that are made from API objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    SecretVolumeSource,
};

use super::VolumeSources;
use crate::env::Referenced;
use crate::fields::{PodFacts, field_value, resource_value};

/// A file's content and permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// The content.
    pub data: Vec<u8>,
    /// The permission bits.
    pub mode: u32,
}

/// Files by their path within the volume.
pub type Payload = BTreeMap<String, FileEntry>;

type Data = BTreeMap<String, Vec<u8>>;

/// Permission bits from a `defaultMode` or `mode`; 0644 when there is none.
pub(super) fn mode_of(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644)
}

fn config_map_data(map: &ConfigMap) -> Data {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

fn secret_data(secret: &Secret) -> Data {
    secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

/// All keys, or those of `items` under their paths.
fn select(
    data: &Data,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
    missing_key: &str,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.iter().map(|(key, data)| (key.clone(), FileEntry { data: data.clone(), mode })).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                let mode = item.mode.map_or(mode, |own| mode_of(Some(own)));
                payload.insert(item.path.clone(), FileEntry { data: data.clone(), mode });
            }
            None if optional => {}
            None => return Err(format!("{missing_key}: {}", item.key)),
        }
    }
    Ok(payload)
}

/// One source among those that hold key-value data.
struct KeyedSource<'a> {
    what: &'static str,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    mode: u32,
    optional: bool,
}

fn keyed(source: KeyedSource<'_>, data: Option<Data>) -> Result<Payload, String> {
    match data {
        Some(data) => {
            let missing_key = match source.what {
                "configmap" => "configmap references non-existent config key",
                _ => "references non-existent secret key",
            };
            select(&data, source.items, source.mode, source.optional, missing_key)
        }
        None if source.optional => Ok(Payload::new()),
        None => Err(format!("{} {:?} not found", source.what, source.name)),
    }
}

pub(super) fn config_map(source: &ConfigMapVolumeSource, referenced: &Referenced) -> Result<Payload, String> {
    let data = referenced.config_maps.get(&source.name).map(|map| config_map_data(map));
    let keyed_source = KeyedSource {
        what: "configmap",
        name: &source.name,
        items: source.items.as_deref(),
        mode: mode_of(source.default_mode),
        optional: source.optional == Some(true),
    };
    keyed(keyed_source, data)
}

pub(super) fn secret(source: &SecretVolumeSource, referenced: &Referenced) -> Result<Payload, String> {
    let name = source.secret_name.as_deref().unwrap_or_default();
    let data = referenced.secrets.get(name).map(|secret| secret_data(secret));
    let keyed_source = KeyedSource {
        what: "secret",
        name,
        items: source.items.as_deref(),
        mode: mode_of(source.default_mode),
        optional: source.optional == Some(true),
    };
    keyed(keyed_source, data)
}

pub(super) fn downward(
    pod: &Pod,
    facts: &PodFacts,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(pod, facts, &field.field_path)?,
            (None, Some(resource)) => resource_value(pod, None, facts, resource)?,
            (None, None) => continue,
        };
        let mode = item.mode.map_or(mode, |own| mode_of(Some(own)));
        payload.insert(item.path.clone(), FileEntry { data: value.into_bytes(), mode });
    }
    Ok(payload)
}

/// Several sources in one directory; later ones win.
pub(super) fn projected(
    pod: &Pod,
    facts: &PodFacts,
    volume: &str,
    source: &ProjectedVolumeSource,
    sources: &VolumeSources,
) -> Result<Payload, String> {
    let mode = mode_of(source.default_mode);
    let mut payload = Payload::new();
    for part in source.sources.iter().flatten() {
        if let Some(map) = &part.config_map {
            let data = sources.referenced.config_maps.get(&map.name).map(|map| config_map_data(map));
            let items = map.items.as_deref();
            let optional = map.optional == Some(true);
            let keyed_source = KeyedSource { what: "configmap", name: &map.name, items, mode, optional };
            payload.extend(keyed(keyed_source, data)?);
        }
        if let Some(secret) = &part.secret {
            let data = sources.referenced.secrets.get(&secret.name).map(|secret| secret_data(secret));
            let items = secret.items.as_deref();
            let optional = secret.optional == Some(true);
            let keyed_source = KeyedSource { what: "secret", name: &secret.name, items, mode, optional };
            payload.extend(keyed(keyed_source, data)?);
        }
        if let Some(own) = &part.downward_api {
            payload.extend(downward(pod, facts, own.items.as_deref().unwrap_or_default(), mode)?);
        }
        if let Some(token) = &part.service_account_token {
            let audience = token.audience.clone().unwrap_or_default();
            let key = (volume.to_owned(), token.path.clone(), audience);
            let value = sources.tokens.get(&key).ok_or("failed to fetch token")?;
            payload.insert(token.path.clone(), FileEntry { data: value.clone().into_bytes(), mode });
        }
        if part.cluster_trust_bundle.is_some() || part.pod_certificate.is_some() {
            return Err("projected volume source is not supported by this kubelet".into());
        }
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{from_value, json};

    use super::*;
    use crate::testing::pod;

    fn referenced() -> Referenced {
        let map = from_value(json!({ "data": { "a": "1", "b": "2" }, "binaryData": { "c": "/w==" } })).unwrap();
        Referenced { config_maps: [("m".to_owned(), Arc::new(map))].into(), ..Referenced::default() }
    }

    fn listing(payload: &Payload) -> Vec<(String, Vec<u8>, u32)> {
        payload.iter().map(|(path, file)| (path.clone(), file.data.clone(), file.mode)).collect()
    }

    #[test]
    fn a_config_map_shows_all_keys_or_those_selected() {
        let all = config_map(&from_value(json!({ "name": "m" })).unwrap(), &referenced()).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all["c"].data, [0xff]);
        let some = json!({ "name": "m", "defaultMode": 0o400, "items": [{ "key": "a", "path": "d/x" }, { "key": "b", "path": "y", "mode": 0o777 }] });
        let some = config_map(&from_value(some).unwrap(), &referenced()).unwrap();
        assert_eq!(listing(&some), [("d/x".into(), b"1".to_vec(), 0o400), ("y".into(), b"2".to_vec(), 0o777)]);
        let missing = json!({ "name": "m", "items": [{ "key": "z", "path": "z" }] });
        let message = config_map(&from_value(missing).unwrap(), &referenced()).unwrap_err();
        assert_eq!(message, "configmap references non-existent config key: z");
    }

    #[test]
    fn a_projected_volume_holds_token_certificate_and_namespace() {
        let map = from_value(json!({ "data": { "ca.crt": "PEM" } })).unwrap();
        let mut sources = VolumeSources::default();
        sources.referenced.config_maps.insert("kube-root-ca.crt".into(), Arc::new(map));
        sources.tokens.insert(("v".into(), "token".into(), String::new()), "jwt".into());
        let source = from_value(json!({ "sources": [
            { "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } },
            { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } }] } },
        ] }))
        .unwrap();
        let pod = pod("p", json!({ "containers": [] }));
        let payload = projected(&pod, &PodFacts::default(), "v", &source, &sources).unwrap();
        let names: Vec<_> = payload.keys().map(String::as_str).collect();
        assert_eq!(names, ["ca.crt", "namespace", "token"]);
        assert_eq!(payload["namespace"].data, b"default");
        assert_eq!(payload["token"].data, b"jwt");
    }
}
