use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn ensure(dir: &Path) -> Pki {
    Pki::ensure(dir, &["workshop".into()], &[IpAddr::from([192, 168, 1, 7])]).unwrap()
}

fn facts(pair: &CertKey) -> (String, BTreeSet<String>, BTreeSet<String>) {
    let der = pair.certs().unwrap().remove(0);
    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    let (user, groups) = subject(cert.subject());
    (user, groups.into_iter().collect(), alternative_names(&cert))
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn a_component_is_its_client_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ensure(dir.path());
    for (pair, (_, user, group)) in pki.clients.iter().zip(CLIENTS) {
        let (name, organizations, _) = facts(pair);
        assert_eq!((name.as_str(), organizations), (user, set(group.as_slice())));
    }
    assert_eq!(facts(pki.admin()).0, "kubernetes-admin");
    assert_eq!(facts(pki.kubelet_client()).0, "kube-apiserver-kubelet-client");
    let node = pki.node("coracle-1", &[IpAddr::from([10, 244, 1, 1])]).unwrap();
    assert_eq!(
        facts(&node),
        ("system:node:coracle-1".into(), set(&["system:nodes"]), set(&["coracle-1", "10.244.1.1"]))
    );
}

#[test]
fn the_server_certificate_carries_every_name_the_api_server_is_reached_by() {
    let dir = tempfile::tempdir().unwrap();
    let (_, _, names) = facts(ensure(dir.path()).server());
    for name in ["kubernetes.default.svc", "localhost", "workshop", "127.0.0.1", "::1", "10.96.0.1", "192.168.1.7"] {
        assert!(names.contains(name), "{name} is missing in {names:?}");
    }
}

/// The files of the authorities, of the cluster's and of etcd's.
fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let list = |dir: &Path| fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let all = [list(dir), list(&dir.join("etcd"))].concat();
    assert!(all.len() > 20, "{all:?}");
    all.into_iter().filter(|path| path.is_file())
}

#[test]
fn a_second_start_keeps_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot =
        || files(dir.path()).map(|p| (p.clone(), fs::read_to_string(p).unwrap())).collect::<BTreeMap<_, _>>();
    ensure(dir.path()).node("coracle-1", &[]).unwrap();
    let first = snapshot();
    ensure(dir.path()).node("coracle-1", &[]).unwrap();
    assert!(first == snapshot());
}

#[test]
fn private_keys_are_readable_by_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    ensure(dir.path());
    for key in files(dir.path()).filter(|path| path.extension().is_some_and(|e| e == "key")) {
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{key:?}");
    }
}

#[test]
fn a_missing_name_has_the_certificate_issued_anew() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ensure(dir.path());
    let first = pki.node("coracle-1", &[]).unwrap();
    let second = pki.node("coracle-1", &[IpAddr::from([10, 244, 1, 1])]).unwrap();
    assert_ne!(first.cert_pem, second.cert_pem);
    assert_eq!(second.cert_pem, pki.node("coracle-1", &[]).unwrap().cert_pem, "an extra name does no harm");
}

#[test]
fn an_old_certificate_is_issued_anew_and_the_authority_stays() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let _world = coracle_clock::Simulation::start(1);
        let before = ensure(dir.path());
        coracle_clock::sleep(Duration::from_secs(340 * 86_400)).await;
        let after = ensure(dir.path());
        assert_eq!(before.ca_pem(), after.ca_pem());
        assert_ne!(before.admin().cert_pem, after.admin().cert_pem);
    });
}

#[test]
fn another_authority_has_everything_issued_anew() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let before = ensure(dir.path());
    ensure(other.path());
    for file in ["ca.crt", "ca.key"] {
        fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
    }
    assert_ne!(before.server().cert_pem, ensure(dir.path()).server().cert_pem);
}

#[test]
fn a_lost_authority_key_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    ensure(dir.path());
    fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = Pki::ensure(dir.path(), &[], &[]).unwrap_err().to_string();
    assert!(error.contains("ca.key does not: restore it"), "{error}");
}

#[test]
fn a_kubeconfig_is_yaml_that_names_cluster_context_and_user_coracle() {
    let dir = tempfile::tempdir().unwrap();
    let pki = ensure(dir.path());
    let text = pki.kubeconfig("https://127.0.0.1:6443", pki.admin());
    let config: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(config["current-context"], "coracle");
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    assert_eq!(config["contexts"][0]["context"]["user"], config["users"][0]["name"]);
}
