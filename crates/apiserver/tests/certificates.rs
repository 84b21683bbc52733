//! CertificateSigningRequests: the kind's own rules.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{MERGE, served};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

const ALL: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn csr(name: &str) -> Value {
    let request = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": { "name": name, "labels": { "test": "csr" } },
        "spec": {
            "request": BASE64_STANDARD.encode(request.pem().unwrap()),
            "signerName": "example.com/e2e",
            "expirationSeconds": 3600,
            "usages": ["digital signature", "key encipherment", "server auth"],
            "username": "somebody-else",
        },
        "status": { "conditions": [{ "type": "Approved", "status": "True" }] },
    })
}

/// A certificate that means nothing.
fn certificate() -> String {
    let key = KeyPair::generate().unwrap();
    BASE64_STANDARD.encode(CertificateParams::default().self_signed(&key).unwrap().pem())
}

#[test]
fn certificates_api_should_support_csr_api_operations() {
    served(async |server| {
        let created = server.post(ALL, csr("a")).await.expect(201);
        assert_eq!(created["spec"]["username"], "tester");
        assert_eq!(created["spec"]["groups"], json!(["system:authenticated"]));
        assert_eq!(created["status"], json!({}));
        let one = format!("{ALL}/a");
        let version = created["metadata"]["resourceVersion"].as_str().unwrap();
        let mut watch = server.watch(&format!("{ALL}?watch=1&resourceVersion={version}&labelSelector=test=csr")).await;

        server.get(&one).await.expect(200);
        let selected = format!("{ALL}?labelSelector=test=csr&fieldSelector=spec.signerName=example.com/e2e");
        let list = server.get(&selected).await;
        assert_eq!(list.expect(200)["items"].as_array().unwrap().len(), 1);
        let patch = json!({ "metadata": { "annotations": { "patched": "true" } }, "spec": { "username": "x" } });
        let patched = server.patch(&one, MERGE, patch).await.expect(200);
        assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
        assert_eq!(patched["spec"], created["spec"], "the spec is settled");
        assert_eq!(watch.brief().await.unwrap(), "MODIFIED a");
        let mut updated = patched;
        updated["metadata"]["annotations"]["updated"] = "true".into();
        server.put(&one, updated).await.expect(200);
        assert_eq!(watch.brief().await.unwrap(), "MODIFIED a");

        let approval = format!("{one}/approval");
        server.get(&approval).await.expect(200);
        let condition = json!({ "type": "ApprovalPatch", "status": "True", "reason": "e2e" });
        let patch = json!({ "metadata": { "annotations": { "patchedapproval": "true" } },
                            "status": { "conditions": [condition], "certificate": certificate() } });
        let patched = server.patch(&approval, MERGE, patch).await.expect(200);
        assert_eq!(patched["metadata"]["annotations"]["patchedapproval"], "true");
        assert_eq!(patched["status"]["conditions"][0]["type"], "ApprovalPatch");
        assert!(patched["status"]["conditions"][0]["lastTransitionTime"].is_string());
        assert!(patched["status"]["certificate"].is_null(), "a certificate comes by /status");
        let mut approved = patched;
        let condition = json!({ "type": "Approved", "status": "True", "reason": "E2E" });
        approved["status"]["conditions"].as_array_mut().unwrap().push(condition);
        let approved = server.put(&approval, approved).await.expect(200);
        assert_eq!(approved["status"]["conditions"].as_array().unwrap().len(), 2);

        let status = format!("{one}/status");
        server.get(&status).await.expect(200);
        let patch = json!({ "metadata": { "annotations": { "patchedstatus": "true" } },
                            "status": { "certificate": certificate() } });
        let patched = server.patch(&status, MERGE, patch).await.expect(200);
        assert!(patched["status"]["certificate"].is_string());
        assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
        let mut updated = patched;
        let condition = json!({ "type": "StatusUpdate", "status": "True", "reason": "E2E" });
        updated["status"]["conditions"].as_array_mut().unwrap().push(condition);
        let updated = server.put(&status, updated).await.expect(200);
        assert_eq!(updated["status"]["conditions"].as_array().unwrap().len(), 3);

        server.delete(&one, json!({})).await.expect(200);
        server.get(&one).await.expect(404);
        for name in ["b", "c"] {
            server.post(ALL, csr(name)).await.expect(201);
        }
        server.delete(&format!("{ALL}?labelSelector=test=csr"), json!({})).await.expect(200);
        assert_eq!(server.get(ALL).await.expect(200)["items"], json!([]));
    });
}

#[test]
fn what_is_no_certificate_request_is_refused_field_by_field() {
    served(async |server| {
        let mut bad = csr("a");
        bad["spec"]["request"] = BASE64_STANDARD.encode("nothing").into();
        bad["spec"]["usages"] = json!(["client auth", "client auth", "world peace"]);
        bad["spec"]["signerName"] = "kubernetes.io/legacy-unknown".into();
        bad["spec"]["expirationSeconds"] = 599.into();
        let refusal = server.post(ALL, bad).await.expect(422);
        let causes = refusal["details"]["causes"].as_array().unwrap();
        let fields: Vec<_> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
        assert_eq!(
            fields,
            ["spec.request", "spec.usages[2]", "spec.usages[1]", "spec.signerName", "spec.expirationSeconds"]
        );
        let message = causes[0]["message"].as_str().unwrap();
        assert!(message.ends_with("PEM block type must be CERTIFICATE REQUEST"), "{message}");
    });
}
