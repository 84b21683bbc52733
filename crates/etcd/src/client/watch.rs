//! A watch that outlives its connections.
//!
//! It remembers the first revision that it has not reported, and begins there again on another member when a stream
//! breaks: nothing is missed, and nothing comes twice. A revision is reported whole (a fragment waits for the rest) or,
//! if the stream broke in the middle, from the beginning. Each watch has a connection of its own: on a shared one, a
//! reader that is slow would leave no room for anybody else's answers.

use std::sync::Arc;
use std::time::Duration;

use coracle_store::{Event, KeyRange, Result, Revision, StoreError, WatchBatch, WatchRequest};
use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::connection::{Cluster, RETRY};
use crate::proto::{self, WatchCreateRequest, WatchResponse};
use crate::wire::bounds;

/// How long a member may take to begin a watch, or to say up to where it has compacted (it looks ten times a second).
const TELL: Duration = Duration::from_secs(2);

/// One stream to one member.
struct Open {
    requests: mpsc::UnboundedSender<proto::WatchRequest>,
    answers: Streaming<WatchResponse>,
    /// Whether what it says of progress is true.
    tells_progress: bool,
}

pub(super) struct Watch {
    cluster: Arc<Cluster>,
    request: WatchRequest,
    /// The first revision not reported.
    next: Revision,
    open: Option<Open>,
    /// Fragments of a revision whose rest is to come.
    fragments: Vec<proto::Event>,
    /// Whether somebody wants to know how far the watch is.
    asked: bool,
}

impl Watch {
    /// A watch that has begun, so that no compaction from now on takes from it what concerns it, if a member answers; if
    /// none does, it begins when one does.
    pub(super) async fn start(cluster: Arc<Cluster>, request: WatchRequest, start: Revision) -> Watch {
        let open = open(&cluster, request.range.clone(), start).await.ok();
        Watch { cluster, request, next: start, open, fragments: Vec::new(), asked: false }
    }

    /// Ends after an error, and when the store closes.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<WatchBatch>> + Send {
        stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            let closed = watch.cluster.closed.clone();
            match closed.run_until_cancelled(watch.next()).await? {
                Ok(batch) => Some((Ok(batch), Some(watch))),
                Err(StoreError::Closed) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<WatchBatch> {
        loop {
            let Some(open) = &mut self.open else {
                self.reopen().await?;
                continue;
            };
            let answer = tokio::select! { biased;
                answer = open.answers.message() => answer,
                () = self.request.progress_due() => {
                    if !open.tells_progress {
                        return Ok(self.progress(self.next - 1));
                    }
                    self.asked = true;
                    open.ask();
                    continue;
                }
            };
            match answer {
                Ok(Some(answer)) if answer.compact_revision != 0 => {
                    return Err(StoreError::Compacted { compact_revision: answer.compact_revision });
                }
                Ok(Some(answer)) if !answer.canceled => {
                    if let Some(batch) = self.take(answer) {
                        return Ok(batch);
                    }
                }
                other => {
                    tracing::debug!(?other, next = self.next, "the watch of etcd broke off; it goes on elsewhere");
                    self.open = None;
                }
            }
        }
    }

    fn take(&mut self, answer: WatchResponse) -> Option<WatchBatch> {
        if answer.events.is_empty() {
            // How far the watch is: told only when asked.
            return std::mem::take(&mut self.asked).then(|| self.progress(answer.header.map_or(0, |h| h.revision)));
        }
        self.fragments.extend(answer.events);
        if answer.fragment {
            return None;
        }
        let events = std::mem::take(&mut self.fragments).into_iter().map(Event::from);
        let events: Vec<_> = events.filter(|event| event.kv.mod_revision >= self.next).collect();
        // Not the header's: that may be ahead of what the answer holds.
        let revision = events.last()?.kv.mod_revision;
        self.next = self.cluster.seen(revision) + 1;
        Some(WatchBatch { revision, events })
    }

    fn progress(&mut self, revision: Revision) -> WatchBatch {
        self.next = self.next.max(revision + 1);
        WatchBatch { revision: self.next - 1, events: Vec::new() }
    }

    /// Goes on where it was, on whichever member answers, as soon as one does.
    async fn reopen(&mut self) -> Result<()> {
        self.fragments.clear();
        loop {
            let opened = match check(&self.cluster, &self.request, self.next).await {
                Err(StoreError::Compacted { .. }) => {
                    let compact_revision = compact_revision(&self.cluster).await.unwrap_or(self.next);
                    return Err(StoreError::Compacted { compact_revision });
                }
                Ok(()) => open(&self.cluster, self.request.range.clone(), self.next).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(open) => {
                    if self.asked {
                        open.ask();
                    }
                    self.open = Some(open);
                    return Ok(());
                }
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(error) => tracing::warn!(%error, "cannot watch etcd; trying again"),
            }
            coracle_clock::sleep(RETRY).await;
        }
    }
}

impl Open {
    /// Asks how far the watch is. If the stream is broken, its other end will say so.
    fn ask(&self) {
        _ = self.requests.send(proto::WatchRequest { progress: Some(proto::Empty {}), ..Default::default() });
    }
}

/// Whether everything from `start` on can still be watched: the revision before it can be read. (etcd itself begins
/// at the compacted revision too, though deletions at it are gone.)
pub(super) async fn check(cluster: &Cluster, request: &WatchRequest, start: Revision) -> Result<()> {
    let (key, revision) = (bounds(request.range.clone()).0, (start - 1).max(1));
    let read = proto::RangeRequest { key, revision, count_only: true, ..Default::default() };
    match cluster.call::<_, proto::RangeResponse>("KV/Range", read, true).await {
        Ok(_) | Err(StoreError::FutureRevision { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn open(cluster: &Cluster, range: KeyRange, start_revision: Revision) -> Result<Open> {
    let connection = cluster.dial().await?;
    let (requests, receiver) = mpsc::unbounded_channel();
    let (key, range_end) = bounds(range);
    let create =
        WatchCreateRequest { key, range_end, start_revision, prev_kv: true, fragment: true, ..Default::default() };
    _ = requests.send(proto::WatchRequest { create: Some(create), ..Default::default() });
    let opened = async {
        let mut answers = connection.streaming("Watch/Watch", UnboundedReceiverStream::new(receiver)).await?;
        match answers.message().await? {
            Some(WatchResponse { created: true, canceled: false, .. }) => Ok(answers),
            other => Err(Status::unknown(other.unwrap_or_default().cancel_reason)),
        }
    };
    match coracle_clock::timeout(TELL, opened).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("i/o timeout"))) {
        Ok(answers) => Ok(Open { requests, answers, tells_progress: connection.tells_progress }),
        Err(status) => {
            cluster.failed(&connection);
            Err(StoreError::Engine(status.message().to_owned()))
        }
    }
}

/// Up to where etcd has compacted. It says so to nobody but a watch that comes too late.
pub(super) async fn compact_revision(cluster: &Cluster) -> Option<Revision> {
    let told = async {
        let Open { requests: _requests, answers, .. } = open(cluster, KeyRange::key(&[0][..]), 1).await.ok()?;
        let revisions = answers.filter_map(async |answer| answer.ok().map(|answer| answer.compact_revision));
        Box::pin(revisions).filter(|revision| std::future::ready(*revision != 0)).next().await
    };
    coracle_clock::timeout(TELL, told).await.ok().flatten()
}
