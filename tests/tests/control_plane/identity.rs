//! Who is who: tokens of every sort, certificates, the front proxy, impersonation.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64_URL};
use coracle_tests::certificates::{certificate_request, request_manifest};
use coracle_tests::{Kubectl, Parts, Section, eventually, sections, wait_until};
use serde_json::Value;

use crate::kubectl::{each, has};

pub const SECTIONS: &[Section<Parts>] = sections![
    a_machine_joins_with_a_bootstrap_token,
    an_account_is_known_by_its_token_for_as_long_as_that_holds,
    credentials_that_are_no_good_are_unauthorized,
    users_stand_in_for_others_if_they_may,
    a_front_proxy_speaks_for_its_users_and_nobody_else_does,
];

/// The newest kubectl with these credentials.
fn with(parts: &Parts, name: &str, credentials: &str) -> Kubectl {
    parts.kubeconfig_of(name, credentials, "default");
    parts.kubectl(name)
}

const UNAUTHORIZED: &str = "You must be logged in to the server";

fn a_machine_joins_with_a_bootstrap_token(parts: &Parts) {
    let admin = parts.kubectl("admin");
    let token = |expiration: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\ntype: bootstrap.kubernetes.io/token\n\
             metadata: {{name: bootstrap-token-abcdef, namespace: kube-system}}\n\
             stringData: {{token-id: abcdef, token-secret: 0123456789abcdef, expiration: '{expiration}', \
             usage-bootstrap-authentication: 'true', \
             auth-extra-groups: 'system:bootstrappers:kubeadm:default-node-token'}}\n"
        )
    };
    let joiner = with(parts, "joiner", "token: abcdef.0123456789abcdef");
    joiner.run("auth whoami").fails(UNAUTHORIZED);
    admin.apply(&token("2100-01-01T00:00:00Z"));
    has(&joiner.ok("auth whoami"), &["system:bootstrap:abcdef", "system:bootstrappers:kubeadm:default-node-token"]);
    for (line, what) in [
        ("get pods", "list resource \"pods\""),
        ("get secrets -n kube-system", "list resource \"secrets\""),
        ("create namespace x", "create resource \"namespaces\""),
        ("delete csr none", "delete resource \"certificatesigningrequests\""),
    ] {
        joiner.run(line).fails(&format!("User \"system:bootstrap:abcdef\" cannot {what}"));
    }

    let (request, key) = certificate_request("system:node:joiner", "system:nodes");
    let request = request_manifest("joiner", &request, "kube-apiserver-client-kubelet");
    joiner.run_with("create -f -", &request).ok();
    let certificate = wait_until("it is approved and signed", 20, || {
        Some(joiner.field("csr joiner", "{.status.certificate}")).filter(|certificate| !certificate.is_empty())
    });
    has(&admin.ok("get csr joiner"), &["system:bootstrap:abcdef", "Approved,Issued"]);
    let key = BASE64_STANDARD.encode(key.serialize_pem());
    let node = with(parts, "joined", &format!("client-certificate-data: {certificate}, client-key-data: {key}"));
    has(&node.ok("auth whoami"), &["system:node:joiner", "system:nodes", "X509SHA256="]);
    node.run("get node joiner").fails("nodes \"joiner\" not found");
    node.run("get node a").fails("User \"system:node:joiner\" cannot get resource \"nodes\"");

    admin.apply(&token("2000-01-01T00:00:00Z"));
    joiner.run("auth whoami").fails(UNAUTHORIZED);
    // The token cleaner takes what is over.
    eventually("the Secret is gone", 20, || {
        admin.run("get secret bootstrap-token-abcdef -n kube-system").stderr.contains("not found")
    });
    admin.ok("delete csr joiner");
}

fn an_account_is_known_by_its_token_for_as_long_as_that_holds(parts: &Parts) {
    each(parts, "accounts", |kubectl, namespace| {
        kubectl.ok("create serviceaccount robot");
        kubectl.ok(r#"run body --image=serve:1 --overrides='{"spec":{"serviceAccountName":"robot"}}'"#);
        let token = |line: &str| kubectl.ok(&format!("create token robot {line}")).trim().to_owned();
        let robot = |token: &str| with(parts, "robot", &format!("token: {token}")).run("auth whoami");
        let user = format!("system:serviceaccount:{namespace}:robot");
        has(&robot(&token("--duration=10m")).ok(), &[&user, "system:serviceaccounts"]);
        robot(&token("--audience=elsewhere")).fails(UNAUTHORIZED);
        let bound = token("--bound-object-kind=Pod --bound-object-name=body");
        has(&robot(&bound).ok(), &["authentication.kubernetes.io/pod-name", "body"]);

        let review = |token: &str| {
            let manifest =
                format!("apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nspec: {{token: {token}}}\n");
            kubectl
                .run_with("create -f - -o jsonpath='{.status.authenticated} {.status.user.username}'", &manifest)
                .ok()
        };
        assert_eq!(review(&bound), format!("true {user}"));
        kubectl.ok("delete pod body --now");
        robot(&bound).fails(UNAUTHORIZED);
        assert!(!review(&bound).contains("true"));
        let last = token("");
        kubectl.ok("delete serviceaccount robot");
        robot(&last).fails(UNAUTHORIZED);

        let discovery = kubectl.ok("get --raw /.well-known/openid-configuration");
        let discovery: Value = serde_json::from_str(&discovery).expect("JSON");
        assert!(discovery["jwks_uri"].as_str().is_some_and(|uri| uri.ends_with("/openid/v1/jwks")), "{discovery}");
        has(&kubectl.ok("get --raw /openid/v1/jwks"), &["\"kty\"", "\"kid\""]);
    });
}

fn credentials_that_are_no_good_are_unauthorized(parts: &Parts) {
    let admin = parts.kubectl("admin");
    admin.ok("create serviceaccount forged");
    let token = admin.ok("create token forged").trim().to_owned();
    let [header, claims, signature]: [&str; 3] = token.split('.').collect::<Vec<_>>().try_into().expect("a JWT");
    let unsigned = base64_url(r#"{"alg":"none","typ":"JWT"}"#);
    let text = String::from_utf8(BASE64_URL.decode(claims).expect("base64")).expect("text");
    let renamed = base64_url(&text.replace("forged", "master"));
    let long = "x".repeat(100_000);
    for token in [
        "nonsense",
        "a.b.c",
        "..",
        "abcdef.0123456789abcdef",
        &long,
        &format!("{header}.{renamed}.{signature}"),
        &format!("{header}.{claims}."),
        &format!("{unsigned}.{claims}."),
        &format!("{unsigned}.{claims}.{signature}"),
    ] {
        let answer = parts.connect(None).get("/api", &format!("Authorization: Bearer {token}\r\n"));
        assert_eq!(answer.status, 401, "{token}");
        has(&answer.body, &["\"kind\":\"Status\"", "\"reason\":\"Unauthorized\"", "\"code\":401"]);
    }
    let basic = parts.connect(None).get("/api", "Authorization: Basic YWRhOmFkYQ==\r\n");
    assert_eq!(basic.status, 403, "who shows nothing that is known here is anonymous: {}", basic.body);
    admin.ok("delete serviceaccount forged");

    // Nor is a certificate of an authority that nobody knows.
    let made = rcgen::generate_simple_self_signed(Vec::new()).expect("a certificate");
    let encoded = [made.cert.pem(), made.signing_key.serialize_pem()].map(|pem| BASE64_STANDARD.encode(pem));
    let credentials = format!("client-certificate-data: {}, client-key-data: {}", encoded[0], encoded[1]);
    with(parts, "foreign", &credentials).run("auth whoami").fails(UNAUTHORIZED);
}

fn base64_url(text: &str) -> String {
    BASE64_URL.encode(text)
}

fn users_stand_in_for_others_if_they_may(parts: &Parts) {
    let (admin, visitor) = (parts.kubectl("admin"), parts.kubectl("visitor"));
    let eve = admin.ok("auth whoami --as=eve --as-group=dev --as-uid=7 -o json");
    let eve: Value = serde_json::from_str(&eve).expect("JSON");
    let user = &eve["status"]["userInfo"];
    assert_eq!((&user["username"], &user["uid"]), (&"eve".into(), &"7".into()));
    assert_eq!(user["groups"], serde_json::json!(["dev", "system:authenticated"]));
    visitor
        .run("get pods --as=ada")
        .fails("users \"ada\" is forbidden: User \"vera\" cannot impersonate resource \"users\" in API group \"\"");
    admin.ok("create clusterrole stand-in --verb=impersonate --resource=users --resource-name=eve");
    admin.ok("create clusterrolebinding stand-in --clusterrole=stand-in --user=vera");
    visitor.run("get pods --as=eve").fails("User \"eve\" cannot list resource \"pods\"");
    visitor.run("get pods --as=eve --as-group=system:masters").fails("groups \"system:masters\" is forbidden");
    admin.ok("delete clusterrole,clusterrolebinding stand-in");
}

fn a_front_proxy_speaks_for_its_users_and_nobody_else_does(parts: &Parts) {
    let pods = "/api/v1/namespaces/default/pods";
    let (eve, master) = ("X-Remote-User: eve\r\n", "X-Remote-User: eve\r\nX-Remote-Group: system:masters\r\n");
    let proxy = Some("front-proxy-client");
    for (certificate, headers, code, said) in [
        (proxy, eve, 403, "User \\\"eve\\\" cannot list resource"),
        (proxy, master, 200, "\"kind\":\"PodList\""),
        (proxy, "", 401, "Unauthorized"),
        (None, master, 403, "User \\\"system:anonymous\\\" cannot list resource"),
        (Some("kube-proxy"), master, 403, "User \\\"system:kube-proxy\\\" cannot list resource"),
    ] {
        let answer = parts.connect(certificate).get(pods, headers);
        assert_eq!(answer.status, code, "{certificate:?} {headers:?}: {}", answer.body);
        has(&answer.body, &[said]);
    }
}
