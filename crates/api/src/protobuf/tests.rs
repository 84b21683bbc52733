use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::decode::{normalise, parse_json, parse_yaml};
use crate::registry::builtin;
use crate::resource::Resource;
use crate::schema::{Field, Kind, Shape};

#[test]
fn a_deployment_goes_there_and_back() {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {"app": "d"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"app": "d"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {
                    "containers": [{
                        "name": "c", "image": "nginx",
                        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
                        "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 5},
                        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}],
                    }],
                    "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "c", "configMap": {"name": "x"}}],
                },
            },
        },
        "status": {},
    });
    let body = encode(&deployment).unwrap();
    assert!(body.starts_with(b"k8s\0\x0a"));
    assert_eq!(decode(&body).unwrap(), deployment);
}

#[test]
fn bytes_schemas_and_json_survive() {
    for object in [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"k": "AP8="}, "type": "Opaque"}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"versions": [{
            "name": "v1", "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true, "default": {"a": [1]},
                "properties": {"a": {"type": "array", "items": {"type": "string"}},
                               "b": {"additionalProperties": false}, "c": {"additionalProperties": {"type": "integer"}}},
                "maximum": 1.5}}}]}}),
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
               "spec": {"extra": {"scopes": ["a", "b"]}, "user": "u"}}),
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404,
               "details": {"causes": [{"reason": "x"}]}}),
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "5"},
               "items": [{"metadata": {"name": "p"}}]}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
               "spec": {"renewTime": "2026-01-01T00:00:00.000001Z", "leaseDurationSeconds": -1}}),
    ] {
        assert_eq!(decode(&encode(&object).unwrap()).unwrap(), object);
    }
}

#[test]
fn what_kubectl_1_32_sends_for_create_configmap() {
    // k8s\0, Unknown{typeMeta{"v1", "ConfigMap"}, raw, "", ""}: metadata with empty strings, an empty
    // creationTimestamp, and one entry of data.
    let body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1e\x0a\x14\x0a\x03cm1\x12\x00\x1a\x07default\x22\x00\x42\x00\x12\x06\x0a\x01a\x12\x011\x1a\x00\x22\x00";
    let mut object = decode(body).unwrap();
    let ty = type_of_kind("v1", "ConfigMap").unwrap();
    normalise(ty, &mut object, &mut Vec::new()).unwrap();
    assert_eq!(
        object,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm1", "namespace": "default"}, "data": {"a": "1"}})
    );
}

#[test]
fn garbage_is_refused() {
    for body in [&b""[..], b"{}", b"k8s\0\xff\xff\xff", b"k8s\0\x0a\x06\x0a\x02v1\x12\x00"] {
        assert_eq!(decode(body).unwrap_err().code, 400, "{body:?}");
    }
}

/// An object of a type, filled from a stream of chance. Empty lists and maps are not generated: the wire cannot tell
/// them from absent ones.
fn filled(ty: &'static Type, chance: &mut impl FnMut(u64) -> u64, depth: usize) -> Value {
    let mut map = Map::new();
    for field in ty.json_fields() {
        if depth == 0 && matches!(field.kind, Kind::Message(_)) || chance(3) > 0 {
            continue;
        }
        if matches!(field.kind, Kind::SchemaOrBool | Kind::SchemaOrArray | Kind::SchemaOrStrings) {
            continue;
        }
        let mut item = |_: u64| one(field, chance, depth);
        let value = match field.shape {
            Shape::List => Value::Array((0..2).map(&mut item).collect()),
            Shape::Map => json!({ "k": item(0), "": item(1) }),
            _ => item(0),
        };
        map.insert(field.name.to_owned(), value);
    }
    Value::Object(map)
}

fn one(field: &Field, chance: &mut impl FnMut(u64) -> u64, depth: usize) -> Value {
    match field.kind {
        Kind::String => format!("s{}", chance(9)).into(),
        Kind::Bool => (chance(2) == 0).into(),
        Kind::Int32 => (chance(1 << 31) as i32 - 5).into(),
        Kind::Int64 => (chance(u64::MAX) as i64).into(),
        Kind::Double => json!(chance(100) as f64 / 4.0),
        Kind::Bytes => ["", "AA==", "/////w=="][chance(3) as usize].into(),
        Kind::Quantity => ["0", "100m", "1536Mi"][chance(3) as usize].into(),
        Kind::IntOrString => [json!(chance(100)), json!("25%")][chance(2) as usize].clone(),
        Kind::Time => "2026-01-01T00:00:00Z".into(),
        Kind::MicroTime => "2026-01-01T00:00:00.000010Z".into(),
        Kind::Duration => ["1h0m0s", "1.5s", "0s", "-10ms"][chance(4) as usize].into(),
        Kind::Strings => json!(["a", "b"]),
        Kind::Raw => json!({"any": [1, "x", null]}),
        Kind::SchemaOrBool | Kind::SchemaOrArray | Kind::SchemaOrStrings => json!({}),
        Kind::Message(_) => filled(field.message().unwrap(), chance, depth - 1),
    }
}

/// Some object of some kind.
fn any_object(index: usize, seed: u64) -> (Arc<Resource>, Value) {
    let resource = builtin().swap_remove(index % builtin().len());
    let mut state = seed | 1;
    let mut chance = move |bound: u64| {
        // Knuth's multiplier: any stream will do.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % bound.max(1)
    };
    let ty = type_of_kind(&resource.api_version(), &resource.kind).unwrap();
    let mut object = filled(ty, &mut chance, 7);
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.clone().into();
    (resource, object)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_object_of_every_kind_survives_protobuf_json_and_yaml(index in any::<usize>(), seed in any::<u64>()) {
        let (_, object) = any_object(index, seed);
        prop_assert_eq!(&decode(&encode(&object).unwrap()).unwrap(), &object);
        prop_assert_eq!(&parse_json(object.to_string().as_bytes()).unwrap(), &(object.clone(), vec![]));
        let yaml = serde_yaml_ng::to_string(&object).unwrap();
        prop_assert_eq!(&parse_yaml(yaml.as_bytes()).unwrap(), &(object, vec![]));
    }

    #[test]
    fn what_is_decoded_and_defaulted_twice_is_so_once(index in any::<usize>(), seed in any::<u64>()) {
        let (resource, mut object) = any_object(index, seed);
        let ty = type_of_kind(&resource.api_version(), &resource.kind).unwrap();
        normalise(ty, &mut object, &mut Vec::new()).unwrap();
        let mut again = object.clone();
        normalise(ty, &mut again, &mut Vec::new()).unwrap();
        prop_assert_eq!(&again, &object);
        resource.strategy.default(&mut object);
        let mut again = object.clone();
        resource.strategy.default(&mut again);
        prop_assert_eq!(again, object);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut body = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".to_vec();
        body.push(bytes.len() as u8);
        body.extend(bytes);
        let _ = decode(&body);
    }
}
