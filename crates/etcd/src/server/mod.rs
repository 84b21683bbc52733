//! etcd's services over gRPC. One member, which is always the leader: there is no Raft below.

mod codec;
mod kv;
mod lease;
mod maintenance;
mod snapshot;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use coracle_store::{Revision, SharedStore};
use futures::{Stream, StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use prost::Message;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::Grpc;
use tonic::{Status, Streaming};
use tonic_prost::ProstDecoder;
use tower::{Service, service_fn};

use self::codec::Messages;
use crate::proto::ResponseHeader;

/// The version whose API this is.
const VERSION: &str = "3.6.0";
const CLUSTER_ID: u64 = u64::from_be_bytes(*b"\0coracle");
const MEMBER_ID: u64 = CLUSTER_ID + 1;

/// A store, as an etcd.
#[derive(Clone, Debug)]
pub struct EtcdServer {
    store: SharedStore,
    client_url: Arc<str>,
}

impl EtcdServer {
    /// Serves `store`; `client_url` is where clients find it, such as `https://127.0.0.1:2379`.
    pub fn new(store: SharedStore, client_url: &str) -> Self {
        EtcdServer { store, client_url: client_url.into() }
    }

    /// The services, for a listener of HTTP/2.
    pub fn service(
        self,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send,
    > + Clone
    + Send
    + Sync
    + 'static {
        service_fn(move |request| {
            let server = self.clone();
            async move { Ok(server.call(request).await) }
        })
    }

    async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        let method = request.uri().path().strip_prefix("/etcdserverpb.").unwrap_or_default().to_owned();
        match &method[..] {
            "KV/Range" => unary(request, |r| self.range(r)).await,
            "KV/Put" => unary(request, |r| self.put(r)).await,
            "KV/DeleteRange" => unary(request, |r| self.delete_range(r)).await,
            "KV/Txn" => unary(request, |r| self.txn(r)).await,
            "KV/Compact" => unary(request, |r| self.compact(r)).await,
            "Watch/Watch" => framed(request, |requests| self.watch(requests)),
            "Lease/LeaseGrant" => unary(request, |r| self.lease_grant(r)).await,
            "Lease/LeaseRevoke" => unary(request, |r| self.lease_revoke(r)).await,
            "Lease/LeaseKeepAlive" => streaming(request, |requests| self.lease_keep_alive(requests)).await,
            "Lease/LeaseTimeToLive" => unary(request, |r| self.lease_time_to_live(r)).await,
            "Lease/LeaseLeases" => unary(request, |r| self.lease_leases(r)).await,
            "Cluster/MemberList" => unary(request, |r| self.member_list(r)).await,
            "Maintenance/Alarm" => unary(request, |r| self.alarm(r)).await,
            "Maintenance/Status" => unary(request, |r| self.status(r)).await,
            "Maintenance/Defragment" => unary(request, |r| self.defragment(r)).await,
            "Maintenance/Hash" => unary(request, |r| self.hash(r)).await,
            "Maintenance/HashKV" => unary(request, |r| self.hash_kv(r)).await,
            "Maintenance/Snapshot" => server_streaming(request, |r| self.snapshot(r)).await,
            "Auth/AuthStatus" => unary(request, |r| self.auth_status(r)).await,
            other if other.starts_with("Auth/") => {
                Status::failed_precondition("etcdserver: authentication is not enabled").into_http()
            }
            _ => Status::unimplemented(format!("unknown method {}", request.uri().path())).into_http(),
        }
    }

    fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some(ResponseHeader { cluster_id: CLUSTER_ID, member_id: MEMBER_ID, revision, raft_term: 1 })
    }

    fn header_now(&self) -> Option<ResponseHeader> {
        self.header(self.store.revision())
    }
}

/// Answers a call with one message.
async fn unary<Q, A, F, B>(request: Request<B>, mut answer: impl FnMut(Q) -> F) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<A, Status>>,
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let answer = service_fn(|request: tonic::Request<Q>| {
        let answer = answer(request.into_inner());
        async { answer.await.map(tonic::Response::new) }
    });
    Grpc::new(Messages::new()).unary(answer, request).await
}

/// Answers one message with a stream of them.
async fn server_streaming<Q, A, F, S, B>(request: Request<B>, mut answer: impl FnMut(Q) -> F) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<S, Status>>,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let answer = service_fn(|request: tonic::Request<Q>| {
        let answer = answer(request.into_inner());
        async { answer.await.map(tonic::Response::new) }
    });
    Grpc::new(Messages::new()).server_streaming(answer, request).await
}

/// Answers a stream of messages with another.
async fn streaming<Q, A, S, B>(request: Request<B>, mut answer: impl FnMut(Streaming<Q>) -> S + Send) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let answer = service_fn(|request: tonic::Request<Streaming<Q>>| {
        std::future::ready(Ok::<_, Status>(tonic::Response::new(answer(request.into_inner()))))
    });
    Grpc::new(Messages::new()).streaming(answer, request).await
}

/// Answers a stream of messages with messages that are framed already.
fn framed<Q, S, B>(request: Request<B>, answer: impl FnOnce(Streaming<Q>) -> S) -> Response<Body>
where
    Q: Message + Default + 'static,
    S: Stream<Item = Result<Bytes, Status>> + Send + 'static,
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let requests = Streaming::new_request(ProstDecoder::default(), request.into_body(), None, None);
    let frames = stream::unfold(Some(answer(requests).boxed()), |answers| async {
        let mut answers = answers?;
        let status = match answers.next().await {
            Some(Ok(bytes)) => return Some((Ok(Frame::data(bytes)), Some(answers))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        let mut trailers = HeaderMap::new();
        Some((status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)), None))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}
