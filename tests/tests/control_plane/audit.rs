//! The audit log: who did what in the namespace `audited`, for which the API server's policy has rules.

use std::fs;

use coracle_tests::{Kubectl, Parts, Section, eventually, sections, wait_until};
use serde_json::{Value, json};

pub const SECTIONS: &[Section<Parts>] = sections![what_kubectl_does_is_written_down_as_the_policy_says];

/// The events so far that hold these values, by JSON pointer.
fn events(parts: &Parts, wanted: &[(&str, Value)]) -> Vec<Value> {
    let log = fs::read_to_string(parts.path("audit.log")).unwrap_or_default();
    // The last line may be half written.
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| wanted.iter().all(|(path, value)| event.pointer(path) == Some(value))).collect()
}

fn what_kubectl_does_is_written_down_as_the_policy_says(parts: &Parts) {
    let admin = parts.kubectl("admin");
    let audited = |token: &str| Kubectl { kubeconfig: parts.kubeconfig(token, "audited"), ..admin.clone() };
    let (ada, vera) = (audited("admin"), audited("visitor"));
    ada.ok("create namespace audited");
    let found = |what: &str, wanted: &[(&str, Value)]| wait_until(what, 10, || events(parts, wanted).pop());

    ada.ok("create configmap told --from-literal=k=v");
    let created = found("a creation", &[("/verb", json!("create")), ("/objectRef/name", json!("told"))]);
    for (path, value) in [
        ("/kind", json!("Event")),
        ("/apiVersion", json!("audit.k8s.io/v1")),
        ("/level", json!("RequestResponse")),
        ("/stage", json!("ResponseComplete")),
        ("/user/username", json!("ada")),
        ("/sourceIPs", json!(["127.0.0.1"])),
        ("/objectRef/resource", json!("configmaps")),
        ("/objectRef/namespace", json!("audited")),
        ("/responseStatus/code", json!(201)),
        ("/requestObject/data", json!({ "k": "v" })),
        ("/responseObject/data", json!({ "k": "v" })),
        ("/annotations/authorization.k8s.io~1decision", json!("allow")),
    ] {
        assert_eq!(created.pointer(path), Some(&value), "{path}: {created:#}");
    }
    assert!(created["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kubectl")), "{created:#}");
    let uri = "/api/v1/namespaces/audited/configmaps?fieldManager=kubectl-create&fieldValidation=Strict";
    assert_eq!(created["requestURI"], uri);

    ada.ok("create secret generic kept --from-literal=k=v");
    let secret = found("a Secret's creation", &[("/verb", json!("create")), ("/objectRef/name", json!("kept"))]);
    assert_eq!((&secret["level"], secret.get("requestObject")), (&json!("Metadata"), None));

    vera.run("get pods").fails("is forbidden");
    let refused = found("a refusal", &[("/user/username", json!("vera")), ("/verb", json!("list"))]);
    assert_eq!(
        (&refused["responseStatus"]["code"], &refused["responseStatus"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");

    ada.run("get services --as=eve --as-group=dev").fails("is forbidden");
    let as_eve = found("an impersonation", &[("/impersonatedUser/username", json!("eve"))]);
    assert_eq!((&as_eve["user"]["username"], &as_eve["impersonatedUser"]["groups"][0]), (&json!("ada"), &json!("dev")));

    let watch = ada.start("get configmaps --watch-only -o name");
    let watching =
        [("/verb", json!("watch")), ("/objectRef/resource", json!("configmaps")), ("/user/username", json!("ada"))];
    let stages = || events(parts, &watching).iter().map(|event| event["stage"].clone()).collect::<Vec<_>>();
    eventually("the watch has begun", 10, || stages() == ["ResponseStarted"]);
    drop(watch);
    eventually("the watch has ended", 10, || stages() == ["ResponseStarted", "ResponseComplete"]);

    admin.ok("create configmap untold");
    admin.ok("delete configmap untold");
    assert!(events(parts, &[("/objectRef/name", json!("untold"))]).is_empty(), "no rule is about it");
    admin.ok("delete namespace audited --wait=false");
}
