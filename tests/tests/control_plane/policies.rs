//! ValidatingAdmissionPolicies and MutatingAdmissionPolicies.

use coracle_tests::{Parts, Section, sections};

use crate::kubectl::{deployment, each, has};

pub const SECTIONS: &[Section<Parts>] = sections![
    a_validating_policy_denies_and_warns_by_its_expressions,
    a_mutating_policy_changes_what_is_written,
    a_policy_that_does_not_compile_is_refused,
];

/// A policy (the more of its `spec`) about the Deployments of a namespace, and its binding.
fn bound(kind: &str, namespace: &str, spec: &str, binding: &str) -> String {
    let meta = "apiVersion: admissionregistration.k8s.io/v1";
    format!(
        "{meta}\nkind: {kind}\nmetadata: {{name: {namespace}}}\nspec:\n  matchConstraints: {{resourceRules: \
         [{{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}}]}}\n{spec}\
         ---\n{meta}\nkind: {kind}Binding\nmetadata: {{name: {namespace}}}\nspec:\n  policyName: {namespace}\n  \
         matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}}}\n{binding}"
    )
}

fn a_validating_policy_denies_and_warns_by_its_expressions(parts: &Parts) {
    each(parts, "judged", |kubectl, namespace| {
        let spec = "  variables: [{name: most, expression: '5'}]
  validations:
  - {expression: object.spec.replicas <= variables.most, messageExpression: \"'at most ' + string(variables.most)\"}
";
        let policy = |actions: &str| {
            bound("ValidatingAdmissionPolicy", namespace, spec, &format!("  validationActions: [{actions}]\n"))
        };
        kubectl.apply(&policy("Deny"));
        let many = deployment("many", "serve:1").replace("replicas: 1", "replicas: 6");
        kubectl.run_with("create -f -", &many).fails(&format!(
            "The deployments \"many\" is invalid: : ValidatingAdmissionPolicy '{namespace}' with binding '{namespace}' \
             denied request: at most 5"
        ));
        kubectl.run_with("create -f -", &deployment("few", "serve:1")).ok();
        kubectl.apply(&policy("Warn"));
        let warned = kubectl.run_with("create --dry-run=server -f -", &many);
        has(
            &warned.stderr,
            &[&format!("Warning: Validation failed for ValidatingAdmissionPolicy '{namespace}' with binding")],
        );
        assert_eq!(warned.code, 0);
        has(
            &kubectl.ok(&format!("get validatingadmissionpolicy {namespace}")),
            &["VALIDATIONS", "PARAMKIND", "<unset>"],
        );
        kubectl.ok(&format!("delete validatingadmissionpolicy,validatingadmissionpolicybinding {namespace}"));
        kubectl.run_with("create -f -", &many).ok();
    });
}

fn a_mutating_policy_changes_what_is_written(parts: &Parts) {
    each(parts, "changed", |kubectl, namespace| {
        let spec = "  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: object.spec.replicas + 1}}'}
  - patchType: JSONPatch
    jsonPatch: {expression: '[JSONPatch{op: \"add\", path: \"/metadata/labels/judged\", value: \"yes\"}]'}
";
        kubectl.apply(&bound("MutatingAdmissionPolicy", namespace, spec, ""));
        kubectl.run_with("create -f -", &deployment("web", "serve:1")).ok();
        assert_eq!(kubectl.field("deployment web", "{.spec.replicas} {.metadata.labels.judged}"), "2 yes");
        kubectl.ok(&format!("delete mutatingadmissionpolicy,mutatingadmissionpolicybinding {namespace}"));
        kubectl.run_with("create -f -", &deployment("other", "serve:1")).ok();
        assert_eq!(kubectl.field("deployment other", "{.spec.replicas}"), "1");
    });
}

fn a_policy_that_does_not_compile_is_refused(parts: &Parts) {
    let spec = "  validations: [{expression: object.spec.replicas +}]\n";
    let manifest = bound("ValidatingAdmissionPolicy", "broken", spec, "  validationActions: [Deny]\n");
    let refused = parts.kubectl("admin").run_with("create --dry-run=server -f -", &manifest).fails("is invalid");
    has(&refused, &["spec.validations[0].expression: Invalid value: \"object.spec.replicas +\": compilation failed"]);
}
