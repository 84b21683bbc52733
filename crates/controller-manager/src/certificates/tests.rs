use std::time::Duration;

use coracle_api::certificates::{CertificateRequest, KUBE_APISERVER_CLIENT, subject};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::json;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::authority::{Authority, AuthorityError};
use super::sign::{Verdict, judge};
use super::*;

/// A request of a user of these groups (two at most: the library that makes it knows no more).
fn request(user: &str, groups: &[&str], names: &[&str]) -> String {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    for (group, kind) in groups.iter().zip([DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])]) {
        params.distinguished_name.push(kind, *group);
    }
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn csr(pem: &str, signer: &str, usages: &[&str], conditions: &[&str]) -> CertificateSigningRequest {
    use base64::Engine;
    let conditions: Vec<_> = conditions.iter().map(|kind| json!({ "type": kind, "status": "True" })).collect();
    let request = base64::prelude::BASE64_STANDARD.encode(pem);
    serde_json::from_value(json!({
        "metadata": { "name": "r" },
        "spec": { "request": request, "signerName": signer, "usages": usages, "username": "system:node:a" },
        "status": { "conditions": conditions },
    }))
    .unwrap()
}

fn authority() -> (Authority, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let pem = params.self_signed(&key).unwrap().pem();
    (Authority::from_pem(&pem, &key.serialize_pem()).unwrap(), pem)
}

fn contents(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

#[test]
fn a_signed_certificate_says_what_was_asked_for_and_who_signed_it() {
    let (authority, ca) = authority();
    let request = request("alice", &["dev", "ops"], &["a.example", "10.0.0.1"]);
    let request = CertificateRequest::parse(request.as_bytes()).unwrap();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let usages: Vec<String> = ["digital signature", "client auth"].map(str::to_owned).into();
    let pem = authority.sign(&request, &usages, Duration::from_secs(86_400), now).unwrap();
    let (der, ca) = (contents(&pem), contents(&ca));
    let (rest, certificate) = X509Certificate::from_der(&der).unwrap();
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    assert!(rest.is_empty());
    certificate.verify_signature(Some(ca.public_key())).unwrap();
    assert_eq!(certificate.issuer(), ca.subject());
    assert_eq!(subject(certificate.subject()), ("alice".into(), vec!["dev".into(), "ops".into()]));
    let validity = certificate.validity();
    assert_eq!(validity.not_before.timestamp(), now.as_second() - 300);
    assert_eq!(validity.not_after.timestamp(), now.as_second() + 86_400 - 300);
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_encipherment());
    let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth);
    assert!(!certificate.is_ca());
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names[..], [GeneralName::DNSName("a.example"), GeneralName::IPAddress(&[10, 0, 0, 1])]);
}

#[test]
fn no_certificate_outlives_its_authority() {
    let (authority, _) = authority();
    let request = CertificateRequest::parse(request("a", &[], &[]).as_bytes()).unwrap();
    let sign = |now: &str| {
        let pem = authority.sign(&request, &["client auth".into()], Duration::from_secs(864_000), now.parse().unwrap());
        pem.map(|pem| coracle_api::certificates::not_after(pem.as_bytes()).unwrap())
    };
    assert_eq!(
        sign("2029-12-31T00:00:00Z"),
        Ok("2030-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second())
    );
    assert!(sign("2030-01-01T00:00:00Z").unwrap_err().starts_with("the signer has expired"));
}

#[test]
fn a_key_must_be_that_of_the_certificate() {
    let (_, pem) = authority();
    let other = KeyPair::generate().unwrap().serialize_pem();
    assert!(matches!(Authority::from_pem(&pem, &other), Err(AuthorityError::Mismatch)));
    assert!(matches!(Authority::from_pem("x", &other), Err(AuthorityError::Certificate(_))));
    assert!(matches!(Authority::from_pem(&pem, "x"), Err(AuthorityError::Key(_))));
}

#[test]
fn approved_requests_are_signed_by_their_signers_rules() {
    let alice = request("alice", &["dev"], &[]);
    let hour = Duration::from_secs(3600);
    let verdict = |signer: &str, usages: &[&str], conditions: &[&str]| {
        judge(&csr(&alice, signer, usages, conditions), hour).unwrap()
    };
    let approved = &["Approved"][..];
    assert!(
        matches!(verdict(KUBE_APISERVER_CLIENT, &["client auth"], approved), Verdict::Sign(_, lasts) if lasts == hour)
    );
    assert_eq!(verdict(KUBE_APISERVER_CLIENT, &["client auth"], &[]), Verdict::Leave);
    assert_eq!(verdict(KUBE_APISERVER_CLIENT, &["client auth"], &["Approved", "Failed"]), Verdict::Leave);
    assert_eq!(verdict("example.com/mine", &["client auth"], approved), Verdict::Leave);
    for (signer, usages, why) in [
        (KUBE_APISERVER_CLIENT, &["server auth"][..], "invalid usage for client certificate: server auth"),
        (KUBE_APISERVER_CLIENT, &["digital signature"], "missing required usage for client certificate: client auth"),
        ("kubernetes.io/kubelet-serving", &["server auth"], "subject organization is not system:nodes"),
        ("kubernetes.io/kube-apiserver-client-kubelet", &["client auth"], "subject organization is not system:nodes"),
    ] {
        assert_eq!(verdict(signer, usages, approved), Verdict::Fail(why.into()));
    }
}

#[test]
fn a_request_says_how_long_its_certificate_lasts_within_limits() {
    let alice = request("alice", &[], &[]);
    let lasts = |seconds: i32| {
        let mut csr = csr(&alice, KUBE_APISERVER_CLIENT, &["client auth"], &["Approved"]);
        csr.spec.expiration_seconds = Some(seconds);
        match judge(&csr, Duration::from_secs(86_400)).unwrap() {
            Verdict::Sign(_, lasts) => lasts.as_secs(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([lasts(60), lasts(7200), lasts(1_000_000)], [600, 7200, 86_400]);
}

#[test]
fn a_kubelet_approves_itself_by_right() {
    let usages = ["client auth", "digital signature"];
    let rights = |user: &str, signer: &str| {
        let pem = request(user, &["system:nodes"], &[]);
        let csr = csr(&pem, signer, &usages, &[]);
        approve::grounds(&csr, &parse(&csr).unwrap()).into_iter().map(|(right, _)| right).collect::<Vec<_>>()
    };
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    assert_eq!(rights("system:node:a", kubelet), ["selfnodeclient", "nodeclient"]);
    assert_eq!(rights("system:node:b", kubelet), ["nodeclient"]);
    assert!(rights("system:node:a", KUBE_APISERVER_CLIENT).is_empty());
    assert!(rights("alice", kubelet).is_empty());
}

#[test]
fn requests_are_cleaned_away_when_they_are_over() {
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    let csr = |condition: Option<(&str, &str)>, certificate: Option<&str>| -> CertificateSigningRequest {
        let conditions: Vec<_> = condition
            .iter()
            .map(|(kind, time)| json!({ "type": kind, "status": "True", "lastUpdateTime": time }))
            .collect();
        serde_json::from_value(json!({
            "metadata": { "name": "r", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "request": "", "signerName": "x" },
            "status": { "conditions": conditions, "certificate": certificate },
        }))
        .unwrap()
    };
    let noon = "2026-01-01T12:00:00Z";
    for (csr, now, over) in [
        (csr(None, None), "2026-01-02T00:00:00Z", false),
        (csr(None, None), "2026-01-02T00:00:01Z", true),
        (csr(Some(("Denied", noon)), None), "2026-01-01T13:00:00Z", false),
        (csr(Some(("Denied", noon)), None), "2026-01-01T13:00:01Z", true),
        (csr(Some(("Failed", noon)), None), "2026-01-01T13:00:01Z", true),
        (csr(Some(("Approved", noon)), None), "2026-01-05T13:00:01Z", false),
        (csr(Some(("Approved", noon)), Some("eA==")), "2026-01-01T13:00:01Z", true),
    ] {
        assert_eq!(clean::is_over(&csr, at(now)), over, "{now} {:?}", csr.status);
    }
}
