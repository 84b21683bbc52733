//! Clients that mean harm: always a Status, never a panic, nothing without bound.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use coracle_apiserver::UserInfo;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tower::Service;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const YAML: [(&str, &str); 1] = [("content-type", "application/yaml")];
const PROTOBUF: [(&str, &str); 1] = [("content-type", "application/vnd.kubernetes.protobuf")];

/// The Status with which a body is refused.
#[track_caller]
fn refused(answer: &Answer, code: u16) -> Value {
    let status = answer.expect(code);
    assert_eq!(
        (&status["kind"], &status["status"], &status["code"]),
        (&json!("Status"), &json!("Failure"), &json!(code))
    );
    status
}

/// A body of so many bytes that never comes.
struct Announced(u64);

impl http_body::Body for Announced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0)
    }
}

#[test]
fn bodies_over_three_mebibytes_are_too_large_and_those_below_are_not() {
    served(async |server| {
        let spaces = |size: usize| {
            let mut body = config_map("m").to_string().into_bytes();
            body.resize(size, b' ');
            body
        };
        let limit = 3 << 20;
        server.send("POST", MAPS, &JSON, &spaces(limit)).await.expect(201);
        for method in ["POST", "PUT", "DELETE"] {
            let path = if method == "POST" { MAPS.to_owned() } else { format!("{MAPS}/m") };
            let status = refused(&server.send(method, &path, &JSON, &spaces(limit + 1)).await, 413);
            assert_eq!(status["reason"], "RequestEntityTooLarge");
            assert_eq!(status["message"], "Request entity too large: limit is 3145728");
        }
        let patch = [("content-type", MERGE)];
        refused(&server.send("PATCH", &format!("{MAPS}/m"), &patch, &spaces(limit + 1)).await, 413);
        // Nobody waits for what is announced.
        let request = Request::post(MAPS).body(Announced(1 << 40)).unwrap();
        let start = coracle_clock::instant();
        let response = server.api.service_as(UserInfo::new("ann", &[])).call(request).await.unwrap();
        assert_eq!((response.status().as_u16(), start.elapsed()), (413, Duration::ZERO));
    });
}

#[test]
fn deep_nesting_is_refused_wherever_it_comes_from() {
    served(async |server| {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        for depth in [120, 1000, 1_000_000] {
            let json = format!(r#"{{"metadata": {{"name": "m"}}, "data": {}}}"#, nested(depth));
            refused(&server.send("POST", MAPS, &JSON, json.as_bytes()).await, 400);
            let yaml = format!("metadata: {{name: m}}\ndata: {}\n", nested(depth.min(100_000)));
            refused(&server.send("POST", MAPS, &YAML, yaml.as_bytes()).await, 400);
        }
        server.post(MAPS, config_map("m")).await.expect(201);
        let deep: Vec<Value> = (1..400)
            .map(|depth| json!({ "op": "add", "path": "/data".to_owned() + &"/a".repeat(depth), "value": {} }))
            .collect();
        let patched = server.patch(&format!("{MAPS}/m"), JSON_PATCH, deep.into()).await;
        refused(&patched, 422);
        // JSONSchemaProps in themselves: field 19 is `not`.
        let mut message = Vec::new();
        for _ in 0..10_000 {
            let mut outer = varint(19 << 3 | 2);
            outer.extend(varint(message.len() as u64));
            outer.append(&mut message);
            message = outer;
            if message.len() > 1 << 20 {
                break;
            }
        }
        let ty = coracle_api::schema::type_of("apiextensions.v1.JSONSchemaProps").unwrap();
        let _ = coracle_api::protobuf::decode_message(ty, &message);
    });
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

#[test]
fn what_is_no_utf8_no_protobuf_or_a_yaml_bomb_is_a_bad_request() {
    served(async |server| {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let item = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![item; 9].join(",")));
        }
        for (headers, body) in [
            (&JSON, &b"{\"metadata\": {\"name\": \"\xff\xfe\"}}"[..]),
            (&JSON, b"\xff\xff"),
            (&JSON, b""),
            (&JSON, b"[]"),
            (&JSON, b"null"),
            (&JSON, b"{\"metadata\": 5}"),
            (&YAML, b"\xff\xfe\x00"),
            (&YAML, b"a: [b"),
            (&YAML, bomb.as_bytes()),
            (&PROTOBUF, b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            (&PROTOBUF, b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\xff\xff\xff\xff\x0f"),
            (&PROTOBUF, b"{}"),
            (&PROTOBUF, b""),
        ] {
            let status = refused(&server.send("POST", MAPS, headers, body).await, 400);
            assert_eq!(status["reason"], "BadRequest", "{body:?}");
        }
        let message = refused(&server.send("POST", MAPS, &JSON, b"").await, 400)["message"].clone();
        assert!(message.as_str().unwrap().ends_with("(<empty>)"), "{message}");
    });
}

#[test]
fn names_cannot_climb_out_of_their_resource() {
    served(async |server| {
        server.post("/api/v1/namespaces/kube-system/secrets", json!({ "metadata": { "name": "s" } })).await.expect(201);
        for (path, message) in [
            (format!("{MAPS}/.."), r#"Name parameter invalid: "..": may not be '..'"#),
            (format!("{MAPS}/."), r#"Name parameter invalid: ".": may not be '.'"#),
            (format!("{MAPS}/a%25b"), r#"Name parameter invalid: "a%b": may not contain '%'"#),
            ("/api/v1/namespaces/../configmaps/x".into(), r#"Namespace parameter invalid: "..": may not be '..'"#),
        ] {
            assert_eq!(refused(&server.get(&path).await, 400)["message"], message, "{path}");
        }
        for path in ["..%2F..%2Fkube-system%2Fsecrets%2Fs", "..%2fs", "%2e%2e%2fs", "x%00y", "x/../../secrets/s"] {
            let answer = server.get(&format!("/api/v1/namespaces/default/secrets/{path}")).await;
            assert!(matches!(answer.code, 400 | 404), "{path}: {}", answer.code);
            refused(&answer, answer.code);
        }
        refused(&server.post(MAPS, config_map("../x")).await, 422);
    });
}

#[test]
fn unknown_methods_are_not_allowed() {
    served(async |server| {
        server.post(MAPS, config_map("m")).await.expect(201);
        for method in ["TRACE", "OPTIONS", "PROPFIND", "FOO"] {
            for path in [MAPS.to_owned(), format!("{MAPS}/m"), "/version".into()] {
                let status = refused(&server.send(method, &path, &[], b"").await, 405);
                assert_eq!(status["reason"], "MethodNotAllowed", "{method} {path}");
            }
        }
        refused(&server.send("POST", &format!("{MAPS}/m"), &JSON, b"{}").await, 405);
        refused(&server.send("PUT", MAPS, &JSON, b"{}").await, 405);
    });
}

#[test]
fn queries_that_make_no_sense_are_refused() {
    served(async |server| {
        for (query, code) in [
            ("limit=x", 400),
            ("resourceVersion=x", 400),
            ("resourceVersion=-1", 400),
            ("continue=%00%ff", 400),
            ("labelSelector=((((", 400),
            ("labelSelector=a%20in%20(%ff", 400),
            ("fieldSelector=a%5C", 400),
            ("resourceVersionMatch=Exact", 422),
            ("sendInitialEvents=true", 422),
            ("watch=true&sendInitialEvents=true", 422),
        ] {
            refused(&server.get(&format!("{MAPS}?{query}")).await, code);
        }
        let late = refused(&server.get(&format!("{MAPS}?resourceVersion=999999")).await, 504);
        assert_eq!((&late["reason"], &late["details"]["retryAfterSeconds"]), (&json!("Timeout"), &json!(1)));
        assert_eq!(late["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        let current = server.store.revision();
        assert_eq!(late["message"], format!("Timeout: Too large resource version: 999999, current: {current}"));
    });
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    served(async |server| {
        let pieces = futures::stream::unfold((), |()| async {
            coracle_clock::sleep(Duration::from_secs(5)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b" "))), ()))
        });
        let request = Request::post(MAPS).body(StreamBody::new(Box::pin(pieces))).unwrap();
        let start = coracle_clock::instant();
        let response = server.api.service_as(UserInfo::new("slow", &[])).call(request).await.unwrap();
        assert_eq!((response.status().as_u16(), start.elapsed()), (504, Duration::from_secs(60)));
    });
}

#[test]
fn a_slow_reader_of_a_watch_costs_no_queue_and_is_told_that_it_missed_something() {
    served(async |server| {
        let slow = server.open("GET", &format!("{MAPS}?watch=true&resourceVersion=1"), &[], b"").await;
        let mut slow = slow.into_body();
        server.post(MAPS, config_map("m")).await.expect(201);
        let big = "x".repeat(20_000);
        for number in 0..150 {
            let change = json!({ "data": { "n": number.to_string(), "big": big } });
            server.patch(&format!("{MAPS}/m"), MERGE, change).await.expect(200);
        }
        // What is there is read in chunks of bounded size.
        let chunk = slow.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(chunk.len() < 300_000, "{}", chunk.len());
        // What is forgotten ends the watch.
        coracle_clock::sleep(Duration::from_secs(600)).await;
        server.patch(&format!("{MAPS}/m"), MERGE, json!({ "data": { "n": "last" } })).await.expect(200);
        let mut last = Bytes::new();
        while let Some(Ok(frame)) = slow.frame().await {
            last = frame.into_data().unwrap();
        }
        let event: Value = serde_json::from_slice(&last).unwrap();
        assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    });
}
