//! A container's environment: variables of services, of ConfigMaps and Secrets, of the pod's own fields.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use crate::expansion::expand;
use crate::fields::{PodFacts, field_value, resource_value};
use crate::runtime::EnvVar;

/// The objects that a pod's containers and volumes refer to, by name; what does not exist is absent.
#[derive(Clone, Debug, Default)]
pub struct Referenced {
    /// ConfigMaps of the pod's namespace.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets of the pod's namespace.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// A container's environment, in order, each name once.
///
/// # Errors
/// The message of `CreateContainerConfigError`: a ConfigMap, Secret or key that must be there is not.
pub fn environment(
    pod: &Pod,
    container: &Container,
    services: &[Arc<Service>],
    referenced: &Referenced,
    facts: &PodFacts,
) -> Result<Vec<EnvVar>, String> {
    let mut env = Environment::default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let pairs = if let Some(from) = &source.config_map_ref {
            match referenced.config_maps.get(&from.name) {
                Some(map) => map.data.clone().unwrap_or_default(),
                None if from.optional == Some(true) => BTreeMap::new(),
                None => return Err(not_found("configmap", &from.name)),
            }
        } else if let Some(from) = &source.secret_ref {
            match referenced.secrets.get(&from.name) {
                Some(secret) => secret_strings(secret),
                None if from.optional == Some(true) => BTreeMap::new(),
                None => return Err(not_found("secret", &from.name)),
            }
        } else {
            BTreeMap::new()
        };
        for (key, value) in pairs.into_iter().filter(|(key, _)| !key.contains('=')) {
            env.set(&format!("{prefix}{key}"), value);
        }
    }
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let service_env = service_variables(services, namespace, links);
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                let known = |name: &str| env.get(name).or_else(|| service_env.get(name).cloned());
                Some(expand(value, known))
            }
            (_, Some(from)) => value_from(pod, container, from, referenced, facts, namespace)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(&variable.name, value);
        }
    }
    for (name, value) in service_env {
        if env.get(&name).is_none() {
            env.set(&name, value);
        }
    }
    Ok(env.variables)
}

/// Variables in the order of their first setting; a later setting changes the value.
#[derive(Default)]
struct Environment {
    variables: Vec<EnvVar>,
}

impl Environment {
    fn get(&self, name: &str) -> Option<String> {
        self.variables.iter().find(|v| v.name == name).map(|v| v.value.clone())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.variables.iter_mut().find(|v| v.name == name) {
            Some(variable) => variable.value = value,
            None => self.variables.push(EnvVar { name: name.to_owned(), value }),
        }
    }
}

fn not_found(kind: &str, name: &str) -> String {
    format!("{kind} {name:?} not found")
}

fn secret_strings(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())).collect()
}

/// The value from a source; `None` leaves the variable unset.
fn value_from(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    referenced: &Referenced,
    facts: &PodFacts,
    namespace: &str,
) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return field_value(pod, facts, &field.field_path).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_value(pod, Some(container), facts, resource).map(Some);
    }
    if let Some(key) = &from.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = referenced.config_maps.get(&key.name) else {
            return if optional { Ok(None) } else { Err(not_found("configmap", &key.name)) };
        };
        return match map.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name)),
        };
    }
    if let Some(key) = &from.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = referenced.secrets.get(&key.name) else {
            return if optional { Ok(None) } else { Err(not_found("secret", &key.name)) };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name)),
        };
    }
    Ok(Some(String::new()))
}

/// The variables that tell of services: those of the pod's namespace if `links`, and `kubernetes` always.
pub fn service_variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    // The pod's own namespace comes last, so that its `kubernetes` service, if any, wins.
    let is_master = |s: &Service| {
        s.metadata.namespace.as_deref() == Some("default") && s.metadata.name.as_deref() == Some("kubernetes")
    };
    let own = |s: &Service| links && s.metadata.namespace.as_deref() == Some(namespace);
    for service in services.iter().filter(|s| is_master(s)).chain(services.iter().filter(|s| own(s))) {
        variables.extend(variables_of(service));
    }
    variables
}

fn variables_of(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return Vec::new() };
    let constant = |text: &str| text.to_uppercase().replace(['-', '.'], "_");
    let prefix = constant(service.metadata.name.as_deref().unwrap_or_default());
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return Vec::new() };
    let mut variables = vec![
        (format!("{prefix}_SERVICE_HOST"), ip.to_owned()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.push((format!("{prefix}_SERVICE_PORT_{}", constant(name)), port.port.to_string()));
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            variables.push((format!("{prefix}_PORT"), url.clone()));
        }
        let link = format!("{prefix}_PORT_{}_{protocol}", port.port);
        variables.push((link.clone(), url));
        variables.push((format!("{link}_PROTO"), protocol.to_lowercase()));
        variables.push((format!("{link}_PORT"), port.port.to_string()));
        variables.push((format!("{link}_ADDR"), ip.to_owned()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observed::containers;
    use crate::testing::pod;

    fn service(namespace: &str, name: &str, ip: &str) -> Arc<Service> {
        let value = json!({
            "metadata": { "namespace": namespace, "name": name },
            "spec": { "clusterIP": ip, "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] },
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn referenced() -> Referenced {
        let map = serde_json::from_value(json!({ "data": { "color": "blue", "a.b": "dot" } })).unwrap();
        let secret = serde_json::from_value(json!({ "data": { "password": "c2VjcmV0" } })).unwrap();
        Referenced {
            config_maps: [("cm".to_owned(), Arc::new(map))].into(),
            secrets: [("sec".to_owned(), Arc::new(secret))].into(),
        }
    }

    fn env_of(container: Value, services: &[Arc<Service>], links: bool) -> Result<BTreeMap<String, String>, String> {
        let pod = pod("p", json!({ "containers": [container], "enableServiceLinks": links }));
        let env = environment(&pod, &containers(&pod)[0], services, &referenced(), &PodFacts::default())?;
        Ok(env.into_iter().map(|v| (v.name, v.value)).collect())
    }

    #[test]
    fn values_come_from_everywhere_and_refer_to_each_other() {
        let env = env_of(
            json!({
                "name": "a",
                "envFrom": [{ "prefix": "P_", "configMapRef": { "name": "cm" } }, { "secretRef": { "name": "sec" } }],
                "env": [
                    { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                    { "name": "URL", "value": "http://$(NAME):$(WEB_SERVICE_PORT)/$(P_color)$(NOPE)" },
                    { "name": "PW", "valueFrom": { "secretKeyRef": { "name": "sec", "key": "password" } } },
                    { "name": "GONE", "valueFrom": { "configMapKeyRef": { "name": "cm", "key": "no", "optional": true } } },
                    { "name": "EMPTY" },
                ],
            }),
            &[service("default", "web", "10.96.0.9")],
            true,
        )
        .unwrap();
        assert_eq!(env["URL"], "http://p:80/blue$(NOPE)");
        assert_eq!((env["password"].as_str(), env["PW"].as_str()), ("secret", "secret"));
        assert_eq!(env["P_a.b"], "dot");
        assert_eq!(env["EMPTY"], "");
        assert!(!env.contains_key("GONE"));
    }

    #[test]
    fn what_must_be_there_and_is_not_is_named() {
        for (source, message) in [
            (json!({ "configMapKeyRef": { "name": "no", "key": "k" } }), "configmap \"no\" not found"),
            (json!({ "configMapKeyRef": { "name": "cm", "key": "k" } }), "couldn't find key k in ConfigMap default/cm"),
            (json!({ "secretKeyRef": { "name": "no", "key": "k" } }), "secret \"no\" not found"),
            (json!({ "secretKeyRef": { "name": "sec", "key": "k" } }), "couldn't find key k in Secret default/sec"),
        ] {
            let env = env_of(json!({ "name": "a", "env": [{ "name": "X", "valueFrom": source }] }), &[], true);
            assert_eq!(env, Err(message.to_owned()));
        }
    }

    #[test]
    fn services_of_the_namespace_show_and_kubernetes_always() {
        let services = [
            service("default", "kubernetes", "10.96.0.1"),
            service("default", "my-db", "10.96.0.2"),
            service("default", "headless", "None"),
            service("other", "x", "10.96.0.3"),
        ];
        let env = env_of(json!({ "name": "a" }), &services, true).unwrap();
        assert_eq!(env["MY_DB_PORT_80_TCP"], "tcp://10.96.0.2:80");
        assert_eq!(env["MY_DB_SERVICE_PORT_HTTP"], "80");
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
        assert!(!env.keys().any(|key| key.starts_with("X_") || key.starts_with("HEADLESS")));
        let env = env_of(json!({ "name": "a" }), &services, false).unwrap();
        assert!(env.contains_key("KUBERNETES_SERVICE_HOST") && !env.contains_key("MY_DB_SERVICE_HOST"));
    }
}
