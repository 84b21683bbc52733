//! CertificateSigningRequests: what may be asked for, and what may happen to a request afterwards.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::{each, list, report, text};
use crate::certificates::{CertificateRequest, LEGACY_UNKNOWN, check_certificates};
use crate::field::FieldErrors;
use crate::names::{check_dns_label, check_dns_subdomain};

/// Every usage there is, sorted.
const USAGES: &str = "any|cert sign|client auth|code signing|content commitment|crl sign|data encipherment|\
                      decipher only|digital signature|email protection|encipher only|ipsec end system|ipsec tunnel|\
                      ipsec user|key agreement|key encipherment|microsoft sgc|netscape sgc|ocsp signing|s/mime|\
                      server auth|signing|timestamping";

/// The conditions that, once there, stay; and are never anything but true.
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];

fn bytes(object: &Value, key: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(text(object, key)).unwrap_or_default()
}

/// A CertificateSigningRequest.
pub fn certificate_signing_request(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    if let Err(why) = CertificateRequest::parse(&bytes(spec, "request")) {
        errors.invalid("spec.request", text(spec, "request"), why);
    }
    let usages = list(spec, "usages");
    if usages.is_empty() {
        errors.required("spec.usages", "");
    }
    let known: Vec<&str> = USAGES.split('|').collect();
    for (path, usage) in each(spec, "spec", "usages") {
        if !known.contains(&usage.as_str().unwrap_or_default()) {
            errors.not_supported(&path, usage.clone(), &known);
        }
    }
    for (i, usage) in usages.iter().enumerate().filter(|(i, usage)| usages[..*i].contains(usage)) {
        errors.duplicate(&format!("spec.usages[{i}]"), usage.clone());
    }
    match text(spec, "signerName") {
        LEGACY_UNKNOWN => {
            let why = "the legacy signerName is not allowed via this API version";
            errors.invalid("spec.signerName", LEGACY_UNKNOWN, why);
        }
        name => signer_name("spec.signerName", name, errors),
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|seconds| *seconds < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid("spec.expirationSeconds", seconds, why);
    }
}

/// A signer's name: `example.com/some.signer`.
pub(crate) fn signer_name(path: &str, name: &str, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, why);
    };
    if domain.len() > 253 {
        errors.too_long(path, 253);
    }
    let mut labels = |whole: &str, check: fn(&str) -> Vec<String>| {
        if let Some(bad) = whole.split('.').find(|label| !check(label).is_empty()) {
            let problems = check(bad).into_iter().map(|problem| format!("validating label {bad:?}: {problem}"));
            report(problems.collect(), path, whole, errors);
        }
    };
    labels(domain, check_dns_label);
    labels(rest, check_dns_subdomain);
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    if name.len() > 571 {
        errors.too_long(path, 571);
    }
}

/// Conditions only grow, approval comes by `/approval` and the certificate by `/status`, once.
pub fn certificate_signing_request_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    let (status, before) = (&new["status"], &old["status"]);
    conditions(status, errors);
    if status["certificate"] != before["certificate"]
        && !text(status, "certificate").is_empty()
        && let Err(why) = check_certificates(&bytes(status, "certificate"))
    {
        errors.invalid("status.certificate", "<certificate data>", why);
    }
    let count = |status: &Value, kind: &str| list(status, "conditions").iter().filter(|c| c["type"] == kind).count();
    for kind in LASTING {
        let (now, then) = (count(status, kind), count(before, kind));
        let refuse = |what: &str| format!("updates may not {what} a condition of type {kind:?}");
        if now < then {
            errors.forbidden("status.conditions", refuse("remove"));
        } else if now > then && kind != "Failed" && subresource != "approval" {
            errors.forbidden("status.conditions", refuse("add"));
        }
    }
    if text(status, "certificate") == text(before, "certificate") {
        return;
    }
    if subresource != "status" {
        errors.forbidden("status.certificate", "updates may not set certificate content");
    } else if !text(before, "certificate").is_empty() {
        errors.forbidden("status.certificate", "updates may not modify existing certificate content");
    }
}

fn conditions(status: &Value, errors: &mut FieldErrors) {
    let all = list(status, "conditions");
    for (index, (path, condition)) in each(status, "status", "conditions").enumerate() {
        let (kind, value) = (text(condition, "type"), text(condition, "status"));
        if kind.is_empty() {
            errors.required(&format!("{path}.type"), "");
        }
        let allowed: &[&str] = if LASTING.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        if value.is_empty() {
            errors.required(&format!("{path}.status"), "");
        } else if !allowed.contains(&value) {
            errors.not_supported(&format!("{path}.status"), value, allowed);
        }
        let earlier = |kind: &str| all[..index].iter().any(|c| c["type"] == kind);
        if kind == "Approved" && earlier("Denied") || kind == "Denied" && earlier("Approved") {
            errors.invalid("status.conditions", kind, "Approved and Denied conditions are mutually exclusive");
        }
        if earlier(kind) {
            errors.duplicate(&format!("{path}.type"), kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn update(new: Value, old: Value, subresource: &str) -> Vec<String> {
        let mut errors = FieldErrors::default();
        let csr = |status: Value| json!({ "status": status });
        certificate_signing_request_update(&csr(new), &csr(old), subresource, &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn approval_lasts_and_comes_by_its_own_subresource() {
        let with = |kinds: &[&str]| {
            let conditions: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind, "status": "True" })).collect();
            json!({ "conditions": conditions })
        };
        let none = || json!({});
        assert!(update(with(&["Approved"]), none(), "approval").is_empty());
        assert!(update(with(&["Failed"]), none(), "status").is_empty());
        let added = r#"status.conditions: Forbidden: updates may not add a condition of type "Approved""#;
        assert_eq!(update(with(&["Approved"]), none(), "status"), [added]);
        let removed = r#"status.conditions: Forbidden: updates may not remove a condition of type "Denied""#;
        assert_eq!(update(none(), with(&["Denied"]), "approval"), [removed]);
        let both =
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive";
        assert_eq!(update(with(&["Approved", "Denied"]), with(&["Approved"]), "approval"), [both]);
        let unsure = json!({ "conditions": [{ "type": "Denied", "status": "Unknown" }] });
        let text = r#"status.conditions[0].status: Unsupported value: "Unknown": supported values: "True""#;
        assert_eq!(update(unsure, none(), "approval"), [text]);
    }

    #[test]
    fn a_certificate_is_one_and_is_set_once_by_the_signer() {
        let with = |certificate: &str| json!({ "certificate": BASE64_STANDARD.encode(certificate) });
        let errors = update(with("x"), json!({}), "status");
        let nothing = "status.certificate: Invalid value: \"<certificate data>\": must contain at least one \
                       CERTIFICATE PEM block";
        assert_eq!(errors, [nothing]);
        let errors = update(with("x"), with("y"), "status");
        assert_eq!(errors[1], "status.certificate: Forbidden: updates may not modify existing certificate content");
    }

    #[test]
    fn a_signers_name_is_a_domain_and_a_path() {
        let errors = |name: &str| {
            let mut errors = FieldErrors::default();
            signer_name("spec.signerName", name, &mut errors);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(errors("example.com/my.signer"), "");
        assert_eq!(errors(""), "spec.signerName: Required value");
        for (name, part) in [
            ("no-path", "of the form 'example.com/signer-name'"),
            ("a.b/c/d", "of the form 'example.com/signer-name'"),
            ("local/x", "should be a domain with at least two segments separated by dots"),
            ("A.b/c", "validating label \"A\": a lowercase RFC 1123 label"),
            ("a.b/C", "validating label \"C\": a lowercase RFC 1123 subdomain"),
        ] {
            assert!(errors(name).contains(part), "{name}: {}", errors(name));
        }
    }
}
