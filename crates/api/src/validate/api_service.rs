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
