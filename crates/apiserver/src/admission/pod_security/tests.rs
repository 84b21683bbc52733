use super::policy::{Level, PREFIX, Policy};
use super::standards::violations;
use super::{PodSecurity, PodSecurityConfiguration};
use crate::admission::testing::*;
use crate::hooks::Notes;

#[test]
fn a_namespaces_labels_say_what_pods_may_dare() {
    in_world("PodSecurity", async |world| {
        let label = async |mode: &str, level: &str| {
            let labels = json!({ format!("pod-security.kubernetes.io/{mode}"): level });
            put(&world.storage, "", "namespaces", json!({ "metadata": { "name": "default", "labels": labels } })).await;
        };
        let admit = async |spec: Value| world.create("", "pods", pod(spec)).await;
        let daring =
            json!({ "hostNetwork": true, "containers": [{ "name": "c", "securityContext": { "privileged": true } }] });
        admit(daring.clone()).await.unwrap();
        label("enforce", "baseline").await;
        assert_eq!(
            admit(daring.clone()).await.unwrap_err(),
            "pods \"web\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true), privileged (container \"c\" must not set securityContext.privileged=true)"
        );
        admit(json!({})).await.unwrap();
        label("enforce", "restricted").await;
        assert_eq!(
            admit(json!({})).await.unwrap_err(),
            "pods \"web\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let modest = json!({
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "name": "c", "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }],
        });
        admit(modest).await.unwrap();
        label("warn", "baseline").await;
        let template = json!({ "metadata": { "name": "d" }, "spec": { "template": { "spec": daring } } });
        let request = world.request(Operation::Create, "apps", "deployments", template);
        let request = world.run(request).await.unwrap();
        assert!(
            request.notes.warnings()[0].starts_with("would violate PodSecurity \"baseline:latest\": host namespaces")
        );
    });
}

#[test]
fn a_namespaces_labels_make_sense_and_its_pods_are_looked_at_when_it_gets_stricter() {
    in_world("PodSecurity", async |world| {
        let labelled = |level: &str| json!({ "metadata": { "name": "default", "labels": { "pod-security.kubernetes.io/enforce": level } } });
        assert_eq!(
            world.create("", "namespaces", labelled("strict")).await.unwrap_err(),
            "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
        );
        for (name, spec) in [
            ("b", json!({ "hostNetwork": true })),
            ("a", json!({ "hostNetwork": true })),
            ("c", json!({ "hostPID": true, "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] })),
            ("fine", json!({})),
        ] {
            let mut pod = pod(spec);
            pod["metadata"]["name"] = name.into();
            put(&world.storage, "", "pods", pod).await;
        }
        let mut request = world.request(Operation::Update, "", "namespaces", labelled("baseline"));
        request.old_object = labelled("privileged");
        assert_eq!(
            world.run(request).await.unwrap().notes.warnings(),
            [
                "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 1 other pod): host namespaces",
                "c: host namespaces, hostPath volumes",
            ]
        );
    });
}

#[test]
fn every_standard_is_told_in_upstreams_words() {
    in_world("PodSecurity", async |world| {
        let enforce = |level: &str| json!({ "metadata": { "name": "default", "labels": { "pod-security.kubernetes.io/enforce": level } } });
        let container = |more: Value| {
            let mut container = json!({ "name": "c" });
            more.as_object().unwrap().iter().for_each(|(key, value)| container[key] = value.clone());
            json!({ "containers": [container] })
        };
        let secured = |context: Value| container(json!({ "securityContext": context }));
        put(&world.storage, "", "namespaces", enforce("baseline")).await;
        for (spec, refused) in [
            (
                secured(json!({ "capabilities": { "add": ["NET_ADMIN", "CHOWN"] } })),
                "non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
            ),
            (
                container(json!({ "ports": [{ "hostPort": 80 }, { "hostPort": 81 }] })),
                "hostPort (container \"c\" uses hostPorts 80, 81)",
            ),
            (
                container(json!({ "livenessProbe": { "httpGet": { "host": "h" } } })),
                "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"h\")",
            ),
            (
                secured(json!({ "procMount": "Unmasked" })),
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                secured(json!({ "seLinuxOptions": { "type": "spc_t", "user": "u" } })),
                "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
            ),
            (
                json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (json!({ "securityContext": { "sysctls": [{ "name": "kernel.x" }] } }), "forbidden sysctls (kernel.x)"),
            (
                json!({ "securityContext": { "windowsOptions": { "hostProcess": true } } }),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
            (
                secured(json!({ "appArmorProfile": { "type": "Unconfined" } })),
                "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
            ),
        ] {
            let told = world.create("", "pods", pod(spec)).await.unwrap_err();
            let rest = "pods \"web\" is forbidden: violates PodSecurity \"baseline:latest\": ";
            assert_eq!(told.trim_start_matches(rest), refused);
        }
        put(&world.storage, "", "namespaces", enforce("restricted")).await;
        let modest = json!({ "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" } });
        for (more, refused) in [
            (
                json!({ "securityContext": { "runAsNonRoot": false } }),
                "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
            ),
            (json!({ "securityContext": { "runAsUser": 0 } }), "runAsUser=0 (pod must not set runAsUser=0)"),
            (
                json!({ "volumes": [{ "name": "v", "nfs": {} }, { "name": "w", "hostPath": {} }] }),
                "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\")",
            ),
        ] {
            let mut spec = secured(modest.clone());
            more.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
            if more.get("securityContext").is_some() {
                let mut mapped = spec.clone();
                mapped["hostUsers"] = false.into();
                world.create("", "pods", pod(mapped)).await.unwrap();
            }
            let told = world.create("", "pods", pod(spec)).await.unwrap_err();
            let rest = "pods \"web\" is forbidden: violates PodSecurity \"restricted:latest\": ";
            assert_eq!(told.trim_start_matches(rest), refused);
        }
        // What is enforced is warned of where it is only a template.
        let template = json!({ "metadata": { "name": "d" }, "spec": { "template": { "spec": { "hostPID": true } } } });
        let request = world.request(Operation::Create, "apps", "deployments", template);
        let warnings = world.run(request).await.unwrap().notes.warnings();
        assert!(
            warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": host namespaces (hostPID=true)")
        );
    });
}

fn labelled(labels: &[(&str, &str)]) -> Value {
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).into())).collect();
    json!({ "metadata": { "name": "default", "labels": labels } })
}

#[test]
fn each_version_of_the_standards_has_its_own_rules() {
    let fails = |level: Level, minor: u32, spec: &Value, annotations: &Value| -> Vec<&str> {
        let pod = json!({ "metadata": { "annotations": annotations }, "spec": spec });
        let policy = Policy { level, minor: Some(minor) };
        violations(policy, &pod).iter().map(|violation| violation.reason).collect()
    };
    let good = json!({ "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" } });
    let with = |pod: Value, container: Value| {
        let mut spec = json!({ "containers": [{ "name": "c", "securityContext": good }] });
        pod.as_object().unwrap().iter().for_each(|(key, value)| spec[key] = value.clone());
        let fields = container.as_object().unwrap();
        fields.iter().for_each(|(key, value)| spec["containers"][0]["securityContext"][key] = value.clone());
        spec
    };
    let sysctl = |name: &str| with(json!({ "securityContext": { "sysctls": [{ "name": name }] } }), json!({}));
    let of_linux = json!({ "allowPrivilegeEscalation": null, "capabilities": null, "seccompProfile": null });
    let mapped = json!({ "runAsNonRoot": null, "runAsUser": 0, "procMount": "Unmasked" });
    let unconfined = json!({ "seccompProfile": { "type": "Unconfined" } });
    let (baseline, restricted) = (Level::Baseline, Level::Restricted);
    let mut probing = with(json!({}), json!({}));
    probing["containers"][0]["livenessProbe"] = json!({ "tcpSocket": { "host": "h" } });
    let none = json!({});
    let old = json!({ "container.seccomp.security.alpha.kubernetes.io/c": "unconfined" });
    let cases: [(Level, u32, Value, &Value, &[&str]); 25] = [
        (restricted, 7, with(json!({}), json!({ "allowPrivilegeEscalation": true })), &none, &[]),
        (
            restricted,
            8,
            with(json!({}), json!({ "allowPrivilegeEscalation": true })),
            &none,
            &["allowPrivilegeEscalation != false"],
        ),
        (restricted, 21, with(json!({}), json!({ "capabilities": null })), &none, &[]),
        (
            restricted,
            21,
            with(json!({}), json!({ "capabilities": { "add": ["X"] } })),
            &none,
            &["non-default capabilities"],
        ),
        (
            restricted,
            22,
            with(json!({}), json!({ "capabilities": { "add": ["X"] } })),
            &none,
            &["unrestricted capabilities"],
        ),
        (restricted, 22, with(json!({}), json!({ "runAsUser": 0 })), &none, &[]),
        (restricted, 23, with(json!({}), json!({ "runAsUser": 0 })), &none, &["runAsUser=0"]),
        (baseline, 18, with(json!({}), unconfined.clone()), &none, &[]),
        (baseline, 18, with(json!({}), json!({})), &old, &["seccompProfile"]),
        (restricted, 18, with(json!({}), json!({ "seccompProfile": null })), &old, &["seccompProfile"]),
        (baseline, 19, with(json!({}), unconfined), &old, &["seccompProfile"]),
        (baseline, 19, with(json!({}), json!({})), &old, &[]),
        (
            restricted,
            24,
            with(json!({ "os": { "name": "windows" } }), of_linux.clone()),
            &none,
            &["allowPrivilegeEscalation != false", "unrestricted capabilities", "seccompProfile"],
        ),
        (restricted, 25, with(json!({ "os": { "name": "windows" } }), of_linux), &none, &[]),
        (baseline, 26, sysctl("net.ipv4.ip_local_reserved_ports"), &none, &["forbidden sysctls"]),
        (baseline, 27, sysctl("net.ipv4.ip_local_reserved_ports"), &none, &[]),
        (baseline, 28, sysctl("net.ipv4.tcp_fin_timeout"), &none, &["forbidden sysctls"]),
        (baseline, 29, sysctl("net.ipv4.tcp_fin_timeout"), &none, &[]),
        (
            baseline,
            30,
            with(json!({}), json!({ "seLinuxOptions": { "type": "container_engine_t" } })),
            &none,
            &["seLinuxOptions"],
        ),
        (baseline, 31, with(json!({}), json!({ "seLinuxOptions": { "type": "container_engine_t" } })), &none, &[]),
        (baseline, 31, sysctl("net.ipv4.tcp_rmem"), &none, &["forbidden sysctls"]),
        (baseline, 33, probing.clone(), &none, &[]),
        (baseline, 34, probing, &none, &["probe or lifecycle host"]),
        (
            restricted,
            34,
            with(json!({ "hostUsers": false }), mapped.clone()),
            &none,
            &["procMount", "runAsNonRoot != true", "runAsUser=0"],
        ),
        (restricted, 99, with(json!({ "hostUsers": false }), mapped), &none, &["procMount"]),
    ];
    for (level, minor, spec, annotations, expected) in cases {
        assert_eq!(fails(level, minor, &spec, annotations), expected, "{level:?} v1.{minor}: {spec}");
    }
}

#[test]
fn old_annotations_are_judged_too() {
    in_world("PodSecurity", async |world| {
        put(&world.storage, "", "namespaces", labelled(&[("enforce", "baseline"), ("enforce-version", "v1.18")])).await;
        let admit = async |annotations: Value, spec: Value| {
            let mut pod = pod(spec);
            pod["metadata"]["annotations"] = annotations;
            world.create("", "pods", pod).await.err().unwrap_or_default()
        };
        let key = |name: &str| format!("container.apparmor.security.beta.kubernetes.io/{name}");
        let good = json!({ key("a"): "runtime/default", key("b"): "localhost/x", key("c"): "" });
        assert_eq!(admit(good, json!({})).await, "");
        let rest = "pods \"web\" is forbidden: violates PodSecurity \"baseline:v1.18\": ";
        assert_eq!(
            admit(json!({ key("c"): "unconfined" }), json!({})).await,
            format!(
                "{rest}forbidden AppArmor profile (annotation must not set AppArmor profile type to \
                 \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")"
            )
        );
        let field = json!({ "securityContext": { "appArmorProfile": { "type": "Unconfined" } } });
        assert_eq!(
            admit(json!({ key("b"): "x", key("a"): "y" }), field).await,
            format!(
                "{rest}forbidden AppArmor profiles (pod and annotations must not set AppArmor profile type to \
                 \"Unconfined\", \"container.apparmor.security.beta.kubernetes.io/a=\"y\"\", \
                 \"container.apparmor.security.beta.kubernetes.io/b=\"x\"\")"
            )
        );
        assert_eq!(
            admit(json!({ "seccomp.security.alpha.kubernetes.io/pod": "unconfined" }), json!({})).await,
            format!(
                "{rest}seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
            )
        );
    });
}

#[test]
fn the_configuration_says_who_is_exempt_and_what_holds_where_no_label_says() {
    in_world("PodSecurity", async |mut world| {
        let told = json!({
            "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
            "defaults": { "enforce": "baseline", "enforce-version": "v1.30", "warn": "restricted" },
            "exemptions": { "usernames": ["robot"], "namespaces": ["kube-system"], "runtimeClasses": ["vm"] },
        });
        world.plugin = Box::new(PodSecurity(PodSecurityConfiguration::parse(&told).unwrap()));
        let make = async |world: &World, spec: Value, namespace: &str| {
            let mut request = world.request(Operation::Create, "", "pods", pod(spec));
            request.namespace = namespace.into();
            let run = world.run(request).await.map(|request| request.notes);
            run.map_err(|error| error.message)
        };
        let daring = json!({ "hostPID": true });
        assert_eq!(
            make(&world, daring.clone(), "default").await.unwrap_err(),
            "pods \"web\" is forbidden: violates PodSecurity \"baseline:v1.30\": host namespaces (hostPID=true)"
        );
        let warnings = make(&world, json!({}), "default").await.unwrap().warnings();
        assert!(warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": "), "{warnings:?}");
        let exempt = format!("{PREFIX}exempt");
        let noted = |notes: Notes| notes.annotations().get(&exempt).cloned().unwrap_or_default();
        assert_eq!(noted(make(&world, daring.clone(), "kube-system").await.unwrap()), "namespace");
        let on_vm = json!({ "hostPID": true, "runtimeClassName": "vm" });
        assert_eq!(noted(make(&world, on_vm, "default").await.unwrap()), "runtimeClass");
        world.user = UserInfo::new("robot", &[]);
        assert_eq!(noted(make(&world, daring, "default").await.unwrap()), "user");

        let mut system = labelled(&[("enforce", "restricted"), ("audit-version", "v1.3")]);
        system["metadata"]["name"] = "kube-system".into();
        let request = world.request(Operation::Create, "", "namespaces", system);
        assert_eq!(
            world.run(request).await.unwrap().notes.warnings(),
            [
                "namespace \"kube-system\" is exempt from Pod Security, and the policy (enforce=restricted:v1.30) will be ignored"
            ]
        );
    });
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let wrong = |defaults: Value, exemptions: Value| {
        let told = json!({ "apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
            "defaults": defaults, "exemptions": exemptions });
        PodSecurityConfiguration::parse(&told).unwrap_err()
    };
    assert_eq!(
        wrong(json!({ "enforce": "strict", "warn-version": "v1.+5" }), json!({})),
        "PodSecurity invalid: [defaults.enforce: Invalid value: \"strict\": must be one of privileged, baseline, \
         restricted, defaults.warn-version: Invalid value: \"v1.+5\": must be \"latest\" or \"v1.x\"]"
    );
    assert_eq!(
        wrong(json!({}), json!({ "usernames": ["", "a", "a"] })),
        "PodSecurity invalid: [exemptions.usernames[0]: Required value, exemptions.usernames[2]: Duplicate value: \"a\"]"
    );
    let name = wrong(json!({}), json!({ "namespaces": ["A"] }));
    assert!(name.starts_with("PodSecurity invalid: exemptions.namespaces[0]: Invalid value: \"A\""), "{name}");
    let kind = PodSecurityConfiguration::parse(&json!({ "apiVersion": "v1", "kind": "Pod" })).unwrap_err();
    assert_eq!(kind, "no kind \"Pod\" is registered for version \"v1\"");
}
