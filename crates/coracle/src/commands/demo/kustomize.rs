//! The little of kustomize that the example needs, so that the demo works without kubectl: resources,
//! and Secrets with a hash of their contents in their name. The result is the one that
//! `kubectl apply -k` gives, hash included, so both can be used on the same objects.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The files of a kustomization, by name.
pub type Files = &'static [(&'static str, &'static str)];

/// `examples/wordpress-mysql`, as it lies in the repository.
pub const WORDPRESS: Files = &[
    ("kustomization.yaml", include_str!("../../../../../examples/wordpress-mysql/kustomization.yaml")),
    ("mysql-deployment.yaml", include_str!("../../../../../examples/wordpress-mysql/mysql-deployment.yaml")),
    ("wordpress-deployment.yaml", include_str!("../../../../../examples/wordpress-mysql/wordpress-deployment.yaml")),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kustomization {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    secret_generator: Vec<SecretGenerator>,
}

#[derive(Deserialize)]
struct SecretGenerator {
    name: String,
    #[serde(default)]
    literals: Vec<String>,
}

/// The objects that a kustomization stands for, Secrets first.
pub fn build(files: Files) -> anyhow::Result<Vec<Value>> {
    let file = |name: &str| {
        let found = files.iter().find(|(file, _)| *file == name);
        found.map(|(_, text)| *text).with_context(|| format!("{name} is not part of the kustomization"))
    };
    let kustomization: Kustomization = serde_yaml_ng::from_str(file("kustomization.yaml")?)?;
    let mut objects = Vec::new();
    let mut renamed = BTreeMap::new();
    for generator in &kustomization.secret_generator {
        let secret = secret(generator)?;
        renamed.insert(generator.name.clone(), secret["metadata"]["name"].clone());
        objects.push(secret);
    }
    for resource in &kustomization.resources {
        for document in serde_yaml_ng::Deserializer::from_str(file(resource)?) {
            let mut object = Value::deserialize(document).with_context(|| resource.clone())?;
            rename_secrets(&mut object, &renamed);
            objects.push(object);
        }
    }
    Ok(objects)
}

fn secret(generator: &SecretGenerator) -> anyhow::Result<Value> {
    let mut data = BTreeMap::new();
    for literal in &generator.literals {
        let Some((key, value)) = literal.split_once('=') else { bail!("{literal:?} is not key=value") };
        data.insert(key.to_owned(), STANDARD.encode(value));
    }
    let name = format!("{}-{}", generator.name, hash(&generator.name, &data)?);
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": { "name": name },
        "data": data,
    }))
}

/// kustomize's hash: ten characters of the SHA-256 of the Secret's JSON, with those letters that spell no words.
fn hash(name: &str, data: &BTreeMap<String, String>) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Hashed<'a> {
        data: &'a BTreeMap<String, String>,
        kind: &'static str,
        name: &'a str,
        r#type: &'static str,
    }
    let json = serde_json::to_vec(&Hashed { data, kind: "Secret", name, r#type: "Opaque" })?;
    let digest = Sha256::digest(&json);
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    let replace = |c| match c {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        other => other,
    };
    Ok(hex.chars().map(replace).collect())
}

/// Replaces the names of generated Secrets wherever pods refer to Secrets.
fn rename_secrets(value: &mut Value, renamed: &BTreeMap<String, Value>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| rename_secrets(item, renamed)),
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = match field.as_str() {
                    "secretKeyRef" | "secretRef" => value.get_mut("name"),
                    "secretName" => Some(value),
                    _ => {
                        rename_secrets(value, renamed);
                        None
                    }
                };
                if let Some(name) = name
                    && let Some(new) = name.as_str().and_then(|old| renamed.get(old))
                {
                    *name = new.clone();
                }
            }
        }
        _ => {}
    }
}

/// The images of all pods in these objects.
pub fn images(objects: &[Value]) -> BTreeSet<String> {
    let mut images = BTreeSet::new();
    for object in objects {
        let containers = object.pointer("/spec/template/spec/containers").and_then(Value::as_array);
        let named = containers.into_iter().flatten().filter_map(|container| container["image"].as_str());
        images.extend(named.map(str::to_owned));
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_what_kubectl_makes_of_it() {
        let objects = build(WORDPRESS).unwrap();
        let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == "Deployment").count(), 2);
        assert_eq!(kinds[0], "Secret");
        let name = objects[0]["metadata"]["name"].as_str().unwrap();
        let text = serde_json::to_string(&objects).unwrap();
        assert!(!text.contains(r#""name":"mysql-pass"}"#), "a reference kept the old name");
        // The Secret itself and the three references to it.
        assert_eq!(text.matches(name).count(), 1 + 3);
        assert_eq!(images(&objects).len(), 2);
    }
}
