//! Custom resources in two versions, which a webhook of the test's own converts, through real kubectl.

use coracle_tests::https::{Request, Server};
use coracle_tests::kubectl::Kubectl;
use coracle_tests::{Parts, Section, sections};
use serde_json::{Value, json};

use crate::kubectl::{each, has};

pub const SECTIONS: &[Section<Parts>] =
    sections![an_object_is_the_same_in_both_versions, a_webhook_that_fails_says_so_and_what_is_stored_is_still_read];

/// Version 1 of a point has `hostPort`, version 2 has `host` and `port`.
fn convert(request: &Request) -> (u16, Value) {
    let asked = &request.body["request"];
    let version = asked["desiredAPIVersion"].as_str().unwrap_or_default();
    let text = |object: &Value, field: &str| object["spec"][field].as_str().unwrap_or_default().to_owned();
    let convert = |object: &Value| {
        let mut object = object.clone();
        object["apiVersion"] = version.into();
        object["spec"] = if version.ends_with("/v2") {
            let both = text(&object, "hostPort");
            let (host, port) = both.split_once(':').unwrap_or((&both, ""));
            json!({ "host": host, "port": port })
        } else {
            json!({ "hostPort": format!("{}:{}", text(&object, "host"), text(&object, "port")) })
        };
        object
    };
    let objects = asked["objects"].as_array().into_iter().flatten();
    let lost = objects.clone().any(|object| text(object, "hostPort") == "nowhere:0");
    let response = match lost {
        true => json!({ "result": { "status": "Failure", "message": "nowhere is not on the map" } }),
        false => {
            let converted: Vec<Value> = objects.map(convert).collect();
            json!({ "result": { "status": "Success" }, "convertedObjects": converted })
        }
    };
    let mut review =
        json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response });
    review["response"]["uid"] = asked["uid"].clone();
    (200, review)
}

/// The definition of points of a group, stored in `stored`, converted at `url`.
fn definition(group: &str, stored: &str, url: &str, ca_bundle: &str) -> String {
    let version = |name: &str, fields: &[&str]| {
        let fields: Vec<String> = fields.iter().map(|field| format!("{field}: {{type: string}}")).collect();
        let columns: Vec<&str> = fields.iter().filter_map(|field| field.split(':').next()).collect();
        let columns = columns.iter().map(|field| format!("{{name: {field}, type: string, jsonPath: .spec.{field}}}"));
        format!(
            "  - name: {name}\n    served: true\n    storage: {}\n    additionalPrinterColumns: [{}]\n    schema: \
             {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, properties: {{{}}}}}}}}}}}\n",
            name == stored,
            columns.collect::<Vec<_>>().join(", "),
            fields.join(", "),
        )
    };
    format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: points.{group}}}\n\
         spec:\n  group: {group}\n  scope: Namespaced\n  names: {{plural: points, singular: point, kind: Point}}\n  \
         conversion: {{strategy: Webhook, webhook: {{conversionReviewVersions: [v1], \
         clientConfig: {{url: '{url}', caBundle: {ca_bundle}}}}}}}\n  versions:\n{}{}",
        version("v1", &["hostPort"]),
        version("v2", &["host", "port"]),
    )
}

fn define(kubectl: &Kubectl, group: &str, stored: &str, server: &Server) {
    let url = format!("https://localhost:{}/convert", server.port);
    kubectl.apply(&definition(group, stored, &url, &server.ca_bundle()));
    kubectl.ok(&format!("wait --for=condition=Established crd/points.{group} --timeout=10s"));
}

fn point(group: &str, version: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: {group}/{version}\nkind: Point\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// The cells of `kubectl get` without its heading.
fn row(kubectl: &Kubectl, what: &str) -> Vec<String> {
    let table = kubectl.ok(&format!("get {what} --no-headers"));
    table.split_whitespace().map(str::to_owned).collect()
}

fn an_object_is_the_same_in_both_versions(parts: &Parts) {
    let server = Server::start("localhost", None, convert);
    each(parts, "conversion", |kubectl, namespace| {
        let group = format!("{namespace}.example.com");
        define(kubectl, &group, "v1", &server);
        let (v1, v2) = (format!("points.v1.{group}"), format!("points.v2.{group}"));
        // Applied in one version, read in the other, and the other way round.
        kubectl.apply(&point(&group, "v1", "a", "hostPort: 'localhost:80'"));
        kubectl.apply(&point(&group, "v2", "b", "host: example.com, port: '443'"));
        assert_eq!(row(kubectl, &format!("{v1} a")), ["a", "localhost:80"]);
        assert_eq!(row(kubectl, &format!("{v2} a")), ["a", "localhost", "80"]);
        assert_eq!(row(kubectl, &v1), ["a", "localhost:80", "b", "example.com:443"]);
        assert_eq!(row(kubectl, &v2), ["a", "localhost", "80", "b", "example.com", "443"]);
        // Changed in the version in which it was not made, on the client and on the server.
        kubectl.apply(&point(&group, "v2", "a", "host: localhost, port: '8080'"));
        assert_eq!(kubectl.field(&format!("{v1} a"), "{.spec.hostPort}"), "localhost:8080");
        kubectl.ok(&format!("patch {v2} a --type=merge -p '{{\"spec\":{{\"host\":\"elsewhere\"}}}}'"));
        assert_eq!(kubectl.field(&format!("{v1} a"), "{.spec.hostPort}"), "elsewhere:8080");
        let applied = point(&group, "v2", "c", "host: here, port: '1'");
        kubectl.run_with("apply --server-side --field-manager=one -f -", &applied).ok();
        kubectl
            .run_with("apply --server-side --field-manager=two -f -", &point(&group, "v1", "c", "hostPort: 'there:2'"))
            .fails("conflicts with \"one\":\n- .spec.host\n- .spec.port");
        // Another version is stored from now on: what is there is read as before, and said to lie in both.
        let stored = format!("crd points.{group}");
        assert_eq!(kubectl.field(&stored, "{.status.storedVersions[*]}"), "v1");
        define(kubectl, &group, "v2", &server);
        assert_eq!(kubectl.field(&stored, "{.status.storedVersions[*]}"), "v1 v2");
        assert_eq!(row(kubectl, &format!("{v1} a")), ["a", "elsewhere:8080"]);
        assert_eq!(row(kubectl, &format!("{v2} b")), ["b", "example.com", "443"]);
        kubectl.ok(&format!("delete crd points.{group} --timeout=30s"));
    });
}

fn a_webhook_that_fails_says_so_and_what_is_stored_is_still_read(parts: &Parts) {
    let server = Server::start("localhost", None, convert);
    let (kubectl, group) = (parts.kubectl("admin"), "lost.example.com");
    define(&kubectl, group, "v1", &server);
    kubectl.apply(&point(group, "v1", "a", "hostPort: 'nowhere:0'"));
    assert_eq!(row(&kubectl, "points.v1.lost.example.com"), ["a", "nowhere:0"]);
    let why =
        "Error from server: conversion webhook for lost.example.com/v1, Kind=Point failed: nowhere is not on the map";
    kubectl.run("get points.v2.lost.example.com a").fails(why);
    let nobody = definition(group, "v1", "https://localhost:1/convert", &server.ca_bundle());
    kubectl.apply(&nobody);
    let refused = kubectl.run("get points.v2.lost.example.com a").fails("conversion webhook for lost.example.com/v1");
    has(&refused, &["failed: Post \"https://localhost:1/convert?timeout=30s\": dial tcp", "connection refused"]);
    assert_eq!(row(&kubectl, "points.v1.lost.example.com"), ["a", "nowhere:0"]);
    let metrics = kubectl.ok("get --raw /metrics");
    for failure in ["call_failure", "malformed_response_failure"] {
        let counted = "apiserver_conversion_webhook_request_total{failure_type=\"conversion_webhook_";
        has(&metrics, &[&format!("{counted}{failure}\",result=\"failure\"}}")]);
    }
    kubectl.ok("delete crd points.lost.example.com --timeout=30s");
}
