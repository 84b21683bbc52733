//! Watches: many on one stream, each with a number.
//!
//! Nothing runs beside the stream: whoever reads the answers moves everything on, so a client that does not read is
//! not written to, and one that goes away takes its watches along.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

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
/// The number of no watch in particular.
const NO_WATCH: i64 = -1;

/// What the store says to a watch; `None` when it has closed.
type Item = (i64, Option<Result<WatchBatch, StoreError>>);

struct Watch {
    request: WatchCreateRequest,
    ask: Arc<Notify>,
    /// Dropped, it ends the watch.
    _running: oneshot::Sender<()>,
}

struct Session {
    server: EtcdServer,
    requests: Streaming<proto::WatchRequest>,
    /// Whether more can be asked.
    open: bool,
    watches: BTreeMap<i64, Watch>,
    batches: SelectAll<BoxStream<'static, Item>>,
    /// The revision that progress was asked at, and who has not come so far yet.
    asked: Option<(Revision, BTreeSet<i64>)>,
    answers: VecDeque<WatchResponse>,
}

impl EtcdServer {
    pub(super) fn watch(
        &self,
        requests: Streaming<proto::WatchRequest>,
    ) -> impl Stream<Item = Result<WatchResponse, Status>> + use<> {
        let session = Session {
            server: self.clone(),
            requests,
            open: true,
            watches: BTreeMap::new(),
            batches: SelectAll::new(),
            asked: None,
            answers: VecDeque::new(),
        };
        stream::try_unfold(session, |mut session| async move { Ok(session.next().await?.map(|next| (next, session))) })
    }
}

impl Session {
    async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(Some(answer));
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
            && self.watches.remove(&watch_id).is_some()
        {
            self.answer(WatchResponse { watch_id, canceled: true, ..self.response() });
            self.arrived(watch_id, Revision::MAX);
        }
        if request.progress.is_some() {
            self.watches.values().for_each(|watch| watch.ask.notify_one());
            self.asked = Some((self.server.store.revision(), self.watches.keys().copied().collect()));
            self.arrived(NO_WATCH, 0);
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
        } else if request.watch_id != 0 && self.watches.contains_key(&request.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else {
            None
        };
        if let Some(why) = refused {
            let response = WatchResponse { watch_id: NO_WATCH, created: true, canceled: true, ..self.response() };
            self.answer(WatchResponse { cancel_reason: why.into(), ..response });
            return Ok(());
        }
        let watch_id = match request.watch_id {
            0 => (0..).find(|id| !self.watches.contains_key(id)).unwrap_or_default(),
            chosen => chosen,
        };
        self.answer(WatchResponse { watch_id, created: true, ..self.response() });
        let ask = Arc::new(Notify::new());
        let start = (request.start_revision > 0).then_some(request.start_revision);
        let progress = request.progress_notify.then_some(PROGRESS);
        match self.server.store.watch(WatchRequest { range, start, progress, ask: Some(ask.clone()) }).await {
            Ok(batches) => {
                let (running, ended) = oneshot::channel();
                let batches = batches.map(Some).chain(stream::iter([None])).take_until(ended);
                self.batches.push(batches.map(move |item| (watch_id, item)).boxed());
                self.watches.insert(watch_id, Watch { request, ask, _running: running });
            }
            Err(StoreError::Compacted { compact_revision }) => self.compacted(watch_id, compact_revision),
            Err(error) => return Err(refusal(error)),
        }
        Ok(())
    }

    fn report(&mut self, watch_id: i64, item: Result<WatchBatch, StoreError>) -> Result<(), Status> {
        let WatchBatch { revision, events } = match item {
            Ok(batch) => batch,
            Err(StoreError::Compacted { compact_revision }) => {
                self.watches.remove(&watch_id);
                self.compacted(watch_id, compact_revision);
                self.arrived(watch_id, Revision::MAX);
                return Ok(());
            }
            Err(error) => return Err(refusal(error)),
        };
        let Some(Watch { request, .. }) = self.watches.get(&watch_id) else { return Ok(()) };
        let header = self.server.header(revision);
        let response = |events, fragment| WatchResponse {
            header: header.clone(),
            watch_id,
            events,
            fragment,
            ..Default::default()
        };
        let owed = self.asked.as_ref().is_some_and(|(_, waiting)| waiting.contains(&watch_id));
        if events.is_empty() && request.progress_notify && !owed {
            self.answers.push_back(response(Vec::new(), false));
        }
        // A filter is the kind of event (0 put, 1 delete) that is left out.
        let wanted = |event: &Event| !request.filters.contains(&i32::from(event.deleted));
        let prev_kv = request.prev_kv;
        let events = events.into_iter().filter(wanted).map(|mut event| {
            event.prev = event.prev.filter(|_| prev_kv);
            proto::Event::from(event)
        });
        let limit = if request.fragment { FRAGMENT_BYTES } else { usize::MAX };
        let (mut part, mut bytes) = (Vec::new(), 0);
        for event in events {
            let size = event.encoded_len();
            if bytes + size > limit && !part.is_empty() {
                self.answers.push_back(response(std::mem::take(&mut part), true));
                bytes = 0;
            }
            bytes += size;
            part.push(event);
        }
        if !part.is_empty() {
            self.answers.push_back(response(part, false));
        }
        self.arrived(watch_id, revision);
        Ok(())
    }

    /// A watch has reported everything up to `revision`. If all have come to where progress was asked, that is told.
    fn arrived(&mut self, watch_id: i64, revision: Revision) {
        let Some((target, waiting)) = &mut self.asked else { return };
        if revision >= *target {
            waiting.remove(&watch_id);
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

    fn answer(&mut self, answer: WatchResponse) {
        self.answers.push_back(answer);
    }
}
