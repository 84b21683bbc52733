use std::sync::Arc;

use coracle_api::ApiResult;

use super::*;
use crate::hooks::{AdmissionContext, Authorizer, Notes, Operation, Reinvocation, UserInfo};
use crate::rbac::Union;
use crate::storage::Storage;
use crate::testing::{in_simulation, put, storage};
use crate::webhook::Webhooks;

/// A cluster in which objects are admitted, but not stored.
struct World {
    storage: Arc<Storage>,
    authorizer: Arc<dyn Authorizer>,
    user: UserInfo,
}

impl World {
    async fn new() -> World {
        let storage = storage().await;
        put(&storage, "", "namespaces", json!({ "metadata": { "name": "default" }, "status": { "phase": "Active" } }))
            .await;
        put(&storage, "", "serviceaccounts", json!({ "metadata": { "name": "default", "namespace": "default" } }))
            .await;
        World { storage, authorizer: Arc::new(Union(Arc::new([]))), user: UserInfo::new("alice", &[]) }
    }

    fn request(&self, operation: Operation, group: &str, plural: &str, object: Value) -> AdmissionRequest {
        let resource = self.storage.table().find_any(group, plural).unwrap().resource.clone();
        let namespace = if resource.namespaced() { "default" } else { "" };
        AdmissionRequest {
            operation,
            resource,
            subresource: String::new(),
            namespace: namespace.into(),
            name: text(&object, "/metadata/name").into(),
            object,
            old_object: Value::Null,
            user: self.user.clone(),
            dry_run: false,
            options: Value::Null,
            notes: Notes::default(),
            reinvocation: Reinvocation::default(),
        }
    }

    /// Runs one plugin over a request.
    async fn run(&self, plugin: &str, mut request: AdmissionRequest) -> ApiResult<AdmissionRequest> {
        let (.., make) = PLUGINS.iter().find(|(name, ..)| *name == plugin).unwrap();
        let plugin = make();
        let context = AdmissionContext {
            storage: self.storage.clone(),
            webhooks: Webhooks::new(&self.storage),
            authorizer: self.authorizer.clone(),
        };
        assert!(plugin.handles(request.operation));
        plugin.admit(&mut request, &context).await?;
        plugin.validate(&request, &context).await?;
        Ok(request)
    }

    async fn create(&self, plugin: &str, group: &str, plural: &str, object: Value) -> Result<Value, String> {
        let request = self.request(Operation::Create, group, plural, object);
        self.run(plugin, request).await.map(|r| r.object).map_err(|e| e.message)
    }

    async fn delete(&self, plugin: &str, plural: &str, name: &str) -> Result<(), String> {
        let mut request = self.request(Operation::Delete, "", plural, Value::Null);
        request.name = name.into();
        self.run(plugin, request).await.map(|_| ()).map_err(|e| e.message)
    }
}

fn pod(spec: Value) -> Value {
    let mut pod =
        json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": { "containers": [{ "name": "c" }] } });
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[test]
fn plugins_are_switched_by_name_and_keep_their_order() {
    let names = |enable: &[&str], disable: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        plugins(&list(enable), &list(disable)).map(|all| all.iter().map(|p| p.name()).collect::<Vec<_>>())
    };
    let default = names(&[], &[]).unwrap();
    assert_eq!((default.first(), default.last()), (Some(&"NamespaceLifecycle"), Some(&"ResourceQuota")));
    assert!(!default.contains(&"AlwaysPullImages"));
    assert!(names(&["AlwaysPullImages"], &[]).unwrap().contains(&"AlwaysPullImages"));
    assert!(!names(&["LimitRanger"], &["LimitRanger"]).unwrap().contains(&"LimitRanger"));
    assert!(names(&["Nonsense"], &[]).unwrap_err().to_string().starts_with("admission plugin \"Nonsense\" is unknown"));
    assert!(names(&[], &["EventRateLimit"]).is_ok() && names(&["EventRateLimit"], &[]).is_err());
    for (name, _, make) in PLUGINS {
        assert_eq!(make().name(), name);
    }
}

#[test]
fn nothing_is_made_in_a_namespace_that_is_missing_or_going() {
    in_simulation(async || {
        let world = World::new().await;
        world.create("NamespaceLifecycle", "", "pods", pod(json!({}))).await.unwrap();
        let going = json!({ "metadata": { "name": "default", "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        put(&world.storage, "", "namespaces", going).await;
        let request = world.request(Operation::Create, "", "pods", pod(json!({})));
        let error = world.run("NamespaceLifecycle", request).await.unwrap_err();
        assert_eq!(
            error.message,
            "pods \"web\" is forbidden: unable to create new content in namespace default because it is being terminated"
        );
        assert_eq!(error.details["causes"][0]["reason"], "NamespaceTerminating");
        let mut request = world.request(Operation::Create, "", "pods", pod(json!({})));
        request.namespace = "nowhere".into();
        let error = world.run("NamespaceLifecycle", request).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (404, "namespaces \"nowhere\" not found"));
    });
}

#[test]
fn a_pod_that_is_bound_learns_its_nodes_zone_and_region() {
    in_simulation(async || {
        let world = World::new().await;
        let labels = json!({ "topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r", "other": "x" });
        put(&world.storage, "", "nodes", json!({ "metadata": { "name": "n1", "labels": labels } })).await;
        let bind = async |target: Value| {
            let object = json!({ "metadata": { "name": "web", "labels": { "topology.kubernetes.io/zone": "mine", "a": "b" } }, "target": target });
            let mut request = world.request(Operation::Create, "", "pods", object);
            request.subresource = "binding".into();
            world.run("PodTopologyLabels", request).await.unwrap().object["metadata"]["labels"].take()
        };
        let expected = json!({ "topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r", "a": "b" });
        assert_eq!(bind(json!({ "kind": "Node", "name": "n1" })).await, expected);
        let unknown = bind(json!({ "kind": "Node", "name": "n2" })).await;
        assert_eq!(unknown, json!({ "topology.kubernetes.io/zone": "mine", "a": "b" }));
        let made = world.create("PodTopologyLabels", "", "pods", pod(json!({ "nodeName": "n1" }))).await.unwrap();
        assert_eq!(made["metadata"]["labels"]["topology.kubernetes.io/zone"], "a");
    });
}

#[test]
fn the_systems_namespaces_stay() {
    in_simulation(async || {
        let world = World::new().await;
        for name in ["default", "kube-system", "kube-public"] {
            let message = world.delete("NamespaceLifecycle", "namespaces", name).await.unwrap_err();
            assert_eq!(message, format!("namespaces {name:?} is forbidden: this namespace may not be deleted"));
        }
        world.delete("NamespaceLifecycle", "namespaces", "mine").await.unwrap();
    });
}

#[test]
fn a_pod_runs_as_its_service_account_and_finds_its_token() {
    in_simulation(async || {
        let world = World::new().await;
        let admitted = world.create("ServiceAccount", "", "pods", pod(json!({}))).await.unwrap();
        let spec = &admitted["spec"];
        assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
        let volume = &spec["volumes"][0];
        assert!(text(volume, "/name").starts_with("kube-api-access-") && text(volume, "/name").len() == 21);
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        let mount = &spec["containers"][0]["volumeMounts"][0];
        assert_eq!((&mount["name"], &mount["readOnly"]), (&volume["name"], &json!(true)));

        let without = pod(json!({ "automountServiceAccountToken": false }));
        assert!(world.create("ServiceAccount", "", "pods", without).await.unwrap()["spec"]["volumes"].is_null());

        let message =
            world.create("ServiceAccount", "", "pods", pod(json!({ "serviceAccountName": "x" }))).await.unwrap_err();
        assert_eq!(
            message,
            "pods \"web\" is forbidden: error looking up service account default/x: serviceaccount \"x\" not found"
        );
    });
}

#[test]
fn an_account_may_list_the_secrets_its_pods_use() {
    in_simulation(async || {
        let world = World::new().await;
        let account = json!({ "metadata": { "name": "robot", "namespace": "default",
            "annotations": { "kubernetes.io/enforce-mountable-secrets": "true" } },
            "secrets": [{ "name": "mine" }], "imagePullSecrets": [{ "name": "registry" }] });
        put(&world.storage, "", "serviceaccounts", account).await;
        let env = |name: &str| json!([{ "name": "c", "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": name, "key": "k" } } }] }]);
        let volume = |name: &str| json!([{ "name": "v", "secret": { "secretName": name } }]);
        let because = "is not allowed because service account robot does not reference that";
        for (spec, refused) in [
            (json!({ "containers": env("mine"), "volumes": volume("mine") }), String::new()),
            (
                json!({ "volumes": volume("other") }),
                format!("volume with secret.secretName=\"other\" {because} secret"),
            ),
            (
                json!({ "containers": env("other") }),
                format!("container c with envVar A referencing secret.secretName=\"other\" {because} secret"),
            ),
            (
                json!({ "initContainers": [{ "name": "i", "envFrom": [{ "secretRef": { "name": "other" } }] }] }),
                format!("init container i with envFrom referencing secret.secretName=\"other\" {because} secret"),
            ),
            (
                json!({ "imagePullSecrets": [{ "name": "registry" }, { "name": "other" }] }),
                format!("imagePullSecrets[1].name=\"other\" {because} imagePullSecret"),
            ),
        ] {
            let mut pod = pod(spec);
            pod["spec"]["serviceAccountName"] = "robot".into();
            let told = world.create("ServiceAccount", "", "pods", pod).await.err().unwrap_or_default();
            assert_eq!(told.trim_start_matches("pods \"web\" is forbidden: "), refused);
        }
    });
}

#[test]
fn a_mirror_pod_has_nothing_of_the_api() {
    in_simulation(async || {
        let world = World::new().await;
        for (spec, refused) in [
            (json!({}), ""),
            (json!({ "serviceAccountName": "x" }), "a mirror pod may not reference service accounts"),
            (json!({ "imagePullSecrets": [{ "name": "s" }] }), "a mirror pod may not reference secrets"),
            (
                json!({ "volumes": [{ "name": "v", "projected": { "sources": [{ "serviceAccountToken": { "path": "t" } }] } }] }),
                "a mirror pod may not use ServiceAccountToken volume projections",
            ),
        ] {
            let mut pod = pod(spec);
            pod["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
            let told = world.create("ServiceAccount", "", "pods", pod).await.err().unwrap_or_default();
            assert_eq!(told.trim_start_matches("pods \"web\" is forbidden: "), refused);
        }
    });
}

#[test]
fn a_claim_without_a_class_gets_the_newest_default() {
    in_simulation(async || {
        let world = World::new().await;
        let claim = json!({ "metadata": { "name": "data" }, "spec": {} });
        let admitted = world.create("DefaultStorageClass", "", "persistentvolumeclaims", claim.clone()).await.unwrap();
        assert!(admitted["spec"]["storageClassName"].is_null());
        for (name, created, default) in [
            ("a", "2026-01-01T00:00:00Z", "true"),
            ("b", "2026-01-02T00:00:00Z", "true"),
            ("c", "2026-01-03T00:00:00Z", "false"),
        ] {
            let annotations = json!({ "storageclass.kubernetes.io/is-default-class": default });
            let class =
                json!({ "metadata": { "name": name, "creationTimestamp": created, "annotations": annotations } });
            put(&world.storage, "storage.k8s.io", "storageclasses", class).await;
        }
        let admitted = world.create("DefaultStorageClass", "", "persistentvolumeclaims", claim).await.unwrap();
        assert_eq!(admitted["spec"]["storageClassName"], "b");
        let none = json!({ "metadata": { "name": "data" }, "spec": { "storageClassName": "" } });
        let admitted = world.create("DefaultStorageClass", "", "persistentvolumeclaims", none).await.unwrap();
        assert_eq!(admitted["spec"]["storageClassName"], "");
    });
}

#[test]
fn a_claim_grows_only_where_its_class_lets_it() {
    in_simulation(async || {
        let world = World::new().await;
        let claim = |size: &str, phase: &str| {
            json!({ "metadata": { "name": "data" }, "status": { "phase": phase },
                "spec": { "storageClassName": "c", "resources": { "requests": { "storage": size } } } })
        };
        let grow = async |from: Value, to: &str| {
            let mut request = world.request(Operation::Update, "", "persistentvolumeclaims", claim(to, "Bound"));
            request.old_object = from;
            world.run("PersistentVolumeClaimResize", request).await.map(|_| ()).map_err(|e| e.message)
        };
        grow(claim("1Gi", "Bound"), "1Gi").await.unwrap();
        assert!(grow(claim("1Gi", "Bound"), "2Gi").await.unwrap_err().contains("must support resize"));
        let class = json!({ "metadata": { "name": "c" }, "allowVolumeExpansion": true });
        put(&world.storage, "storage.k8s.io", "storageclasses", class).await;
        grow(claim("1Gi", "Bound"), "2Gi").await.unwrap();
        assert!(
            grow(claim("1Gi", "Pending"), "2Gi").await.unwrap_err().contains("Only bound persistent volume claims")
        );
    });
}

#[test]
fn claims_and_volumes_are_protected_while_in_use() {
    in_simulation(async || {
        let world = World::new().await;
        for (plural, finalizer) in [
            ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
            ("persistentvolumes", "kubernetes.io/pv-protection"),
        ] {
            let object = json!({ "metadata": { "name": "x" } });
            let admitted = world.create("StorageObjectInUseProtection", "", plural, object).await.unwrap();
            assert_eq!(admitted["metadata"]["finalizers"], json!([finalizer]));
        }
    });
}

#[test]
fn a_priority_class_becomes_a_number() {
    in_simulation(async || {
        let world = World::new().await;
        let class = |name: &str, value: i64, default: bool| json!({ "metadata": { "name": name }, "value": value, "globalDefault": default });
        put(&world.storage, "scheduling.k8s.io", "priorityclasses", class("high", 1000, false)).await;
        let admit = async |spec: Value| world.create("Priority", "", "pods", pod(spec)).await;
        assert_eq!(admit(json!({})).await.unwrap()["spec"]["priority"], 0);
        assert_eq!(admit(json!({ "priorityClassName": "high" })).await.unwrap()["spec"]["priority"], 1000);
        assert_eq!(
            admit(json!({ "priorityClassName": "none" })).await.unwrap_err(),
            "pods \"web\" is forbidden: no PriorityClass with name none was found"
        );
        assert!(
            admit(json!({ "priorityClassName": "high", "priority": 5 })).await.unwrap_err().contains("computed 1000")
        );
        put(&world.storage, "scheduling.k8s.io", "priorityclasses", class("usual", 7, true)).await;
        assert_eq!(admit(json!({})).await.unwrap()["spec"]["priorityClassName"], "usual");
        let second = world.create("Priority", "scheduling.k8s.io", "priorityclasses", class("other", 1, true)).await;
        assert!(second.unwrap_err().contains("Only one default can exist"));
    });
}

#[test]
fn pods_tolerate_an_absent_node_for_five_minutes_unless_they_say_otherwise() {
    in_simulation(async || {
        let world = World::new().await;
        let admitted = world.create("DefaultTolerationSeconds", "", "pods", pod(json!({}))).await.unwrap();
        let keys: Vec<&str> = items(&admitted["spec"]["tolerations"]).map(|t| text(t, "/key")).collect();
        assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
        let own = json!([{ "operator": "Exists" }]);
        let admitted =
            world.create("DefaultTolerationSeconds", "", "pods", pod(json!({ "tolerations": own }))).await.unwrap();
        assert_eq!(admitted["spec"]["tolerations"], own);
    });
}

#[test]
fn a_new_node_takes_no_pods_until_it_is_ready() {
    in_simulation(async || {
        let world = World::new().await;
        let node = json!({ "metadata": { "name": "n1" } });
        let admitted = world.create("TaintNodesByCondition", "", "nodes", node).await.unwrap();
        assert_eq!(
            admitted["spec"]["taints"],
            json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }])
        );
    });
}

#[test]
fn a_node_writes_its_own_things_only() {
    in_simulation(async || {
        let mut world = World::new().await;
        world.user = UserInfo::new("system:node:n1", &["system:nodes"]);
        let node = |name: &str| json!({ "metadata": { "name": name } });
        world.create("NodeRestriction", "", "nodes", node("n1")).await.unwrap();
        assert_eq!(
            world.create("NodeRestriction", "", "nodes", node("n2")).await.unwrap_err(),
            "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
        );
        put(&world.storage, "", "pods", pod(json!({ "nodeName": "n2" }))).await;
        let mut request = world.request(Operation::Update, "", "pods", pod(json!({ "nodeName": "n2" })));
        request.subresource = "status".into();
        request.old_object = request.object.clone();
        let error = world.run("NodeRestriction", request).await.unwrap_err();
        assert!(error.message.ends_with("can only update pod status for pods with spec.nodeName set to itself"));
        let message = world.delete("NodeRestriction", "pods", "web").await.unwrap_err();
        assert!(message.ends_with("can only delete pods with spec.nodeName set to itself"));
        world.user = UserInfo::new("alice", &[]);
        world.create("NodeRestriction", "", "nodes", node("n2")).await.unwrap();
    });
}

#[test]
fn what_a_node_asks_for_is_held_to_its_own() {
    in_simulation(async || {
        let mut world = World::new().await;
        world.user = UserInfo::new("system:node:n1", &["system:nodes"]);
        put(&world.storage, "", "nodes", json!({ "metadata": { "name": "n1", "uid": "u" } })).await;
        for name in ["n1", "n2"] {
            let mut pod = pod(json!({ "nodeName": name }));
            (pod["metadata"]["name"], pod["metadata"]["uid"]) = (format!("on-{name}").into(), "u".into());
            put(&world.storage, "", "pods", pod).await;
        }
        let node = |more: Value| {
            let mut node = json!({ "metadata": { "name": "n1" } });
            more.as_object().unwrap().iter().for_each(|(key, value)| node[key] = value.clone());
            node
        };
        let labelled = |key: &str| node(json!({ "metadata": { "name": "n1", "labels": { key: "x" } } }));
        let mirror = |owner: Value, spec: Value| {
            let mut pod = pod(spec);
            pod["spec"]["nodeName"] = "n1".into();
            pod["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
            pod["metadata"]["ownerReferences"] = owner;
            pod
        };
        let own =
            |uid: &str| json!([{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true }]);
        let token = |pod: &str, uid: &str| json!({ "spec": { "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid } } });
        let slice = |node: &str| json!({ "metadata": { "name": "s" }, "spec": { "nodeName": node } });
        let lease = json!({ "metadata": { "name": "n1" } });
        let only_itself = "node \"n1\" can only create pods with an owner reference set to itself";
        let references = |what: &str| format!("node \"n1\" can not create pods that reference {what}");
        let secret = json!({ "volumes": [{ "name": "v", "iscsi": { "secretRef": { "name": "s" } } }] });
        let claim = json!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }] });
        for (resource, object, refused) in [
            ("nodes", labelled("topology.kubernetes.io/zone"), String::new()),
            ("nodes", labelled("node.kubernetes.io/mine"), String::new()),
            ("nodes", labelled("example.com/mine"), String::new()),
            (
                "nodes",
                labelled("node-role.kubernetes.io/control-plane"),
                "node \"n1\" is not allowed to set the following labels: node-role.kubernetes.io/control-plane".into(),
            ),
            (
                "nodes",
                labelled("a.node-restriction.kubernetes.io/b"),
                "node \"n1\" is not allowed to set the following labels: a.node-restriction.kubernetes.io/b".into(),
            ),
            ("pods", mirror(own("u"), json!({})), String::new()),
            ("pods", mirror(json!([]), json!({})), only_itself.into()),
            ("pods", mirror(own("v"), json!({})), "node n1 UID mismatch: expected v got u".into()),
            ("pods", mirror(own("u"), json!({ "serviceAccountName": "x" })), references("a service account")),
            ("pods", mirror(own("u"), secret), references("secrets")),
            ("pods", mirror(own("u"), claim), references("persistentvolumeclaims")),
            ("persistentvolumeclaims", json!({ "metadata": { "name": "c" } }), "may only update PVC status".into()),
            ("serviceaccounts/token", token("on-n1", "u"), String::new()),
            ("serviceaccounts/token", json!({ "spec": {} }), "node requested token not bound to a pod".into()),
            (
                "serviceaccounts/token",
                token("on-n1", ""),
                "node requested token with a pod binding without a uid".into(),
            ),
            (
                "serviceaccounts/token",
                token("on-n2", "u"),
                "node requested token bound to a pod scheduled on a different node".into(),
            ),
            (
                "leases.coordination.k8s.io",
                lease,
                "can only access leases in the \"kube-node-lease\" system namespace".into(),
            ),
            (
                "csinodes.storage.k8s.io",
                json!({ "metadata": { "name": "n2" } }),
                "can only access CSINode with the same name as the requesting node".into(),
            ),
            ("resourceslices.resource.k8s.io", slice("n1"), String::new()),
            (
                "resourceslices.resource.k8s.io",
                slice("n2"),
                "can only create ResourceSlice with the same NodeName as the requesting node".into(),
            ),
        ] {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
            let mut request = world.request(Operation::Create, group, plural, object);
            request.subresource = subresource.into();
            let told =
                world.run("NodeRestriction", request).await.err().map_or_else(String::new, |error| error.message);
            let told = told.split_once("is forbidden: ").map_or(told.as_str(), |(_, why)| why);
            assert_eq!(told, refused, "{resource}");
        }
        for (old, new, refused) in [
            (node(json!({})), labelled("kubernetes.io/x"), "is not allowed to modify labels: kubernetes.io/x"),
            (labelled("kubernetes.io/x"), labelled("kubernetes.io/x"), ""),
            (node(json!({})), node(json!({ "spec": { "taints": [] } })), "node \"n1\" is not allowed to modify taints"),
        ] {
            let mut request = world.request(Operation::Update, "", "nodes", new);
            request.old_object = old;
            let told =
                world.run("NodeRestriction", request).await.err().map_or_else(String::new, |error| error.message);
            assert_eq!(told.trim_start_matches("nodes \"n1\" is forbidden: "), refused);
        }
    });
}

#[test]
fn limits_are_told_in_upstreams_order_and_words() {
    in_simulation(async || {
        for (limit, resources, refused) in [
            (
                json!({ "max": { "cpu": "1" } }),
                json!({ "requests": { "cpu": "2" } }),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                json!({ "max": { "cpu": "1" } }),
                json!({ "requests": { "cpu": "2" }, "limits": { "cpu": "3" } }),
                "maximum cpu usage per Container is 1, but limit is 3",
            ),
            (
                json!({ "min": { "cpu": "1" } }),
                json!({ "limits": { "cpu": "2" } }),
                "minimum cpu usage per Container is 1.  No request is specified",
            ),
            (
                json!({ "maxLimitRequestRatio": { "cpu": "2" } }),
                json!({ "limits": { "cpu": "2" } }),
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
            (
                json!({ "maxLimitRequestRatio": { "cpu": "2" } }),
                json!({ "requests": { "cpu": "2" } }),
                "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
            ),
            (
                json!({ "maxLimitRequestRatio": { "cpu": "2" } }),
                json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "3" } }),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
        ] {
            let world = World::new().await;
            let mut limit = limit;
            limit["type"] = "Container".into();
            let range = json!({ "metadata": { "name": "l", "namespace": "default" }, "spec": { "limits": [limit] } });
            put(&world.storage, "", "limitranges", range).await;
            let pod = pod(json!({ "containers": [{ "name": "c", "resources": resources }] }));
            let mut resize = world.request(Operation::Update, "", "pods", pod.clone());
            (resize.old_object, resize.subresource) = (pod.clone(), "resize".into());
            let mut going = resize.clone();
            going.old_object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            let told = format!("pods \"web\" is forbidden: {refused}");
            assert_eq!(world.create("LimitRanger", "", "pods", pod).await.unwrap_err(), told);
            assert_eq!(world.run("LimitRanger", resize).await.unwrap_err().message, told);
            world.run("LimitRanger", going).await.unwrap();
        }
    });
}

#[test]
fn limit_ranges_give_defaults_and_refuse_what_is_too_small_or_too_large() {
    in_simulation(async || {
        let world = World::new().await;
        let range = json!({ "metadata": { "name": "limits", "namespace": "default" }, "spec": { "limits": [{
            "type": "Container",
            "defaultRequest": { "cpu": "100m" }, "default": { "cpu": "500m" },
            "min": { "cpu": "50m" }, "max": { "cpu": "1" },
        }] } });
        put(&world.storage, "", "limitranges", range).await;
        let admit = async |resources: Value| {
            let pod = pod(json!({ "containers": [{ "name": "c", "resources": resources }] }));
            world.create("LimitRanger", "", "pods", pod).await
        };
        let admitted = admit(json!({})).await.unwrap();
        assert_eq!(
            admitted["spec"]["containers"][0]["resources"],
            json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "500m" } })
        );
        assert_eq!(
            admitted["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
        assert_eq!(
            admit(json!({ "requests": { "cpu": "10m" }, "limits": { "cpu": "2" } })).await.unwrap_err(),
            "pods \"web\" is forbidden: [minimum cpu usage per Container is 50m, but request is 10m, maximum cpu usage per Container is 1, but limit is 2]"
        );
    });
}

#[test]
fn a_namespace_holds_no_more_than_its_quota() {
    in_simulation(async || {
        let world = World::new().await;
        let quota = json!({ "metadata": { "name": "q", "namespace": "default" },
            "spec": { "hard": { "pods": "2", "limits.cpu": "1" } } });
        put(&world.storage, "", "resourcequotas", quota).await;
        let with = |name: &str, cpu: &str| {
            let mut pod = pod(json!({ "containers": [{ "name": "c", "resources": { "limits": { "cpu": cpu } } }] }));
            pod["metadata"]["name"] = name.into();
            pod
        };
        put(&world.storage, "", "pods", with("one", "600m")).await;
        world.create("ResourceQuota", "", "pods", with("two", "400m")).await.unwrap();
        assert_eq!(
            world.create("ResourceQuota", "", "pods", with("two", "500m")).await.unwrap_err(),
            "pods \"two\" is forbidden: exceeded quota: q, requested: limits.cpu=500m, used: limits.cpu=600m, limited: limits.cpu=1"
        );
        assert_eq!(
            world.create("ResourceQuota", "", "pods", pod(json!({}))).await.unwrap_err(),
            "pods \"web\" is forbidden: failed quota: q: must specify limits.cpu for: c"
        );
        let mut resize = world.request(Operation::Update, "", "pods", with("one", "1100m"));
        resize.old_object = with("one", "600m");
        assert!(world.run("ResourceQuota", resize.clone()).await.is_ok(), "no other update makes a pod larger");
        resize.subresource = "resize".into();
        assert_eq!(
            world.run("ResourceQuota", resize).await.unwrap_err().message,
            "pods \"one\" is forbidden: exceeded quota: q, requested: limits.cpu=500m, used: limits.cpu=600m, limited: limits.cpu=1"
        );
    });
}

#[test]
fn a_namespaces_labels_say_what_pods_may_dare() {
    in_simulation(async || {
        let world = World::new().await;
        let label = async |mode: &str, level: &str| {
            let labels = json!({ format!("pod-security.kubernetes.io/{mode}"): level });
            put(&world.storage, "", "namespaces", json!({ "metadata": { "name": "default", "labels": labels } })).await;
        };
        let admit = async |spec: Value| world.create("PodSecurity", "", "pods", pod(spec)).await;
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
        let request = world.run("PodSecurity", request).await.unwrap();
        assert!(
            request.notes.warnings()[0].starts_with("would violate PodSecurity \"baseline:latest\": host namespaces")
        );
    });
}

#[test]
fn a_namespaces_labels_make_sense_and_its_pods_are_looked_at_when_it_gets_stricter() {
    in_simulation(async || {
        let world = World::new().await;
        let labelled = |level: &str| json!({ "metadata": { "name": "default", "labels": { "pod-security.kubernetes.io/enforce": level } } });
        assert_eq!(
            world.create("PodSecurity", "", "namespaces", labelled("strict")).await.unwrap_err(),
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
            world.run("PodSecurity", request).await.unwrap().notes.warnings(),
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
    in_simulation(async || {
        let world = World::new().await;
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
            let told = world.create("PodSecurity", "", "pods", pod(spec)).await.unwrap_err();
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
                world.create("PodSecurity", "", "pods", pod(mapped)).await.unwrap();
            }
            let told = world.create("PodSecurity", "", "pods", pod(spec)).await.unwrap_err();
            let rest = "pods \"web\" is forbidden: violates PodSecurity \"restricted:latest\": ";
            assert_eq!(told.trim_start_matches(rest), refused);
        }
        // What is enforced is warned of where it is only a template.
        let template = json!({ "metadata": { "name": "d" }, "spec": { "template": { "spec": { "hostPID": true } } } });
        let request = world.request(Operation::Create, "apps", "deployments", template);
        let warnings = world.run("PodSecurity", request).await.unwrap().notes.warnings();
        assert!(
            warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": host namespaces (hostPID=true)")
        );
    });
}

#[test]
fn a_pod_of_a_runtime_class_gets_its_overhead_and_its_nodes() {
    in_simulation(async || {
        let world = World::new().await;
        let admit = async || world.create("RuntimeClass", "", "pods", pod(json!({ "runtimeClassName": "vm" }))).await;
        assert_eq!(
            admit().await.unwrap_err(),
            "pods \"web\" is forbidden: pod rejected: RuntimeClass \"vm\" not found"
        );
        let class = json!({ "metadata": { "name": "vm" }, "handler": "vm", "overhead": { "podFixed": { "cpu": "1" } },
            "scheduling": { "nodeSelector": { "vm": "yes" } } });
        put(&world.storage, "node.k8s.io", "runtimeclasses", class).await;
        let admitted = admit().await.unwrap();
        assert_eq!(admitted["spec"]["overhead"], json!({ "cpu": "1" }));
        assert_eq!(admitted["spec"]["nodeSelector"], json!({ "vm": "yes" }));
        let heavy = |spec: Value| async { world.create("RuntimeClass", "", "pods", pod(spec)).await.unwrap_err() };
        assert!(
            heavy(json!({ "overhead": { "cpu": "1" } }))
                .await
                .ends_with("Pod Overhead set without corresponding RuntimeClass defined Overhead")
        );
        assert!(heavy(json!({ "runtimeClassName": "vm", "nodeSelector": { "vm": "no" } })).await.ends_with(
            "is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"
        ));
    });
}
