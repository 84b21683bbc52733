//! Volumes of a pod spec.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, one_of, required, required_name, text};
use crate::field::FieldErrors;
use crate::names::check_dns_label;

/// Checks the volumes and returns their names.
pub(super) fn volumes(spec: &Value, path: &str, errors: &mut FieldErrors) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (path, volume) in each(spec, path, "volumes") {
        required_name(volume, &path, "name", check_dns_label, errors);
        let name = text(volume, "name");
        if !names.insert(name.to_owned()) {
            errors.duplicate(&join(&path, "name"), name);
        }
        source(volume, &path, errors);
    }
    names
}

fn source(volume: &Value, path: &str, errors: &mut FieldErrors) {
    let sources: Vec<&String> =
        volume.as_object().into_iter().flatten().map(|(k, _)| k).filter(|k| *k != "name").collect();
    match sources.as_slice() {
        [] => errors.required(path, "must specify a volume type"),
        [_] => {}
        [_, more @ ..] => {
            for key in more {
                errors.forbidden(&join(path, key), "may not specify more than 1 volume type");
            }
        }
    }
    let Some(kind) = sources.first() else { return };
    let (of, path) = (&volume[kind.as_str()], join(path, kind));
    match kind.as_str() {
        "hostPath" => {
            required(of, &path, "path", errors);
            no_backsteps(text(of, "path"), &join(&path, "path"), errors);
            let types =
                ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
            one_of(of, &path, "type", &types, errors);
        }
        "secret" => {
            required(of, &path, "secretName", errors);
            mode_and_items(of, &path, errors);
        }
        "configMap" => {
            required(of, &path, "name", errors);
            mode_and_items(of, &path, errors);
        }
        "persistentVolumeClaim" => required(of, &path, "claimName", errors),
        "downwardAPI" => mode(of, &path, "defaultMode", errors),
        "projected" => projected(of, &path, errors),
        "nfs" => {
            required(of, &path, "server", errors);
            required(of, &path, "path", errors);
            if !text(of, "path").starts_with('/') {
                errors.invalid(&join(&path, "path"), text(of, "path"), "must be an absolute path");
            }
        }
        "csi" => required(of, &path, "driver", errors),
        _ => {}
    }
}

fn projected(of: &Value, path: &str, errors: &mut FieldErrors) {
    mode(of, path, "defaultMode", errors);
    for (path, projection) in each(of, path, "sources") {
        let kinds: Vec<&String> = projection.as_object().into_iter().flatten().map(|(k, _)| k).collect();
        if kinds.len() > 1 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
        }
        let token = &projection["serviceAccountToken"];
        if token.is_object() {
            let path = join(&path, "serviceAccountToken");
            required(token, &path, "path", errors);
            if let Some(seconds) = token["expirationSeconds"].as_i64().filter(|s| *s < 600) {
                errors.invalid(
                    &join(&path, "expirationSeconds"),
                    seconds,
                    "may not specify a duration less than 10 minutes",
                );
            }
        }
        for kind in ["secret", "configMap"] {
            if projection[kind].is_object() {
                required(&projection[kind], &join(&path, kind), "name", errors);
                mode_and_items(&projection[kind], &join(&path, kind), errors);
            }
        }
    }
}

fn mode(object: &Value, path: &str, key: &str, errors: &mut FieldErrors) {
    if let Some(mode) = object[key].as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(&join(path, key), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn mode_and_items(of: &Value, path: &str, errors: &mut FieldErrors) {
    mode(of, path, "defaultMode", errors);
    for (path, item) in each(of, path, "items") {
        required(item, &path, "key", errors);
        required(item, &path, "path", errors);
        let relative = text(item, "path");
        if relative.starts_with('/') {
            errors.invalid(&join(&path, "path"), relative, "must be a relative path");
        }
        no_backsteps(relative, &join(&path, "path"), errors);
        mode(item, &path, "mode", errors);
    }
}

fn no_backsteps(text: &str, path: &str, errors: &mut FieldErrors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::{errors_of, pod};

    #[test]
    fn what_people_get_wrong_is_named() {
        for (volumes, errors) in [
            (
                json!([{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]),
                vec!["spec.volumes[1].name: Duplicate value: \"a\""],
            ),
            (
                json!([{"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}}]),
                vec!["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
            ),
            (json!([{"name": "a", "configMap": {}}]), vec!["spec.volumes[0].configMap.name: Required value"]),
            (
                json!([{"name": "a", "secret": {"secretName": "s", "defaultMode": 4096}}]),
                vec![
                    "spec.volumes[0].secret.defaultMode: Invalid value: 4096: must be a number between 0 and 0777 (octal), both inclusive",
                ],
            ),
        ] {
            let mut object = json!({"spec": {"containers": [{"name": "c", "image": "x"}], "volumes": volumes}});
            crate::defaults::pod(&mut object);
            assert_eq!(errors_of(pod, &object), errors);
        }
    }
}
