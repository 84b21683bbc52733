//! Watches: many on one stream, each with a number.
//!
//! Nothing runs beside the stream: whoever reads the answers moves everything on, so a client that does not read is
//! not written to, and one that goes away takes its watches along. Watches of a stream that want the same from now on
//! are fed by one watch of the store, and what they are told is encoded once. Their answers are put together by hand, as
//! many at a time as fill a chunk: what tonic does for each message costs more than most messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use coracle_store::{Event, Revision, StoreError, WatchBatch, WatchRequest};
use futures::stream::{self, BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::{Notify, oneshot};
use tonic::{Status, Streaming};

use super::EtcdServer;
use crate::proto::{self, WatchCreateRequest, WatchResponse};
use crate::wire::{range, refusal};

/// How often a quiet watch tells how far it is, if it was asked to.
const PROGRESS: Duration = Duration::from_secs(600);
/// A fragment is closed before it grows beyond this, as with etcd's default limits.
const FRAGMENT_BYTES: usize = 2 << 20;
/// Answers are sent once they are so long together, or there are no more.
const CHUNK_BYTES: usize = 32 << 10;
/// The number of no watch in particular.
const NO_WATCH: i64 = -1;
/// Of [`WatchResponse::watch_id`].
const WATCH_ID_FIELD: u32 = 2;

/// What the store says to a feed; `None` when it has closed.
type Item = (u64, Option<Result<WatchBatch, StoreError>>);

/// One watch of the store's, for all of the stream's that want the same.
struct Feed {
    /// What they want.
    request: WatchCreateRequest,
    /// Each of them, and the first revision that is news to it.
    watches: BTreeMap<i64, Revision>,
    ask: Arc<Notify>,
    /// Dropped, it ends the feed.
    _running: oneshot::Sender<()>,
}

/// An answer in three parts, of which the first and the last are other watches' too.
struct Answer {
    head: Bytes,
    watch_id: i64,
    events: Bytes,
}

impl Answer {
    fn new(head: &WatchResponse) -> Answer {
        Answer { head: head.encode_to_vec().into(), watch_id: 0, events: Bytes::new() }
    }

    /// As gRPC sends messages: whether it is compressed, how long it is, and the message.
    fn put(self, out: &mut BytesMut) {
        let start = out.len();
        out.put_bytes(0, 5);
        out.put(self.head);
        if self.watch_id != 0 {
            prost::encoding::int64::encode(WATCH_ID_FIELD, &self.watch_id, out);
        }
        out.put(self.events);
        let length = (out.len() - start - 5) as u32;
        out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }
}

struct Session {
    server: EtcdServer,
    requests: Streaming<proto::WatchRequest>,
    /// Whether more can be asked.
    open: bool,
    feeds: BTreeMap<u64, Feed>,
    next_feed: u64,
    batches: SelectAll<BoxStream<'static, Item>>,
    /// The revision that progress was asked at, and which feeds have not come so far yet.
    asked: Option<(Revision, BTreeSet<u64>)>,
    answers: VecDeque<Answer>,
}

impl EtcdServer {
    pub(super) fn watch(
        &self,
        requests: Streaming<proto::WatchRequest>,
    ) -> impl Stream<Item = Result<Bytes, Status>> + use<> {
        let session = Session {
            server: self.clone(),
            requests,
            open: true,
            feeds: BTreeMap::new(),
            next_feed: 0,
            batches: SelectAll::new(),
            asked: None,
            answers: VecDeque::new(),
        };
        stream::try_unfold(session, |mut session| async move { Ok(session.next().await?.map(|next| (next, session))) })
    }
}

impl Session {
    /// The next answers, framed.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let mut chunk = BytesMut::new();
            while chunk.len() < CHUNK_BYTES
                && let Some(answer) = self.answers.pop_front()
            {
                answer.put(&mut chunk);
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk.freeze()));
            }
            // What there is to report comes before what is asked next.
            tokio::select! { biased;
                Some((id, item)) = self.batches.next(), if !self.batches.is_empty() => match item {
                    Some(item) => self.report(id, item)?,
                    None => return Err(refusal(StoreError::Closed)),
                },
                request = self.requests.message(), if self.open => match request? {
                    Some(request) => self.take(request).await?,
                    None => self.open = false,
                },
                else => return Ok(None),
            }
        }
    }

    async fn take(&mut self, request: proto::WatchRequest) -> Result<(), Status> {
        if let Some(request) = request.create {
            return self.create(request).await;
        }
        if let Some(proto::WatchCancelRequest { watch_id }) = request.cancel
            && let Some((&id, feed)) = self.feeds.iter_mut().find(|(_, feed)| feed.watches.contains_key(&watch_id))
        {
            feed.watches.remove(&watch_id);
            if feed.watches.is_empty() {
                self.feeds.remove(&id);
                self.arrived(id, Revision::MAX);
            }
            self.answer(WatchResponse { watch_id, canceled: true, ..self.response() });
        }
        if request.progress.is_some() {
            self.feeds.values().for_each(|feed| feed.ask.notify_one());
            self.asked = Some((self.server.store.revision(), self.feeds.keys().copied().collect()));
            self.arrived(self.next_feed, 0);
        }
        Ok(())
    }

    async fn create(&mut self, mut request: WatchCreateRequest) -> Result<(), Status> {
        if request.key.is_empty() {
            request.key = [0].as_slice().into();
        }
        let range = range(request.key.clone(), request.range_end.clone());
        let refused = if range.end.as_ref().is_some_and(|end| !end.is_empty() && *end <= range.start) {
            Some("mvcc: watcher range is empty")
        } else if request.watch_id != 0 && self.is_taken(request.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else {
            None
        };
        if let Some(why) = refused {
            let response = WatchResponse { watch_id: NO_WATCH, created: true, canceled: true, ..self.response() };
            self.answer(WatchResponse { cancel_reason: why.into(), ..response });
            return Ok(());
        }
        let watch_id = match std::mem::take(&mut request.watch_id) {
            0 => (0..).find(|id| !self.is_taken(*id)).unwrap_or_default(),
            chosen => chosen,
        };
        self.answer(WatchResponse { watch_id, created: true, ..self.response() });
        if request.start_revision <= 0
            && let Some(feed) = self.feeds.values_mut().find(|feed| feed.request == request)
        {
            feed.watches.insert(watch_id, self.server.store.revision() + 1);
            return Ok(());
        }
        let ask = Arc::new(Notify::new());
        let start = (request.start_revision > 0).then_some(request.start_revision);
        let progress = request.progress_notify.then_some(PROGRESS);
        match self.server.store.watch(WatchRequest { range, start, progress, ask: Some(ask.clone()) }).await {
            Ok(batches) => {
                let (running, ended) = oneshot::channel();
                let id = self.next_feed;
                self.next_feed += 1;
                let batches = batches.map(Some).chain(stream::iter([None])).take_until(ended);
                self.batches.push(batches.map(move |item| (id, item)).boxed());
                let watches = BTreeMap::from([(watch_id, 0)]);
                self.feeds.insert(id, Feed { request, watches, ask, _running: running });
            }
            Err(StoreError::Compacted { compact_revision }) => self.compacted(watch_id, compact_revision),
            Err(error) => return Err(refusal(error)),
        }
        Ok(())
    }

    fn is_taken(&self, watch_id: i64) -> bool {
        self.feeds.values().any(|feed| feed.watches.contains_key(&watch_id))
    }

    fn report(&mut self, id: u64, item: Result<WatchBatch, StoreError>) -> Result<(), Status> {
        let WatchBatch { revision, mut events } = match item {
            Ok(batch) => batch,
            Err(StoreError::Compacted { compact_revision }) => {
                let watches = self.feeds.remove(&id).map(|feed| feed.watches).unwrap_or_default();
                watches.into_keys().for_each(|watch_id| self.compacted(watch_id, compact_revision));
                self.arrived(id, Revision::MAX);
                return Ok(());
            }
            Err(error) => return Err(refusal(error)),
        };
        let Some(Feed { request, watches, .. }) = self.feeds.get(&id) else { return Ok(()) };
        let owed = self.asked.as_ref().is_some_and(|(_, waiting)| waiting.contains(&id));
        let progress = events.is_empty() && request.progress_notify && !owed;
        // A filter is the kind of event (0 put, 1 delete) that is left out.
        events.retain(|event| !request.filters.contains(&i32::from(event.deleted)));
        let head = WatchResponse { header: self.server.header(revision), ..Default::default() };
        let (whole, fragment) = (Answer::new(&head).head, Answer::new(&WatchResponse { fragment: true, ..head }).head);
        let mut told = None;
        for (&watch_id, &from) in watches {
            let old = events.partition_point(|event| event.kv.mod_revision < from);
            let parts = match told.take() {
                Some((known, parts)) if known == old => parts,
                _ => parts(request, &events[old..]),
            };
            for (place, events) in parts.iter().enumerate() {
                let head = if place + 1 < parts.len() { &fragment } else { &whole };
                self.answers.push_back(Answer { head: head.clone(), watch_id, events: events.clone() });
            }
            if progress {
                self.answers.push_back(Answer { head: whole.clone(), watch_id, events: Bytes::new() });
            }
            told = Some((old, parts));
        }
        self.arrived(id, revision);
        Ok(())
    }

    /// A feed has told everything up to `revision`. If all have come to where progress was asked, that is told.
    fn arrived(&mut self, id: u64, revision: Revision) {
        let Some((target, waiting)) = &mut self.asked else { return };
        if revision >= *target {
            waiting.remove(&id);
        }
        if waiting.is_empty() {
            let header = self.server.header(*target);
            self.asked = None;
            self.answer(WatchResponse { header, watch_id: NO_WATCH, ..Default::default() });
        }
    }

    fn compacted(&mut self, watch_id: i64, compact_revision: Revision) {
        self.answer(WatchResponse { watch_id, canceled: true, compact_revision, ..self.response() });
    }

    fn response(&self) -> WatchResponse {
        WatchResponse { header: self.server.header_now(), ..Default::default() }
    }

    fn answer(&mut self, response: WatchResponse) {
        self.answers.push_back(Answer::new(&response));
    }
}

/// Events as the answers to a watch have them, in as many as it takes.
fn parts(request: &WatchCreateRequest, events: &[Event]) -> Vec<Bytes> {
    let limit = if request.fragment { FRAGMENT_BYTES } else { usize::MAX };
    let (mut parts, mut part) = (Vec::new(), Vec::new());
    for event in events {
        let mut event = event.clone();
        event.prev = event.prev.filter(|_| request.prev_kv);
        let encoded = WatchResponse { events: vec![event.into()], ..Default::default() }.encode_to_vec();
        if part.len() + encoded.len() > limit && !part.is_empty() {
            parts.push(std::mem::take(&mut part).into());
        }
        part.extend(encoded);
    }
    if !part.is_empty() {
        parts.push(part.into());
    }
    parts
}
