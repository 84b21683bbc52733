use crate::admission::testing::*;

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
