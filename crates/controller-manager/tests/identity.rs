//! The controllers that deal in identities: certificates' authority, tokens, roles.

mod common;

use std::time::Duration;

use common::{Cluster, simulate};
use kube::api::DeleteParams;
use serde_json::json;

const CA: &str = "kube-root-ca.crt";

#[test]
fn service_accounts_should_guarantee_kube_root_ca_crt_exist_in_any_namespace() {
    simulate(async || {
        let cluster = Cluster::start(&["root-ca-cert-publisher"]).await;
        cluster.create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "svcaccounts" } })).await;
        let published =
            async || cluster.get("ConfigMap", "v1", "svcaccounts", CA).await["data"] == json!({ "ca.crt": "the CA" });
        cluster.until("it is published", &published).await;
        cluster.delete("ConfigMap", "v1", "svcaccounts", CA, DeleteParams::default()).await;
        cluster.until("it is published again", &published).await;
        let patch = json!({ "data": { "ca.crt": "", "more": "x" } });
        cluster.merge("ConfigMap", "v1", "svcaccounts", CA, patch).await;
        cluster.until("it is put right", &published).await;
    });
}

#[test]
fn a_secret_that_names_a_service_account_gets_its_token_and_goes_with_it() {
    simulate(async || {
        let cluster = Cluster::start(&["serviceaccount-token"]).await;
        cluster.create(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "robot" } })).await;
        cluster
            .create(json!({ "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
                "metadata": { "name": "t", "annotations": { "kubernetes.io/service-account.name": "robot" } } }))
            .await;
        let secret = async || cluster.get("Secret", "v1", "default", "t").await;
        cluster.until("it is filled", async || secret().await["data"]["token"].is_string()).await;
        let filled = secret().await;
        let account = cluster.get("ServiceAccount", "v1", "default", "robot").await;
        assert_eq!(filled["metadata"]["annotations"]["kubernetes.io/service-account.uid"], account["metadata"]["uid"]);
        assert_eq!(filled["data"]["namespace"], "ZGVmYXVsdA==");
        cluster.delete("ServiceAccount", "v1", "default", "robot", DeleteParams::default()).await;
        cluster.until("it is gone", async || secret().await.is_null()).await;
    });
}

#[test]
fn cluster_info_is_signed_by_bootstrap_tokens_until_they_expire() {
    simulate(async || {
        let cluster = Cluster::start(&["bootstrapsigner", "tokencleaner"]).await;
        cluster
            .create(json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "kubeconfig": "x" },
                "metadata": { "name": "cluster-info", "namespace": "kube-public" } }))
            .await;
        cluster
            .create(json!({ "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
                "metadata": { "name": "bootstrap-token-abcdef", "namespace": "kube-system" },
                "stringData": { "token-id": "abcdef", "token-secret": "0123456789abcdef",
                    "usage-bootstrap-signing": "true", "expiration": "2026-01-01T00:05:00Z" } }))
            .await;
        let signed = async || {
            let info = cluster.get("ConfigMap", "v1", "kube-public", "cluster-info").await;
            info["data"]["jws-kubeconfig-abcdef"].as_str().is_some_and(|signature| signature.contains(".."))
        };
        cluster.until("it is signed", &signed).await;
        coracle_clock::sleep(Duration::from_secs(300)).await;
        cluster.until("the signature is gone", async || !signed().await).await;
        assert!(cluster.get("Secret", "v1", "kube-system", "bootstrap-token-abcdef").await.is_null());
    });
}

#[test]
fn an_aggregating_cluster_role_follows_its_parts() {
    simulate(async || {
        let cluster = Cluster::start(&["clusterrole-aggregation"]).await;
        let rbac = "rbac.authorization.k8s.io/v1";
        let rule = json!({ "verbs": ["get"], "apiGroups": ["example.com"], "resources": ["things"] });
        cluster
            .create(json!({ "apiVersion": rbac, "kind": "ClusterRole", "rules": [rule],
                "metadata": { "name": "things", "labels": { "rbac.authorization.k8s.io/aggregate-to-view": "true" } } }))
            .await;
        for role in ["view", "edit", "admin"] {
            let has = async |wanted: bool| {
                let rules = cluster.get("ClusterRole", rbac, "", role).await["rules"].as_array().cloned();
                rules.unwrap_or_default().contains(&rule) == wanted
            };
            cluster.until("the rule is there", async || has(true).await).await;
        }
        cluster.delete("ClusterRole", rbac, "", "things", DeleteParams::default()).await;
        cluster
            .until("the rule is gone", async || {
                let view = cluster.get("ClusterRole", rbac, "", "view").await;
                view["rules"].as_array().is_some_and(|rules| !rules.contains(&rule))
            })
            .await;
    });
}
