//! Admission webhooks: a server of the test's own that answers, and one that does not.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_tests::https::{Request, Server};
use coracle_tests::{Parts, Section, sections};
use serde_json::{Value, json};

use crate::kubectl::{each, has};

pub const SECTIONS: &[Section<Parts>] = sections![
    webhooks_change_and_refuse_what_is_written,
    a_webhook_that_cannot_be_called_refuses_or_is_passed_over,
    a_configuration_that_makes_no_sense_is_refused,
];

/// `/mutate` paints what has no colour; `/validate` refuses red.
fn review(request: &Request) -> (u16, Value) {
    let asked = &request.body["request"];
    let mut response = json!({ "uid": asked["uid"], "allowed": true });
    let colour = &asked["object"]["data"]["colour"];
    if request.path.starts_with("/mutate") && colour.is_null() {
        let patch = json!([{ "op": "add", "path": "/data", "value": { "colour": "grey" } }]).to_string();
        response["patchType"] = "JSONPatch".into();
        response["patch"] = BASE64_STANDARD.encode(patch).into();
        response["warnings"] = json!(["no colour was chosen"]);
    }
    if request.path.starts_with("/validate") && colour == "red" {
        response["allowed"] = false.into();
        response["status"] = json!({ "code": 418, "message": "red is not welcome" });
    }
    (200, json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }))
}

/// A configuration of one webhook for the ConfigMaps of a namespace.
fn configuration(kind: &str, name: &str, namespace: &str, webhook: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: {kind}WebhookConfiguration\nmetadata: {{name: {name}}}\n\
         webhooks: [{{name: {name}.example.com, sideEffects: None, admissionReviewVersions: [v1], {webhook}, \
         namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}, \
         rules: [{{operations: [CREATE, UPDATE], apiGroups: [''], apiVersions: [v1], resources: [configmaps]}}]}}]\n"
    )
}

fn webhooks_change_and_refuse_what_is_written(parts: &Parts) {
    let server = Server::start("localhost", None, review);
    each(parts, "hooked", |kubectl, namespace| {
        for (kind, path) in [("Mutating", "mutate"), ("Validating", "validate")] {
            let client = format!(
                "clientConfig: {{url: 'https://localhost:{}/{path}/{namespace}', caBundle: {}}}",
                server.port,
                server.ca_bundle()
            );
            kubectl.apply(&configuration(kind, &format!("{path}-{namespace}"), namespace, &client));
        }
        let created = kubectl.run("create configmap plain");
        has(&created.stderr, &["Warning: no colour was chosen"]);
        assert_eq!(kubectl.field("configmap plain", "{.data.colour}"), "grey");
        kubectl.run(r#"patch configmap plain --type=merge -p '{"data":{"colour":"red"}}'"#).fails(&format!(
            "admission webhook \"validate-{namespace}.example.com\" denied the request: red is not welcome"
        ));
        kubectl.ok(r#"patch configmap plain --type=merge -p '{"data":{"colour":"blue"}}'"#);
        kubectl.ok("create configmap dry --dry-run=server");

        let asked = server.asked(&format!("/validate/{namespace}?timeout=10s"));
        let shown: Vec<_> = asked.iter().map(|request| &request.body["request"]).collect();
        let colours: Vec<_> = shown.iter().map(|request| &request["object"]["data"]["colour"]).collect();
        assert_eq!(colours, ["grey", "red", "blue", "grey"], "after the change");
        assert_eq!(shown.iter().map(|request| &request["dryRun"]).collect::<Vec<_>>(), [false, false, false, true]);
        assert_eq!((&shown[0]["operation"], &shown[1]["operation"]), (&json!("CREATE"), &json!("UPDATE")));
        assert_eq!(shown[1]["oldObject"]["data"]["colour"], "grey");
        assert_eq!(shown[0]["userInfo"]["username"], "ada");
        for (kind, path) in [("mutating", "mutate"), ("validating", "validate")] {
            kubectl.ok(&format!("delete {kind}webhookconfiguration {path}-{namespace}"));
        }
        kubectl.ok("create configmap unseen");
        assert_eq!(kubectl.field("configmap unseen", "{.data}"), "");
    });
}

fn a_webhook_that_cannot_be_called_refuses_or_is_passed_over(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    let client = "clientConfig: {url: 'https://127.0.0.1:1/deny'}";
    kubectl.apply(&configuration("Validating", "closed", "default", client));
    kubectl.run("create configmap a").fails(
        "Internal error occurred: failed calling webhook \"closed.example.com\": \
         failed to call webhook: Post \"https://127.0.0.1:1/deny?timeout=10s\": dial tcp 127.0.0.1:1: connect: \
         connection refused",
    );
    kubectl.apply(&configuration("Validating", "closed", "default", &format!("{client}, failurePolicy: Ignore")));
    kubectl.ok("create configmap a");
    kubectl.ok("delete validatingwebhookconfiguration closed");
    kubectl.ok("delete configmap a");
}

fn a_configuration_that_makes_no_sense_is_refused(parts: &Parts) {
    let webhook = "clientConfig: {url: 'http://x/'}, timeoutSeconds: 31";
    let manifest = configuration("Validating", "bad", "default", webhook);
    let refused = parts.kubectl("admin").run_with("apply -f -", &manifest).fails("is invalid");
    has(
        &refused,
        &[
            "'https' is the only allowed URL scheme; desired format: https://host[/path]",
            "the timeout value must be between 1 and 30 seconds",
        ],
    );
}
