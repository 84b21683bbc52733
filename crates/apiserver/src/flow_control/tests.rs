use super::*;
use crate::testing::{in_simulation, storage};

fn request(verb: &str, path: &str) -> RequestInfo {
    let method = match verb {
        "create" => "POST",
        "update" => "PUT",
        _ => "GET",
    };
    RequestInfo::parse(&method.parse().unwrap(), &path.parse().unwrap())
}

async fn control(total: u32) -> Arc<FlowControl> {
    let storage = storage().await;
    bootstrap::maintain(&storage).await.unwrap();
    FlowControl::new(storage, total)
}

#[test]
fn requests_belong_to_the_first_schema_that_matches() {
    in_simulation(async || {
        let control = control(600).await;
        let table = [
            ("admin", "system:masters", "get", "/api/v1/nodes", "exempt"),
            ("nobody", "system:unauthenticated", "get", "/healthz", "probes"),
            ("system:node:a", "system:nodes", "update", "/api/v1/nodes/a/status", "system-node-high"),
            ("system:node:a", "system:nodes", "get", "/api/v1/pods", "system-nodes"),
            (
                "system:kube-scheduler",
                "",
                "update",
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
                "system-leader-election",
            ),
            ("system:kube-scheduler", "", "get", "/api/v1/pods", "kube-scheduler"),
            ("system:serviceaccount:kube-system:x", "", "get", "/api/v1/pods", "kube-system-service-accounts"),
            ("system:serviceaccount:d:x", "system:serviceaccounts", "get", "/api/v1/pods", "service-accounts"),
            ("alice", "dev", "get", "/api/v1/pods", "global-default"),
        ];
        for (user, group, verb, path, expected) in table {
            let pass = control.admit(&UserInfo::new(user, &[group]), &request(verb, path)).await.unwrap().unwrap();
            assert_eq!(pass.schema.name, expected, "{user} {verb} {path}");
            let mut headers = HeaderMap::new();
            pass.mark(&mut headers);
            assert_eq!(headers.len(), 2);
        }
    });
}

#[test]
fn who_finds_no_seat_waits_for_one_and_is_told_so_after_a_while() {
    in_simulation(async || {
        let control = control(1).await;
        let (alice, get) = (UserInfo::new("alice", &[]), request("get", "/api/v1/pods"));
        let first = control.admit(&alice, &get).await.unwrap();
        let started = coracle_clock::instant();
        let error = control.admit(&alice, &get).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (429, TOO_MANY));
        assert_eq!(started.elapsed(), WAIT);
        let waits = tokio::spawn({
            let (control, alice, get) = (control.clone(), alice.clone(), get.clone());
            async move { control.admit(&alice, &get).await }
        });
        coracle_clock::sleep(Duration::from_secs(1)).await;
        drop(first);
        let second = waits.await.unwrap().unwrap();
        assert!(second.is_some());
        // Exempt requests need no seat, and lasting ones take none.
        assert!(control.admit(&UserInfo::new("a", &["system:masters"]), &get).await.is_ok());
        let log = request("get", "/api/v1/namespaces/d/pods/p/log");
        assert!(control.admit(&alice, &log).await.is_ok());
        let mut text = String::new();
        control.metrics(&mut text);
        let line = "rejected_requests_total{flow_schema=\"global-default\",priority_level=\"global-default\",\
                    reason=\"time-out\"} 1";
        assert!(text.contains(line), "{text}");
    });
}

#[test]
fn a_client_that_leaves_the_queue_takes_no_seat() {
    in_simulation(async || {
        let control = control(1).await;
        let (alice, get) = (UserInfo::new("alice", &[]), request("get", "/api/v1/pods"));
        let first = control.admit(&alice, &get).await.unwrap();
        let hasty = coracle_clock::timeout(Duration::from_secs(1), control.admit(&alice, &get)).await;
        assert!(hasty.is_err());
        drop(first);
        let second = coracle_clock::timeout(Duration::from_secs(1), control.admit(&alice, &get)).await;
        assert!(second.unwrap().unwrap().is_some());
    });
}
