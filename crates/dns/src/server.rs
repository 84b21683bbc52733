//! Sockets: questions in, answers out, and other people's questions passed on.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::records::{Answer, Kind, Record, TTL_SECONDS, Zone};

/// The largest answer over UDP to one who does not announce more room.
const UDP_BYTES: u16 = 512;
/// How long the host's resolver may take.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a TCP client may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A server over UDP and TCP.
#[derive(Debug)]
pub struct Server {
    zone: Arc<RwLock<Zone>>,
    upstream: Vec<SocketAddr>,
}

const LOCK: &str = "no code panics while it holds the zone";

impl Server {
    /// A server that answers from `zone` and asks `upstream` about the rest.
    pub fn new(zone: Arc<RwLock<Zone>>, upstream: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Server { zone, upstream })
    }

    /// Serves both sockets until `shutdown`.
    pub async fn serve(self: Arc<Self>, udp: UdpSocket, tcp: TcpListener, shutdown: CancellationToken) {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = self.clone().serve_udp(Arc::new(udp)) => {}
            () = self.serve_tcp(tcp) => {}
        }
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 4096];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
            let question = buffer[..length].to_vec();
            let (server, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                if let Some(answer) = server.answer(&question, Transport::Udp).await {
                    let _ = socket.send_to(&answer, client).await;
                }
            });
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let server = self.clone();
            tokio::spawn(async move {
                let _ = server.serve_stream(stream).await;
            });
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let length = coracle_clock::timeout(IDLE_TIMEOUT, stream.read_u16()).await??;
            let mut question = vec![0; length.into()];
            stream.read_exact(&mut question).await?;
            let Some(answer) = self.answer(&question, Transport::Tcp).await else { return Ok(()) };
            stream.write_u16(u16::try_from(answer.len()).unwrap_or(u16::MAX)).await?;
            stream.write_all(&answer).await?;
        }
    }

    /// The answer to a question, as bytes; none if the question cannot even be refused.
    async fn answer(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let request = Message::from_vec(question).ok()?;
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.add_queries(request.queries.iter().cloned());
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return response.to_vec().ok();
        }
        let query = request.queries.first()?;
        let kind = kind(query.query_type());
        let found = self.zone.read().expect(LOCK).resolve(&query.name().to_ascii(), kind);
        match found {
            Answer::NotOurs => match self.forward(question, transport).await {
                Some(answer) => return Some(answer),
                None => response.metadata.response_code = ResponseCode::ServFail,
            },
            Answer::NoSuchName => {
                response.metadata.authoritative = true;
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            Answer::Records(records) => {
                response.metadata.authoritative = true;
                for record in shuffled(records) {
                    add(&mut response, query.name(), record);
                }
                self.follow_alias(&mut response, query.query_type()).await;
            }
        }
        let bytes = response.to_vec().ok()?;
        let room = request.max_payload().max(UDP_BYTES);
        if transport == Transport::Udp && bytes.len() > room.into() {
            return response.truncate().to_vec().ok();
        }
        Some(bytes)
    }

    /// Adds the addresses of an ExternalName, so that simple clients need not ask again.
    async fn follow_alias(&self, response: &mut Message, wanted: RecordType) {
        let alias = response.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(CNAME(target)) => Some(target.clone()),
            _ => None,
        });
        let Some(target) = alias.filter(|_| wanted == RecordType::A || wanted == RecordType::AAAA) else { return };
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(hickory_proto::op::Query::query(target, wanted));
        let Ok(bytes) = question.to_vec() else { return };
        if let Some(answer) =
            self.forward(&bytes, Transport::Udp).await.and_then(|bytes| Message::from_vec(&bytes).ok())
        {
            response.add_answers(answer.answers);
        }
    }

    async fn forward(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        for upstream in &self.upstream {
            let attempt = async {
                match transport {
                    Transport::Udp => ask_udp(*upstream, question).await,
                    Transport::Tcp => ask_tcp(*upstream, question).await,
                }
            };
            match coracle_clock::timeout(FORWARD_TIMEOUT, attempt).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "resolver failed"),
                Err(_) => tracing::debug!(%upstream, "resolver did not answer"),
            }
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

async fn ask_udp(upstream: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // A connected socket takes answers from that resolver only.
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer[..length].get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(upstream: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    stream.write_u16(u16::try_from(question.len()).unwrap_or(u16::MAX)).await?;
    stream.write_all(question).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn kind(record_type: RecordType) -> Kind {
    match record_type {
        RecordType::A => Kind::A,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::TXT => Kind::Txt,
        RecordType::CNAME => Kind::Cname,
        _ => Kind::Other,
    }
}

/// Clients take the first address, so its turn goes round.
fn shuffled(mut records: Vec<Record>) -> Vec<Record> {
    let first = coracle_clock::random_below(records.len());
    records.rotate_left(first);
    records
}

fn add(response: &mut Message, name: &Name, record: Record) {
    let make = |name: Name, data: RData| hickory_proto::rr::Record::from_rdata(name, TTL_SECONDS, data);
    let parsed = |text: &str| Name::from_ascii(text).unwrap_or_default();
    match record {
        Record::A(ip) => drop(response.add_answer(make(name.clone(), RData::A(A(ip))))),
        Record::Ptr(target) => drop(response.add_answer(make(name.clone(), RData::PTR(PTR(parsed(&target)))))),
        Record::Cname(target) => drop(response.add_answer(make(name.clone(), RData::CNAME(CNAME(parsed(&target)))))),
        Record::Txt(text) => drop(response.add_answer(make(name.clone(), RData::TXT(TXT::new(vec![text]))))),
        Record::Srv { port, target, address } => {
            let target = parsed(&target);
            response.add_answer(make(name.clone(), RData::SRV(SRV::new(0, 100, port, target.clone()))));
            response.add_additional(make(target, RData::A(A(address))));
        }
    }
}

/// The name servers of a `resolv.conf`.
pub fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|address| address.trim().parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_from_resolv_conf() {
        let text =
            "# made by hand\nnameserver 192.0.2.1\noptions ndots:5\nnameserver  2001:db8::1\nnameserver nonsense\n";
        let expected: [SocketAddr; 2] = ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }

    #[tokio::test]
    async fn questions_over_udp_and_tcp_are_answered_or_passed_on() {
        let zone = |ip: &str, domain: &str| {
            let json = serde_json::json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": { "clusterIP": ip } });
            let services = vec![Arc::new(serde_json::from_value(json).unwrap())];
            Arc::new(RwLock::new(Zone::new(domain, services, vec![], ["default".into()])))
        };
        let start = async |zone, upstream| {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = tcp.local_addr().unwrap();
            let udp = UdpSocket::bind(address).await.unwrap();
            tokio::spawn(Server::new(zone, upstream).serve(udp, tcp, CancellationToken::new()));
            address
        };
        let other = start(zone("192.0.2.9", "elsewhere.test"), vec![]).await;
        let ours = start(zone("10.96.0.9", "cluster.local"), vec![other]).await;
        for (name, expected) in
            [("web.default.svc.cluster.local.", "10.96.0.9"), ("web.default.svc.elsewhere.test.", "192.0.2.9")]
        {
            let mut question = Message::query();
            question.add_query(hickory_proto::op::Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
            let bytes = question.to_vec().unwrap();
            for answer in [ask_udp(ours, &bytes).await.unwrap(), ask_tcp(ours, &bytes).await.unwrap()] {
                let answer = Message::from_vec(&answer).unwrap();
                assert_eq!(answer.answers[0].data, RData::A(A(expected.parse().unwrap())));
            }
        }
    }
}
