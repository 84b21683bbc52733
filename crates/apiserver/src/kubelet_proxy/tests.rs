use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::auth::x509::PeerCertificate;
use crate::pki::Pki;
use crate::serve;
use crate::testing::{put, storage};

/// A kubelet that echoes after an upgrade, and otherwise says what it was asked, and by whom.
async fn kubelet(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let who =
        request.extensions().get::<Arc<PeerCertificate>>().map(|peer| peer.user().name.clone()).unwrap_or_default();
    let path = request.uri().to_string();
    if path.starts_with("/containerLogs/default/starting/") {
        let mut response =
            Response::new(Body::full("container \"c\" in pod \"starting\" is waiting to start: ContainerCreating"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    }
    if !request.headers().contains_key(header::UPGRADE) {
        assert!(!request.headers().contains_key(header::AUTHORIZATION));
        return Ok(Response::new(Body::full(format!("{who} {path}"))));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        io.write_all(path.as_bytes()).await.unwrap();
        io.write_all(b"\n").await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(io);
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        // And leaves without a word.
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    Ok(response)
}

struct World {
    proxy: Arc<KubeletProxy>,
    _dir: tempfile::TempDir,
}

/// A cluster with one node, whose kubelet listens on a free port, and pods `web` and `starting` on it.
async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::ensure(dir.path(), &[], &[]).unwrap();
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let listener = serve::bind(SocketAddr::new(local, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = serve::tls(&pki.node("n1", &[local]).unwrap(), pki.ca_pem()).unwrap();
    tokio::spawn(serve::serve(listener, tls, tower::service_fn(kubelet), CancellationToken::new()));

    let storage = storage().await;
    let status = json!({
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
    });
    put(&storage, "", "nodes", json!({ "metadata": { "name": "n1" }, "status": status })).await;
    for (name, node) in [("web", Some("n1")), ("starting", Some("n1")), ("unscheduled", None)] {
        let mut pod = json!({ "metadata": { "name": name, "namespace": "default" },
            "spec": { "containers": [{ "name": "c" }] } });
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        put(&storage, "", "pods", pod).await;
    }
    World { proxy: KubeletProxy::new(storage, pki.kubelet_client(), pki.ca_pem()).unwrap(), _dir: dir }
}

async fn ask(world: &World, path: &str) -> Result<String, ApiError> {
    let request = Request::get(path)
        .header("authorization", "Bearer secret")
        .body(http_body_util::Empty::new().map_err(|e: Infallible| match e {}).boxed_unsync())
        .unwrap();
    let info = RequestInfo::parse(request.method(), request.uri());
    let response = world.proxy.connect(&info, &UserInfo::default(), request).await?;
    Ok(String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn logs_come_from_the_kubelet_of_the_pods_node() {
    let world = world().await;
    let logs = ask(&world, "/api/v1/namespaces/default/pods/web/log?tailLines=3").await.unwrap();
    assert_eq!(logs, "kube-apiserver-kubelet-client /containerLogs/default/web/c?tailLines=3");
    assert_eq!(ask(&world, "/api/v1/namespaces/default/pods/unscheduled/log").await.unwrap(), "");
    let error = ask(&world, "/api/v1/namespaces/default/pods/starting/log").await.unwrap_err();
    assert_eq!((error.code, error.reason), (400, "BadRequest"));
    assert_eq!(error.message, "container \"c\" in pod \"starting\" is waiting to start: ContainerCreating");
}

#[tokio::test]
async fn the_nodes_proxy_reaches_every_path_of_the_kubelet() {
    let world = world().await;
    let answer = ask(&world, "/api/v1/nodes/n1/proxy/stats/summary?only=cpu").await.unwrap();
    assert_eq!(answer, "kube-apiserver-kubelet-client /stats/summary?only=cpu");
}

#[tokio::test]
async fn exec_into_a_pod_without_a_node_or_without_a_kubelet_is_refused() {
    let world = world().await;
    let error = ask(&world, "/api/v1/namespaces/default/pods/unscheduled/exec?command=ls").await.unwrap_err();
    assert_eq!(error.message, "pod unscheduled does not have a host assigned");
    let nowhere = json!({ "metadata": { "name": "n1" }, "status": {
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": 1 } },
    } });
    put(&world.proxy.storage, "", "nodes", nowhere).await;
    let error = ask(&world, "/api/v1/namespaces/default/pods/web/log").await.unwrap_err();
    assert_eq!(
        error.message,
        "Get \"https://127.0.0.1:1/containerLogs/default/web/c\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
}

#[tokio::test]
async fn an_upgraded_connection_is_spliced_through() {
    let world = world().await;
    let (near, far) = tokio::io::duplex(1024);
    let proxy = world.proxy.clone();
    // The API server's side of the client's connection.
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let proxy = proxy.clone();
        async move {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            let info = RequestInfo::parse(request.method(), request.uri());
            proxy.connect(&info, &UserInfo::default(), request).await
        }
    });
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
    tokio::spawn(server.with_upgrades());

    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/api/v1/namespaces/default/pods/web/exec?command=cat&stdin=true&stdout=true")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "websocket");
    let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    io.write_all(b"hello").await.unwrap();
    io.shutdown().await.unwrap();
    let mut all = String::new();
    io.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "/exec/default/web/c?command=cat&input=1&output=1\nhello");
}

#[tokio::test]
async fn pod_and_service_proxies_answer_every_method_and_rewrite_where_the_server_points() {
    let world = world().await;
    let listener = serve::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let answer = Response::builder();
                let said = format!("{} {}", request.method(), request.uri());
                Ok::<_, Infallible>(
                    match request.uri().path() {
                        "/page" => answer.header("content-type", "text/html").body("<a href=\"/x\">".to_owned()),
                        "/moved" => answer.status(302).header("location", "/there").body(String::new()),
                        _ => answer.body(said),
                    }
                    .unwrap(),
                )
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let storage = &world.proxy.storage;
    let pod = json!({ "metadata": { "name": "echo", "namespace": "default" }, "spec": { "containers": [] },
        "status": { "podIP": "127.0.0.1" } });
    put(storage, "", "pods", pod).await;
    let service = json!({ "metadata": { "name": "echo", "namespace": "default" },
        "spec": { "ports": [{ "name": "http", "port": 80 }] } });
    put(storage, "", "services", service).await;
    let subsets = json!([{ "addresses": [{ "ip": "127.0.0.1" }], "ports": [{ "name": "http", "port": port }] }]);
    let endpoints = json!({ "metadata": { "name": "echo", "namespace": "default" }, "subsets": subsets });
    put(storage, "", "endpoints", endpoints).await;

    let go = async |method: &str, path: String| {
        let body = http_body_util::Empty::new().map_err(|e: Infallible| match e {}).boxed_unsync();
        let request = Request::builder().method(method).uri(path).body(body).unwrap();
        let info = RequestInfo::parse(request.method(), request.uri());
        let (parts, body) = world.proxy.connect(&info, &UserInfo::default(), request).await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        (parts, String::from_utf8(text.to_vec()).unwrap())
    };
    let names = [format!("pods/echo:{port}"), "services/echo:http".into(), "services/http:echo:80".into()];
    for name in names {
        let base = format!("/api/v1/namespaces/default/{name}/proxy");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let (_, said) = go(method, format!("{base}/some/path/with/{method}?q=1")).await;
            assert_eq!(said, format!("{method} /some/path/with/{method}?q=1"));
        }
        let (parts, _) = go("GET", format!("{base}?a=b")).await;
        assert_eq!(parts.status, StatusCode::MOVED_PERMANENTLY);
        assert_eq!(parts.headers["location"], format!("{base}/?a=b"));
        let (_, said) = go("POST", base.clone()).await;
        assert_eq!(said, "POST /");
        let (_, page) = go("GET", format!("{base}/page")).await;
        assert_eq!(page, format!("<a href=\"{base}/x\">"));
        let (parts, _) = go("GET", format!("{base}/moved")).await;
        assert_eq!(parts.headers["location"], format!("{base}/there"));
    }
    let error = ask(&world, "/api/v1/namespaces/default/pods/echo:1/proxy/").await.unwrap_err();
    assert_eq!((error.code, error.reason), (503, "ServiceUnavailable"));
    let refused = "error trying to reach service: dial tcp 127.0.0.1:1: connect: connection refused";
    assert_eq!(error.message, refused);
    let error = ask(&world, "/api/v1/namespaces/default/services/echo:81/proxy/").await.unwrap_err();
    assert_eq!(error.message, "no service port 81 found for service \"echo\"");
}
