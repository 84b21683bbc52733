//! The gRPC health protocol (`grpc.health.v1.Health/Check`), spoken directly: one unary call whose messages have one
//! field each needs no generated code.

use bytes::{BufMut, Bytes, BytesMut};
use coracle_client::transport::dial_error;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::Outcome;

/// `HealthCheckResponse.ServingStatus` by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: usize = 1;

pub(super) async fn check(host: &str, port: u16, service: &str) -> Outcome {
    match call(host, port, service).await {
        Ok(SERVING) => Outcome::Success,
        Ok(status) => {
            let name = STATUSES.get(status).copied().unwrap_or("UNKNOWN");
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Err(why) => Outcome::Failure(why),
    }
}

async fn call(host: &str, port: u16, service: &str) -> Result<usize, String> {
    let address = format!("{host}:{port}");
    let failed = |error: hyper::Error| format!("error: health rpc probe failed: {error}");
    let tcp = TcpStream::connect(&address)
        .await
        .map_err(|error| format!("timeout: failed to connect service {address:?}: {}", dial_error(&address, &error)))?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(frame(service)))
        .map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let mut grpc_status = header(answer.headers());
        let body = answer.into_body().collect().await.map_err(failed)?;
        grpc_status = body.trailers().and_then(header).or(grpc_status);
        match grpc_status.as_deref() {
            None | Some("0") => Ok(serving_status(&body.to_bytes())),
            Some("12") => Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".into()),
            Some(code) => Err(format!("error: health rpc probe failed with gRPC status {code}")),
        }
    }
    .await;
    driver.abort();
    answer
}

fn header(headers: &http::HeaderMap) -> Option<String> {
    headers.get("grpc-status").and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// `HealthCheckRequest { string service = 1; }` as a gRPC message: flag, length, protobuf.
fn frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.put_u8(u8::try_from(length).unwrap_or(0));
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(0));
    framed.put(message);
    framed.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1; }`; an absent field is 0.
fn serving_status(framed: &[u8]) -> usize {
    match framed.get(5..) {
        Some([0x08, status, ..]) => usize::from(*status),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_as_protobuf_says() {
        assert_eq!(frame("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(frame("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(&frame(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 0x08, 1]), SERVING);
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), 0);
    }
}
