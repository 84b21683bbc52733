use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base64::Engine;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SelfSubjectRulesReview,
    SelfSubjectRulesReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::bootstrap::{self, BootstrapConfig};
use crate::hooks::UserInfo;
use crate::pki::Pki;
use crate::server::ApiServer;
use crate::{serve, testing};

/// A whole API server on a store in memory, with its first objects and a `default` ServiceAccount.
async fn server() -> Arc<ApiServer> {
    server_of(None).await
}

/// One whose users have certificates of this authority.
async fn server_of(client_ca_pem: Option<&str>) -> Arc<ApiServer> {
    let storage = testing::storage().await;
    let service_cidr: Ipv4Cidr = "10.96.0.0/12".parse().unwrap();
    let first = BootstrapConfig {
        advertise_ip: Ipv4Addr::new(10, 244, 0, 1),
        advertise_port: 6443,
        service_cidr,
        client_ca_pem: None,
        request_headers: None,
    };
    bootstrap::ensure(&storage, &first).await.unwrap();
    let mut config = Config::new(storage);
    let mut security = SecurityConfig::new(TokenKey::generate().unwrap(), service_cidr);
    security.static_tokens = Some(StaticTokens::parse("secret,alice,1,dev").unwrap());
    security.apply(&mut config, client_ca_pem).unwrap();
    let server = ApiServer::new(config);
    let accounts: Api<ServiceAccount> = Api::default_namespaced(admin(&server));
    accounts.create(&PostParams::default(), &object(json!({ "metadata": { "name": "default" } }))).await.unwrap();
    server
}

fn admin(server: &Arc<ApiServer>) -> kube::Client {
    server.client_as(UserInfo::new("kubernetes-admin", &["kubeadm:cluster-admins"]))
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn message<T: std::fmt::Debug>(result: kube::Result<T>) -> String {
    match result.unwrap_err() {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn pod() -> Pod {
    object(json!({ "metadata": { "name": "web" }, "spec": { "containers": [{ "name": "c", "image": "nginx" }] } }))
}

#[tokio::test]
async fn everybody_may_do_what_they_were_given_and_nothing_else() {
    let server = server().await;
    let alice = server.client_as(UserInfo::new("alice", &[]));
    let pods: Api<Pod> = Api::default_namespaced(alice.clone());
    let refused =
        r#"pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert_eq!(message(pods.list(&ListParams::default()).await), refused);
    let nodes: Api<Node> = Api::all(alice);
    assert_eq!(
        message(nodes.get("n1").await),
        r#"nodes "n1" is forbidden: User "alice" cannot get resource "nodes" in API group "" at the cluster scope"#
    );
    let bindings: Api<RoleBinding> = Api::default_namespaced(admin(&server));
    let binding = object(json!({
        "metadata": { "name": "alice" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice" }],
    }));
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    pods.list(&ListParams::default()).await.unwrap();
    assert!(message(pods.create(&PostParams::default(), &pod()).await).contains("cannot create resource"));
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_hold() {
    let server = server().await;
    let bindings: Api<ClusterRoleBinding> = Api::all(admin(&server));
    let roles: Api<ClusterRole> = Api::all(admin(&server));
    let manager = json!({
        "metadata": { "name": "manager" },
        "rules": [{ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["create", "get", "update"] }],
    });
    roles.create(&PostParams::default(), &object(manager)).await.unwrap();
    let binding = |name: &str, role: &str| {
        object::<ClusterRoleBinding>(json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory" }],
        }))
    };
    bindings.create(&PostParams::default(), &binding("m", "manager")).await.unwrap();
    server.config.storage.fresh().await.unwrap();
    let mallory = server.client_as(UserInfo::new("mallory", &[]));
    let own: Api<ClusterRoleBinding> = Api::all(mallory);
    let refusal = message(own.create(&PostParams::default(), &binding("all", "cluster-admin")).await);
    assert!(
        refusal.contains("user \"mallory\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:"),
        "{refusal}"
    );
    own.create(&PostParams::default(), &binding("same", "manager")).await.unwrap();
    let aggregate = json!({ "metadata": { "name": "sum" },
        "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] }, "rules": [] });
    let roles: Api<ClusterRole> = Api::all(server.client_as(UserInfo::new("mallory", &[])));
    let refusal = message(roles.create(&PostParams::default(), &object(aggregate.clone())).await);
    assert!(refusal.ends_with("must have cluster-admin privileges to use the aggregationRule"), "{refusal}");
    let roles: Api<ClusterRole> = Api::all(admin(&server));
    roles.create(&PostParams::default(), &object(aggregate)).await.unwrap();
}

#[tokio::test]
async fn questions_about_users_and_rights_are_answered() {
    let server = server().await;
    let alice = server.client_as(UserInfo::new("alice", &["dev"]));
    let who: Api<SelfSubjectReview> = Api::all(alice.clone());
    let answer = who.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    assert_eq!(answer.status.unwrap().user_info.unwrap().username.as_deref(), Some("alice"));

    let can_i = async |client: kube::Client| {
        let attributes = ResourceAttributes {
            verb: Some("delete".into()),
            resource: Some("pods".into()),
            namespace: Some("default".into()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let api: Api<SelfSubjectAccessReview> = Api::all(client);
        api.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
    };
    assert!(!can_i(alice.clone()).await);
    assert!(can_i(admin(&server)).await);

    let rules: Api<SelfSubjectRulesReview> = Api::all(alice);
    let spec = SelfSubjectRulesReviewSpec { namespace: Some("default".into()) };
    let review = SelfSubjectRulesReview { spec, ..Default::default() };
    let answer = rules.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    assert!(answer.resource_rules.iter().any(|rule| rule.verbs == ["create"]));

    let tokens: Api<TokenReview> = Api::all(admin(&server));
    let spec = TokenReviewSpec { token: "secret".into(), ..Default::default() };
    let review = TokenReview { spec, ..Default::default() };
    let status = tokens.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    assert_eq!(status.authenticated, Some(true));
    assert_eq!(status.user.unwrap().username.as_deref(), Some("alice"));
}

#[tokio::test]
async fn a_pod_a_service_and_a_namespace_are_admitted_and_completed() {
    let server = server().await;
    let pods: Api<Pod> = Api::default_namespaced(admin(&server));
    let spec = pods.create(&PostParams::default(), &pod()).await.unwrap().spec.unwrap();
    assert_eq!(spec.service_account_name.as_deref(), Some("default"));
    assert_eq!(spec.priority, Some(0));
    assert_eq!(spec.tolerations.unwrap().len(), 2);
    assert!(spec.volumes.unwrap()[0].name.starts_with("kube-api-access-"));

    let services: Api<Service> = Api::default_namespaced(admin(&server));
    let service =
        json!({ "metadata": { "name": "web" }, "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] } });
    let spec = services.create(&PostParams::default(), &object(service)).await.unwrap().spec.unwrap();
    assert!(spec.cluster_ip.as_deref().unwrap().starts_with("10."));
    assert!(spec.ports.unwrap()[0].node_port.unwrap() >= 30000);
    let patch = json!({ "spec": { "type": "ClusterIP" } });
    let spec = services.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap().spec.unwrap();
    assert_eq!(spec.ports.unwrap()[0].node_port, None);
    let taken =
        json!({ "metadata": { "name": "two" }, "spec": { "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }] } });
    let refusal = message(services.create(&PostParams::default(), &object(taken)).await);
    assert!(refusal.contains("failed to allocate IP 10.96.0.1: provided IP is already allocated"), "{refusal}");

    let namespaces: Api<Namespace> = Api::all(admin(&server));
    let refusal = message(namespaces.delete("default", &Default::default()).await);
    assert_eq!(refusal, "namespaces \"default\" is forbidden: this namespace may not be deleted");
    let elsewhere: Api<ConfigMap> = Api::namespaced(admin(&server), "nowhere");
    let map = ConfigMap { metadata: ObjectMeta { name: Some("m".into()), ..Default::default() }, ..Default::default() };
    assert_eq!(message(elsewhere.create(&PostParams::default(), &map).await), "namespaces \"nowhere\" not found");
}

#[tokio::test]
async fn a_node_reads_the_secrets_of_its_own_pods_only() {
    let server = server().await;
    let secrets: Api<Secret> = Api::default_namespaced(admin(&server));
    for name in ["mine", "theirs"] {
        secrets.create(&PostParams::default(), &object(json!({ "metadata": { "name": name } }))).await.unwrap();
    }
    let mut bound = pod();
    let spec = json!({ "nodeName": "n1", "containers": [{ "name": "c", "image": "x", "envFrom": [{ "secretRef": { "name": "mine" } }] }] });
    bound.spec = Some(object(spec));
    let pods: Api<Pod> = Api::default_namespaced(admin(&server));
    pods.create(&PostParams::default(), &bound).await.unwrap();
    server.config.storage.fresh().await.unwrap();
    let of_node = |name: &str| -> Api<Secret> {
        Api::default_namespaced(server.client_as(UserInfo::new(format!("system:node:{name}"), &["system:nodes"])))
    };
    of_node("n1").get("mine").await.unwrap();
    let only = |name: &str| ListParams::default().fields(&format!("metadata.name={name}"));
    assert_eq!(of_node("n1").list(&only("mine")).await.unwrap().items.len(), 1);
    assert!(of_node("n1").list(&only("theirs")).await.is_err());
    let refused = r#"secrets "theirs" is forbidden: User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "default""#;
    assert_eq!(message(of_node("n1").get("theirs").await), refused);
    assert!(of_node("n2").get("mine").await.is_err());
}

#[tokio::test]
async fn over_tls_a_certificate_or_a_token_says_who_one_is_and_nothing_makes_one_anonymous() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pki = Pki::ensure(dir.path(), &[], &[]).unwrap();
    let stranger = Pki::ensure(other.path(), &[], &[]).unwrap();
    let server = server_of(Some(pki.ca_pem())).await;
    let listener = serve::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let tls = serve::tls(pki.server(), pki.ca_pem()).unwrap();
    let task = tokio::spawn(serve::serve(listener, tls, server.service(), shutdown.clone()));

    let connect = async |users: Value| {
        let mut kubeconfig: Value = serde_yaml_ng::from_str(&pki.kubeconfig(&url, pki.admin())).unwrap();
        if !users.is_null() {
            kubeconfig["users"][0]["user"] = users;
        }
        let kubeconfig: kube::config::Kubeconfig = serde_json::from_value(kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
        kube::Client::try_from(config).unwrap()
    };
    let whoami = async |client: kube::Client| {
        let api: Api<SelfSubjectReview> = Api::all(client);
        let answer = api.create(&PostParams::default(), &SelfSubjectReview::default()).await;
        answer.map(|review| review.status.unwrap().user_info.unwrap().username.unwrap())
    };
    assert_eq!(whoami(connect(Value::Null).await).await.unwrap(), "kubernetes-admin");

    let accounts: Api<ServiceAccount> = Api::default_namespaced(admin(&server));
    let request =
        accounts.create_token_request("default", &PostParams::default(), &TokenRequest::default()).await.unwrap();
    let token = request.status.unwrap().token;
    assert_eq!(
        whoami(connect(json!({ "token": token })).await).await.unwrap(),
        "system:serviceaccount:default:default"
    );
    assert_eq!(whoami(connect(json!({ "token": "secret" })).await).await.unwrap(), "alice");
    assert_eq!(message(whoami(connect(json!({ "token": "wrong" })).await).await), "Unauthorized");
    let anonymous = connect(json!({})).await;
    assert!(message(whoami(anonymous.clone()).await).contains("User \"system:anonymous\" cannot create resource"));
    anonymous.apiserver_version().await.unwrap();

    // A certificate of another authority is wrong, but whatever else is right counts.
    let base64 = |pem: &str| base64::prelude::BASE64_STANDARD.encode(pem);
    let strange = stranger.admin();
    let mut foreign = json!({
        "client-certificate-data": base64(&strange.cert_pem), "client-key-data": base64(&strange.key_pem),
    });
    assert_eq!(message(whoami(connect(foreign.clone()).await).await), "Unauthorized");
    foreign["token"] = "secret".into();
    assert_eq!(whoami(connect(foreign.clone()).await).await.unwrap(), "alice");
    foreign["token"] = "wrong".into();
    assert_eq!(message(whoami(connect(foreign).await).await), "Unauthorized");

    let kubeconfig = serde_yaml_ng::from_str(&pki.kubeconfig(&url, pki.admin())).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    config.auth_info.impersonate = Some("bob".into());
    let impersonating = kube::Client::try_from(config).unwrap();
    assert_eq!(whoami(impersonating).await.unwrap(), "bob");
    shutdown.cancel();
    task.await.unwrap();
}
