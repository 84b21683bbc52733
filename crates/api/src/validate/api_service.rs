//! APIServices: group versions that are served here, or by another server behind a Service.

use serde_json::Value;

use super::{report, required, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_subdomain, check_dns1035_label, check_port_number};

/// An APIService.
pub fn api_service(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let wanted = format!("{version}.{group}");
    let name = text(&object["metadata"], "name");
    if name != wanted {
        errors.invalid("metadata.name", name, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
    }
    if group.is_empty() && version != "v1" {
        errors.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        report(check_dns_subdomain(group), "spec.group", group, errors);
    }
    report(check_dns1035_label(version), "spec.version", version, errors);
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let value = spec[field].as_i64().unwrap_or_default();
        if !(1..=most).contains(&value) {
            errors.invalid(&format!("spec.{field}"), value, format!("must be positive and less than {most}"));
        }
    }
    let (bundle, insecure) = (text(spec, "caBundle"), spec["insecureSkipTLSVerify"] == true);
    let service = &spec["service"];
    if service.is_null() {
        if !bundle.is_empty() {
            errors.invalid("spec.caBundle", bundle, "local APIServices may not have a caBundle");
        }
        if insecure {
            errors.invalid("spec.insecureSkipTLSVerify", true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    required(service, "spec.service", "namespace", errors);
    required(service, "spec.service", "name", errors);
    let port = service["port"].as_i64().unwrap_or_default();
    let problems = check_port_number(port);
    if !problems.is_empty() {
        errors.invalid("spec.service.port", port, format!("port is not valid: {}", problems.join(",")));
    }
    if insecure && !bundle.is_empty() {
        errors.invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::errors_of;

    #[test]
    fn an_api_service_is_named_after_its_group_and_version() {
        let service = json!({ "namespace": "n", "name": "s", "port": 443 });
        let spec = json!({ "group": "g.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1000, "service": service });
        let good = json!({ "metadata": { "name": "v1.g.io" }, "spec": spec });
        let none: [&str; 0] = [];
        assert_eq!(errors_of(api_service, &good), none);
        let mut bad = good.clone();
        bad["metadata"]["name"] = "x".into();
        bad["spec"]["versionPriority"] = 1001.into();
        bad["spec"]["caBundle"] = "AAAA".into();
        bad["spec"]["insecureSkipTLSVerify"] = true.into();
        assert_eq!(
            errors_of(api_service, &bad),
            [
                r#"metadata.name: Invalid value: "x": must be `spec.version+"."+spec.group`: "v1.g.io""#,
                "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
                "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
            ]
        );
        let local = json!({ "metadata": { "name": "v1.g.io" }, "spec": { "group": "g.io", "version": "v1",
            "groupPriorityMinimum": 1, "versionPriority": 1, "caBundle": "AAAA" } });
        let expected = r#"spec.caBundle: Invalid value: "AAAA": local APIServices may not have a caBundle"#;
        assert_eq!(errors_of(api_service, &local), [expected]);
    }
}
