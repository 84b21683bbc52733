//! ServiceAccount tokens: how a program in a pod says who it is.
//!
//! A token is a signed statement (see [`super::jwt`]) that its bearer is a ServiceAccount, for an audience,
//! until a time, and as long as the ServiceAccount and the object it is bound to (mostly a pod) exist.
//! Nothing is stored when one is issued; verifying one looks at the objects it names.
//!
//! Issued by `create serviceaccounts/token` (a TokenRequest), mostly for kubelets, which mount it into pods.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_api::{ApiError, ApiResult, FieldErrors};
use coracle_client::delegated::bearer_token;
use http::request::Parts;
use serde_json::{Value, json};

use super::jwt::TokenKey;
use crate::hooks::{Authenticator, UserInfo, VirtualResource};
use crate::rbac::node_of;
use crate::request_info::RequestInfo;
use crate::storage::Storage;
use crate::storage::table::suffix;

/// Who issues the tokens of this cluster, and the audience of those meant for the API server.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The shortest and the longest life of a token, in seconds (upstream: 10 minutes, 2^32).
const LIFE_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;
/// Who issues the tokens that are kept in Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// When such a token was last used, and since when it is not to be, as labels of its Secret.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const DEFAULT_LIFE_SECONDS: i64 = 3600;
/// Objects that are being deleted keep their tokens good for so long after their time is over.
const LEEWAY_SECONDS: i64 = 60;

/// Issues and verifies ServiceAccount tokens.
#[derive(Debug)]
pub struct ServiceAccountTokens {
    key: TokenKey,
    storage: Arc<Storage>,
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// `name` and `uid` of an object, as claims hold them.
fn reference(object: &Value) -> Value {
    json!({ "name": object["metadata"]["name"], "uid": object["metadata"]["uid"] })
}

/// Whether the object is gone, or has been on its way for longer than the leeway.
fn over(object: &Value, now: i64) -> bool {
    let deleted = text(object, "/metadata/deletionTimestamp");
    deleted.parse::<jiff::Timestamp>().is_ok_and(|at| at.as_second() + LEEWAY_SECONDS < now)
}

impl ServiceAccountTokens {
    /// With the cluster's key, for the ServiceAccounts in `storage`.
    pub fn new(key: TokenKey, storage: Arc<Storage>) -> Arc<Self> {
        Arc::new(ServiceAccountTokens { key, storage })
    }

    /// `/openid/v1/jwks`: the public keys that verify tokens.
    pub fn jwks(&self) -> Value {
        self.key.jwks()
    }

    /// `/.well-known/openid-configuration`: where to find the keys.
    pub fn openid_configuration(&self) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The user a token speaks for and which of `audiences` it was made for. The error says why it is no good.
    pub async fn verify(&self, token: &str, audiences: &[&str]) -> Result<(UserInfo, Vec<String>), String> {
        let claims = self.key.verify(token).map_err(|e| e.to_string())?;
        let now = coracle_clock::now().as_second();
        if text(&claims, "/iss") == LEGACY_ISSUER {
            return self.legacy(token, &claims, audiences, now).await;
        }
        if text(&claims, "/iss") != ISSUER {
            return Err("the token's issuer is somebody else".into());
        }
        if claims["exp"].as_i64().is_none_or(|expires| expires <= now) {
            return Err("service account token has expired".into());
        }
        if claims["nbf"].as_i64().is_some_and(|from| from > now + LEEWAY_SECONDS) {
            return Err("service account token is not valid yet".into());
        }
        let meant_for: Vec<&str> = claims["aud"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let common: Vec<String> = audiences.iter().filter(|a| meant_for.contains(a)).map(|a| (*a).to_owned()).collect();
        if common.is_empty() {
            return Err(format!("token audiences {meant_for:?} is invalid for the target audiences {audiences:?}"));
        }
        self.user(&claims["kubernetes.io"], text(&claims, "/jti"), now).await.map(|user| (user, common))
    }

    /// A token that is kept in a Secret: good as long as the Secret holds it and the ServiceAccount is the same.
    async fn legacy(
        &self,
        token: &str,
        claims: &Value,
        audiences: &[&str],
        now: i64,
    ) -> Result<(UserInfo, Vec<String>), String> {
        let claim = |key: &str| claims[format!("kubernetes.io/serviceaccount/{key}")].as_str().unwrap_or_default();
        let (namespace, account) = (claim("namespace"), claim("service-account.name"));
        let (uid, secret) = (claim("service-account.uid"), claim("secret.name"));
        if text(claims, "/sub") != format!("system:serviceaccount:{namespace}:{account}") {
            return Err("sub claim is invalid".into());
        }
        if !audiences.contains(&ISSUER) {
            return Err(format!("token audiences {:?} is invalid for the target audiences {audiences:?}", [ISSUER]));
        }
        let held = self.storage.get("", "secrets", namespace, secret).await.map_err(|e| e.message)?;
        let held = held.filter(|held| held["metadata"]["deletionTimestamp"].is_null());
        let held = held.ok_or("service account token has been invalidated")?;
        let bytes = BASE64_STANDARD.decode(text(&held, "/data/token")).unwrap_or_default();
        if bytes != token.as_bytes() {
            return Err("service account token has been invalidated".into());
        }
        self.still_there("serviceaccounts", namespace, &json!({ "name": account, "uid": uid }), now).await?;
        if held["metadata"]["labels"][INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty()) {
            return Err(format!(
                "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked \
                 invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            ));
        }
        self.note_use(namespace, secret, held).await;
        Ok((service_account_user(namespace, account, uid), vec![ISSUER.to_owned()]))
    }

    /// Writes down on which day a token was used, for those that nobody uses are cleaned away in the end. Should that
    /// fail, the next use will do.
    async fn note_use(&self, namespace: &str, name: &str, mut secret: Value) {
        let today = coracle_clock::today();
        if secret["metadata"]["labels"][LAST_USED] == today {
            return;
        }
        let version = text(&secret, "/metadata/resourceVersion").parse().unwrap_or_default();
        secret["metadata"]["labels"][LAST_USED] = today.into();
        if let Some(row) = self.storage.table().find_any("", "secrets") {
            let written = self.storage.put(&row.key(namespace, name), version, &secret, 0).await;
            tracing::debug!(namespace, name, noted = written.is_ok_and(|written| written.is_ok()), "a token was used");
        }
    }

    async fn user(&self, claims: &Value, id: &str, now: i64) -> Result<UserInfo, String> {
        let namespace = text(claims, "/namespace");
        let name = text(claims, "/serviceaccount/name");
        self.still_there("serviceaccounts", namespace, &claims["serviceaccount"], now).await?;
        let mut user = service_account_user(namespace, name, text(claims, "/serviceaccount/uid"));
        let mut extra = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        extra("credential-id", &format!("JTI={id}"));
        if claims["pod"].is_object() {
            self.still_there("pods", namespace, &claims["pod"], now).await?;
            extra("pod-name", text(claims, "/pod/name"));
            extra("pod-uid", text(claims, "/pod/uid"));
        }
        if claims["secret"].is_object() {
            self.still_there("secrets", namespace, &claims["secret"], now).await?;
        }
        if claims["node"].is_object() {
            // A token bound to the node itself dies with it; one bound to a pod only tells where it ran.
            if !claims["pod"].is_object() {
                self.still_there("nodes", "", &claims["node"], now).await?;
            }
            extra("node-name", text(claims, "/node/name"));
            extra("node-uid", text(claims, "/node/uid"));
        }
        Ok(user)
    }

    async fn still_there(&self, plural: &str, namespace: &str, claim: &Value, now: i64) -> Result<(), String> {
        let name = text(claim, "/name");
        let good = |object: &Value| object["metadata"]["uid"] == claim["uid"] && !over(object, now);
        // The cache may be a moment behind: it is asked first, and only its no is checked.
        let table = self.storage.table();
        let row = table.find_any("", plural).ok_or("no such resource")?;
        if row.cache.get(&suffix(namespace, name)).is_some_and(|entry| good(&entry.parse())) {
            return Ok(());
        }
        match self.storage.get("", plural, namespace, name).await.map_err(|e| e.message)? {
            Some(object) if good(&object) => Ok(()),
            _ => Err(format!("service account token has been invalidated: {plural} {name:?} is gone")),
        }
    }

    /// The object a token is to be bound to, and the claims that say so.
    async fn bind(&self, namespace: &str, account: &str, bound: &Value, user: &UserInfo) -> ApiResult<Value> {
        let (kind, name) = (text(bound, "/kind"), text(bound, "/name"));
        let (plural, scope) = match (text(bound, "/apiVersion"), kind) {
            ("v1" | "", "Pod") => ("pods", namespace),
            ("v1" | "", "Secret") => ("secrets", namespace),
            ("v1" | "", "Node") => ("nodes", ""),
            (version, kind) => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to object of type {version}, Kind={kind}"
                )));
            }
        };
        let object = self.storage.get("", plural, scope, name).await?;
        let object = object.ok_or_else(|| ApiError::not_found("", plural, name))?;
        let uid = text(bound, "/uid");
        if !uid.is_empty() && object["metadata"]["uid"] != uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict("", plural, name, why));
        }
        let mut claims = json!({ kind.to_lowercase(): reference(&object) });
        if plural == "pods" {
            if object["spec"]["serviceAccountName"] != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            let node = text(&object, "/spec/nodeName");
            if node_of(user).is_some_and(|asking| asking != node) {
                let why = "node requested token bound to a pod scheduled on a different node";
                return Err(ApiError::forbidden("", "serviceaccounts", account, why));
            }
            if let Some(node) = self.storage.get("", "nodes", "", node).await? {
                claims["node"] = reference(&node);
            }
        }
        Ok(claims)
    }

    /// Answers a TokenRequest for a ServiceAccount.
    pub async fn issue(&self, namespace: &str, name: &str, user: &UserInfo, mut request: Value) -> ApiResult<Value> {
        let spec = &request["spec"];
        let life = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_LIFE_SECONDS);
        let mut errors = FieldErrors::default();
        if life < *LIFE_SECONDS.start() {
            errors.invalid("spec.expirationSeconds", life, "may not specify a duration less than 10 minutes");
        }
        if life > *LIFE_SECONDS.end() {
            errors.invalid("spec.expirationSeconds", life, "may not specify a duration larger than 2^32 seconds");
        }
        if !errors.0.is_empty() {
            return Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", "", &errors.0));
        }
        let account = self.storage.get("", "serviceaccounts", namespace, name).await?;
        let account = account.ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
        let mut private = json!({ "namespace": namespace, "serviceaccount": reference(&account) });
        if spec["boundObjectRef"].is_object() {
            let bound = self.bind(namespace, name, &spec["boundObjectRef"], user).await?;
            for (key, value) in bound.as_object().into_iter().flatten() {
                private[key] = value.clone();
            }
        } else if node_of(user).is_some() {
            let why = "node requested token not bound to a pod";
            return Err(ApiError::forbidden("", "serviceaccounts", name, why));
        }
        let audiences = match spec["audiences"].as_array() {
            Some(list) if !list.is_empty() => list.clone(),
            _ => vec![ISSUER.into()],
        };
        let now = coracle_clock::now_seconds();
        let expires = now + std::time::Duration::from_secs(life.unsigned_abs());
        let claims = json!({
            "aud": audiences,
            "exp": expires.as_second(),
            "iat": now.as_second(),
            "nbf": now.as_second(),
            "iss": ISSUER,
            "jti": coracle_clock::uuid(),
            "kubernetes.io": private,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        });
        let token = self.key.sign(&claims).map_err(ApiError::internal)?;
        request["kind"] = "TokenRequest".into();
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["metadata"]["name"] = name.into();
        request["metadata"]["namespace"] = namespace.into();
        request["metadata"]["creationTimestamp"] = now.to_string().into();
        request["spec"]["audiences"] = audiences.into();
        request["spec"]["expirationSeconds"] = life.into();
        request["status"] = json!({ "token": token, "expirationTimestamp": expires.to_string() });
        Ok(request)
    }
}

/// The user a ServiceAccount is.
pub fn service_account_user(namespace: &str, name: &str, uid: &str) -> UserInfo {
    UserInfo {
        uid: uid.to_owned(),
        ..UserInfo::new(
            format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        )
    }
}

/// The last authenticator: a bearer token that it does not know either is refused, not anonymous.
#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(&self, parts: &Parts) -> Option<ApiResult<UserInfo>> {
        let token = bearer_token(&parts.headers)?;
        Some(match self.verify(token, &[ISSUER]).await {
            Ok((user, _)) => Ok(user),
            Err(why) => {
                tracing::debug!(why, "a bearer token was refused");
                Err(ApiError::unauthorized())
            }
        })
    }
}

#[async_trait]
impl VirtualResource for ServiceAccountTokens {
    async fn create(&self, info: &RequestInfo, user: &UserInfo, object: Value) -> ApiResult<Value> {
        self.issue(&info.namespace, &info.name, user, object).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{in_simulation, put, storage};

    async fn cluster() -> (Arc<Storage>, Arc<ServiceAccountTokens>) {
        let storage = storage().await;
        let account = json!({ "metadata": { "name": "robot", "namespace": "default", "uid": "u1" } });
        put(&storage, "", "serviceaccounts", account).await;
        let pod = json!({ "metadata": { "name": "web", "namespace": "default", "uid": "u2" },
            "spec": { "serviceAccountName": "robot", "nodeName": "n1" } });
        put(&storage, "", "pods", pod).await;
        (storage.clone(), ServiceAccountTokens::new(TokenKey::generate().unwrap(), storage))
    }

    fn request(life: i64) -> Value {
        json!({ "spec": { "expirationSeconds": life, "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "web" } } })
    }

    #[test]
    fn a_token_speaks_for_its_service_account_until_it_expires() {
        in_simulation(async || {
            let (_, tokens) = cluster().await;
            let answer = tokens.issue("default", "robot", &UserInfo::default(), request(3607)).await.unwrap();
            assert_eq!(answer["status"]["expirationTimestamp"], "2026-01-01T01:00:07Z");
            let token = text(&answer, "/status/token").to_owned();
            let (user, _) = tokens.verify(&token, &[ISSUER]).await.unwrap();
            assert_eq!(user.name, "system:serviceaccount:default:robot");
            assert_eq!(user.uid, "u1");
            assert_eq!(
                user.groups,
                ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
            );
            assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web"]);
            assert!(tokens.verify(&token, &["somebody-else"]).await.unwrap_err().contains("invalid for the target"));
            coracle_clock::sleep(Duration::from_secs(3608)).await;
            assert_eq!(tokens.verify(&token, &[ISSUER]).await.unwrap_err(), "service account token has expired");
        });
    }

    #[test]
    fn a_use_of_a_token_in_a_secret_is_noted_and_one_marked_invalid_is_refused() {
        in_simulation(async || {
            let (storage, tokens) = cluster().await;
            let mut claims = json!({ "iss": LEGACY_ISSUER, "sub": "system:serviceaccount:default:robot" });
            for (key, value) in [
                ("namespace", "default"),
                ("secret.name", "robot-token"),
                ("service-account.name", "robot"),
                ("service-account.uid", "u1"),
            ] {
                claims[format!("kubernetes.io/serviceaccount/{key}")] = value.into();
            }
            let token = tokens.key.sign(&claims).unwrap();
            let secret = |labels: Value| {
                let meta = json!({ "name": "robot-token", "namespace": "default", "uid": "u4", "labels": labels });
                json!({ "metadata": meta, "data": { "token": BASE64_STANDARD.encode(&token) } })
            };
            put(&storage, "", "secrets", secret(json!({}))).await;
            tokens.verify(&token, &[ISSUER]).await.unwrap();
            storage.fresh().await.unwrap();
            let noted = storage.get("", "secrets", "default", "robot-token").await.unwrap().unwrap();
            assert_eq!(noted["metadata"]["labels"], json!({ LAST_USED: "2026-01-01" }));
            put(&storage, "", "secrets", secret(json!({ INVALID_SINCE: "2026-01-01" }))).await;
            let error = tokens.verify(&token, &[ISSUER]).await.unwrap_err();
            assert!(error.contains("for service account default/robot has been marked invalid"), "{error}");
        });
    }

    #[test]
    fn a_token_dies_with_the_pod_it_is_bound_to() {
        in_simulation(async || {
            let (storage, tokens) = cluster().await;
            let answer = tokens.issue("default", "robot", &UserInfo::default(), request(3607)).await.unwrap();
            let reborn = json!({ "metadata": { "name": "web", "namespace": "default", "uid": "u3" },
                "spec": { "serviceAccountName": "robot" } });
            put(&storage, "", "pods", reborn).await;
            let error = tokens.verify(text(&answer, "/status/token"), &[ISSUER]).await.unwrap_err();
            assert!(error.contains("pods \"web\" is gone"), "{error}");
        });
    }

    #[test]
    fn a_node_gets_tokens_for_its_own_pods_only() {
        in_simulation(async || {
            let (_, tokens) = cluster().await;
            let node = |name: &str| UserInfo::new(format!("system:node:{name}"), &["system:nodes"]);
            assert!(tokens.issue("default", "robot", &node("n1"), request(600)).await.is_ok());
            let error = tokens.issue("default", "robot", &node("n2"), request(600)).await.unwrap_err();
            assert!(error.message.ends_with("node requested token bound to a pod scheduled on a different node"));
            let error = tokens.issue("default", "robot", &node("n1"), json!({})).await.unwrap_err();
            assert!(error.message.ends_with("node requested token not bound to a pod"));
        });
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused() {
        in_simulation(async || {
            let (_, tokens) = cluster().await;
            let error = tokens.issue("default", "robot", &UserInfo::default(), request(60)).await.unwrap_err();
            assert!(error.message.contains("may not specify a duration less than 10 minutes"), "{error}");
            let error = tokens.issue("default", "nobody", &UserInfo::default(), request(600)).await.unwrap_err();
            assert_eq!(error.message, "serviceaccounts \"nobody\" not found");
        });
    }
}
