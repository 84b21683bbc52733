//! Formats and shapes of answers: protobuf, YAML, pretty JSON, metadata, long lists.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Read as _;

use common::*;
use coracle_api::protobuf;
use http_body_util::BodyExt;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = protobuf::MEDIA_TYPE;

async fn in_protobuf(server: &Server, path: &str, accept: &str) -> Value {
    let answer = server.send("GET", path, &[("accept", accept)], b"").await;
    assert_eq!((answer.code, answer.headers["content-type"].to_str().unwrap()), (200, PROTOBUF));
    protobuf::decode(&answer.bytes).unwrap()
}

#[test]
fn objects_lists_and_refusals_come_in_protobuf_to_who_asks() {
    served(async |server| {
        let created = server.post(MAPS, config_map("a")).await.expect(201);
        assert_eq!(in_protobuf(&server, &format!("{MAPS}/a"), PROTOBUF).await, created);
        let list = in_protobuf(&server, MAPS, &format!("{PROTOBUF},application/json")).await;
        assert_eq!((&list["kind"], &list["items"][0]["data"]), (&json!("ConfigMapList"), &created["data"]));
        assert_eq!(list["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
        let missing = server.send("GET", &format!("{MAPS}/b"), &[("accept", PROTOBUF)], b"").await;
        let status = protobuf::decode(&missing.bytes).unwrap();
        assert_eq!((missing.code, &status["kind"], &status["reason"]), (404, &json!("Status"), &json!("NotFound")));
        let gone = server.send("DELETE", &format!("{MAPS}/a"), &[("accept", PROTOBUF)], b"").await;
        assert_eq!(protobuf::decode(&gone.bytes).unwrap()["status"], "Success");
    });
}

#[test]
fn every_built_in_kind_lists_in_protobuf() {
    served(async |server| {
        for resource in coracle_api::registry::builtin().iter().filter(|resource| resource.stored) {
            let prefix = if resource.group.is_empty() { "/api".into() } else { format!("/apis/{}", resource.group) };
            let path = format!("{prefix}/{}/{}", resource.version, resource.plural);
            let list = in_protobuf(&server, &path, PROTOBUF).await;
            assert_eq!(
                (&list["kind"], &list["apiVersion"]),
                (&json!(resource.list_kind), &json!(resource.api_version()))
            );
        }
    });
}

#[test]
fn metadata_alone_comes_in_json_and_protobuf_for_objects_and_lists() {
    served(async |server| {
        server.post(MAPS, config_map("a")).await.expect(201);
        let path = format!("{MAPS}/a");
        for version in ["v1", "v1beta1"] {
            let of = |kind: &str| format!("{PROTOBUF};as={kind};g=meta.k8s.io;v={version}");
            let one = in_protobuf(&server, &path, &of("PartialObjectMetadata")).await;
            assert_eq!((&one["kind"], &one["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("a")));
            assert!(one.get("data").is_none());
            let json = of("PartialObjectMetadataList").replace(PROTOBUF, "application/json");
            let list = server.send("GET", MAPS, &[("accept", &json)], b"").await.expect(200);
            assert_eq!(
                (&list["kind"], &list["items"][0]["metadata"]["name"]),
                (&json!("PartialObjectMetadataList"), &json!("a"))
            );
        }
        let list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(
            server.send("GET", &path, &[("accept", list)], b"").await.expect(406)["message"],
            "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)"
        );
        let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(
            server.send("GET", MAPS, &[("accept", one)], b"").await.expect(406)["message"],
            "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)"
        );
    });
}

/// The frames of a protobuf watch: type and object.
fn frames(mut bytes: &[u8]) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        // WatchEvent: field 1 the type, field 2 a RawExtension around the object's body.
        let (kind, object) = frame[2..].split_at(frame[1].into());
        let start = object.windows(4).position(|window| window == b"k8s\0").unwrap();
        found.push((String::from_utf8(kind.to_vec()).unwrap(), protobuf::decode(&object[start..]).unwrap()));
        bytes = rest;
    }
    found
}

#[test]
fn a_watch_streams_protobuf_frames_to_who_asks() {
    served(async |server| {
        server.post(MAPS, config_map("a")).await.expect(201);
        for (accept, kind) in [
            (format!("{PROTOBUF};stream=watch"), "ConfigMap"),
            (format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"), "PartialObjectMetadata"),
        ] {
            let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
            let response = server.open("GET", &format!("{MAPS}?{query}"), &[("accept", &accept)], b"").await;
            assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
            let mut body = response.into_body();
            let mut bytes = Vec::new();
            for _ in 0..2 {
                bytes.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
            }
            let events = frames(&bytes);
            assert_eq!((events[0].0.as_str(), &events[0].1["kind"]), ("ADDED", &json!(kind)));
            assert_eq!(events[0].1["metadata"]["name"], "a");
            assert_eq!((events[1].0.as_str(), &events[1].1["kind"]), ("BOOKMARK", &json!(kind)));
            assert_eq!(events[1].1["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        }
        let yaml = server.send("GET", &format!("{MAPS}?watch=true"), &[("accept", "application/yaml")], b"").await;
        assert_eq!(yaml.code, 406);
    });
}

#[test]
fn people_get_indented_json() {
    served(async |server| {
        server.post(MAPS, config_map("a")).await.expect(201);
        let indented = |answer: &Answer| answer.bytes.windows(3).any(|window| window == b"\n  ");
        let agent = |name: &'static str| [("user-agent", name)];
        for path in [format!("{MAPS}/a"), MAPS.to_owned(), format!("{MAPS}/missing")] {
            assert!(!indented(&server.get(&path).await));
            assert!(indented(&server.get(&format!("{path}?pretty=true")).await), "{path}");
            assert!(indented(&server.send("GET", &path, &agent("curl/8.0"), b"").await), "{path}");
            assert!(!indented(&server.send("GET", &format!("{path}?pretty=false"), &agent("curl/8.0"), b"").await));
        }
    });
}

#[test]
fn a_long_list_comes_in_pieces_compressed_or_not_and_is_the_same() {
    served(async |server| {
        for number in 0..300 {
            let mut map = config_map(&format!("m{number:03}"));
            map["data"]["text"] = "x".repeat(2000).into();
            server.post(MAPS, map).await.expect(201);
        }
        let mut body = server.open("GET", MAPS, &[], b"").await.into_body();
        let (mut plain, mut largest) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            largest = largest.max(data.len());
            plain.extend(data);
        }
        assert!(plain.len() > 600_000 && largest < 250_000, "{largest} of {} bytes", plain.len());
        let list: Value = serde_json::from_slice(&plain).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 300);
        let packed = server.send("GET", MAPS, &[("accept-encoding", "gzip")], b"").await;
        assert_eq!(
            (&packed.headers["content-encoding"], &packed.headers["vary"]),
            (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
        );
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed.bytes[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
        assert!(packed.bytes.len() < plain.len() / 10);
    });
}
