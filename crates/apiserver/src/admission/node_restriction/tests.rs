use crate::admission::testing::*;
use crate::hooks::{Attributes, Authorizer, Decision};

#[test]
fn a_node_writes_its_own_things_only() {
    in_world("NodeRestriction", async |mut world| {
        world.user = UserInfo::new("system:node:n1", &["system:nodes"]);
        let node = |name: &str| json!({ "metadata": { "name": name } });
        world.create("", "nodes", node("n1")).await.unwrap();
        assert_eq!(
            world.create("", "nodes", node("n2")).await.unwrap_err(),
            "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
        );
        put(&world.storage, "", "pods", pod(json!({ "nodeName": "n2" }))).await;
        let mut request = world.request(Operation::Update, "", "pods", pod(json!({ "nodeName": "n2" })));
        request.subresource = "status".into();
        request.old_object = request.object.clone();
        let error = world.run(request).await.unwrap_err();
        assert!(error.message.ends_with("can only update pod status for pods with spec.nodeName set to itself"));
        let message = world.delete("pods", "web").await.unwrap_err();
        assert!(message.ends_with("can only delete pods with spec.nodeName set to itself"));
        world.user = UserInfo::new("alice", &[]);
        world.create("", "nodes", node("n2")).await.unwrap();
    });
}

#[test]
fn what_a_node_asks_for_is_held_to_its_own() {
    in_world("NodeRestriction", async |mut world| {
        world.user = UserInfo::new("system:node:n1", &["system:nodes"]);
        put(&world.storage, "", "nodes", json!({ "metadata": { "name": "n1", "uid": "u" } })).await;
        for name in ["n1", "n2"] {
            let token =
                json!({ "name": "t", "projected": { "sources": [{ "serviceAccountToken": { "path": "t" } }] } });
            let mut pod = pod(json!({ "nodeName": name, "volumes": [token] }));
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
            let told = world.run(request).await.err().map_or_else(String::new, |error| error.message);
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
            let told = world.run(request).await.err().map_or_else(String::new, |error| error.message);
            assert_eq!(told.trim_start_matches("nodes \"n1\" is forbidden: "), refused);
        }
    });
}

/// Lets somebody ask for tokens of one audience, for one account.
#[derive(Debug)]
struct OneAudience;

#[async_trait::async_trait]
impl Authorizer for OneAudience {
    async fn authorize(&self, _: &UserInfo, wanted: &Attributes) -> Decision {
        let asked = (wanted.verb.as_str(), wanted.resource.as_str(), wanted.namespace.as_str(), wanted.name.as_str());
        match asked == ("request-serviceaccounts-token-audience", "granted", "default", "robot") {
            true => Decision::Allow,
            false => Decision::NoOpinion,
        }
    }
}

#[test]
fn a_node_asks_for_tokens_only_for_audiences_that_its_pods_talk_to() {
    in_world("NodeRestriction", async |mut world| {
        world.user = UserInfo::new("system:node:n1", &["system:nodes"]);
        world.authorizer = std::sync::Arc::new(OneAudience);
        for (driver, audience) in [("inline", "a"), ("bound", "b"), ("passing", "c"), ("unused", "d")] {
            let spec = json!({ "tokenRequests": [{ "audience": audience }] });
            let driver = json!({ "metadata": { "name": driver }, "spec": spec });
            put(&world.storage, "storage.k8s.io", "csidrivers", driver).await;
        }
        for (claim, driver) in [("data", "bound"), ("web-scratch", "passing")] {
            let volume = json!({ "metadata": { "name": driver }, "spec": { "csi": { "driver": driver } } });
            put(&world.storage, "", "persistentvolumes", volume).await;
            let claim =
                json!({ "metadata": { "name": claim, "namespace": "default" }, "spec": { "volumeName": driver } });
            put(&world.storage, "", "persistentvolumeclaims", claim).await;
        }
        let projected = json!({ "sources": [{ "configMap": {} }, { "serviceAccountToken": { "path": "t", "audience": "mounted" } }] });
        let volumes = json!([
            { "name": "token", "projected": projected },
            { "name": "inline", "csi": { "driver": "inline" } },
            { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
            { "name": "scratch", "ephemeral": {} },
            { "name": "empty", "emptyDir": {} },
        ]);
        let mut pod = pod(json!({ "nodeName": "n1", "volumes": volumes }));
        pod["metadata"]["uid"] = "u".into();
        put(&world.storage, "", "pods", pod).await;
        let unknown = |audience: &str| {
            format!(
                "serviceaccounts \"robot\" is forbidden: audience {audience:?} not found in pod spec volume, \
                 system:node:n1 is not authorized to request tokens for this audience"
            )
        };
        for (audiences, refused) in [
            (json!(["mounted"]), String::new()),
            (json!(["a"]), String::new()),
            (json!(["b"]), String::new()),
            (json!(["c"]), String::new()),
            (json!(["granted"]), String::new()),
            (json!(["d"]), unknown("d")),
            (json!([]), unknown("")),
            (
                json!(["a", "b"]),
                "serviceaccounts \"robot\" is forbidden: node may only request 0 or 1 audiences".into(),
            ),
        ] {
            let bound = json!({ "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u" });
            let object = json!({ "spec": { "boundObjectRef": bound, "audiences": audiences } });
            let mut request = world.request(Operation::Create, "", "serviceaccounts", object);
            (request.subresource, request.name) = ("token".into(), "robot".into());
            let told = world.run(request).await.err().map_or_else(String::new, |error| error.message);
            assert_eq!(told, refused, "{audiences}");
        }
    });
}
