//! The shell around the [core](crate::core): locks, queues, waiting, and the task that ends leases.
//!
//! **Group commit.** Writers put their commands into a queue; whoever finds the core free executes what is there. The
//! first to find nobody at work becomes the leader (on a thread that may block), which takes all that was executed: one
//! [`Journal::commit`], publish, answer all. Whoever comes while the disk is busy is in the next batch, executed by
//! the time the disk is free; so sixty-four writers wait for the disk about as often as one. While the processors are
//! what is scarce, the leader lets everybody who is ready have a [turn](Turn) first. An engine without a disk skips all
//! this.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::{Notify, oneshot};

use crate::core::{Answer, Command, Core, Moment, Record};
use crate::hub::{Poll, WatcherId};
use crate::mvcc::Survey;
use crate::{
    LeaseId, LeaseStatus, RangeRequest, RangeResponse, Result, Revision, Store, StoreError, Txn, TxnResponse,
    WatchBatch, WatchRequest, WatchStream,
};

/// Where records go to survive.
pub trait Journal: fmt::Debug + Send + 'static {
    /// Whether the calls below may block a thread.
    const BLOCKING: bool;

    /// What it has room for: asked after each commit, and before anything is executed while that is not plenty.
    /// [`StoreError::NoSpace`] if for nothing.
    fn ready(&mut self) -> Result<Room> {
        Ok(Room::Plenty)
    }

    /// Keeps records; when it returns they survive a power cut. After an error nothing is ever committed again.
    fn commit(&mut self, records: Vec<Record>) -> Result<()>;

    /// Whether it wants to know the whole state as of the last commit, about so many bytes, to write that down in place
    /// of all that led there.
    fn wants_checkpoint(&mut self, _bytes: usize) -> Result<bool> {
        Ok(false)
    }

    /// Is told the state that it wanted to know; other commits may have come since.
    fn checkpoint(&mut self, _survey: Survey) -> Result<()> {
        Ok(())
    }

    /// Bytes in use; `None` if that is a question for the memory.
    fn size_bytes(&self) -> Result<Option<u64>>;

    /// Waits for what is at work in the files, and releases them, unless that is done.
    fn close(&mut self);
}

/// What a journal has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Another commit of anything.
    Plenty,
    /// One that deletes or forgets.
    Little,
}

/// The state, shared between the engine and its watches.
#[derive(Debug)]
struct Shared {
    core: RwLock<Core>,
    /// A deadline may have come closer, or the store has closed.
    leases_changed: Notify,
}

// A panic while the core is locked leaves it half-changed, and going on would serve that: hence the panics below.
impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Core> {
        self.core.read().expect("the store's state is whole")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Core> {
        self.core.write().expect("the store's state is whole")
    }
}

/// So many keys are surveyed at a time while there is nothing else to do.
const SURVEYED_AT_LEISURE: usize = 1000;

type Sender = oneshot::Sender<Result<Answer>>;

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<(Command, Sender)>,
    led: bool,
}

/// What is executed, and not yet on its way to the disk.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<Record>,
    answers: Vec<(Sender, Result<Answer>)>,
}

#[derive(Debug)]
struct Committer<J> {
    shared: Arc<Shared>,
    queue: Mutex<Queue>,
    /// Locked only while the core is, so that records lie in the order of their execution.
    batch: Mutex<Batch>,
    journal: Mutex<J>,
    /// The leader waits, for the disk or for its turn, and does not want the core.
    waits: AtomicBool,
    /// The runtime has so much to do that answers had to wait for their turn.
    is_busy: AtomicBool,
    /// The journal's [`Room`] was plenty when it was last asked.
    has_room: AtomicBool,
}

/// A store: the common core over a journal. See [`crate::MemoryStore`] and [`crate::SledStore`].
pub struct Engine<J: Journal> {
    committer: Arc<Committer<J>>,
    /// Whether the task that ends leases runs.
    lease_task: AtomicBool,
}

impl<J: Journal> Engine<J> {
    pub(crate) fn start(core: Core, journal: J) -> Self {
        let shared = Arc::new(Shared { core: RwLock::new(core), leases_changed: Notify::new() });
        let (queue, batch, journal) = (Mutex::default(), Mutex::default(), Mutex::new(journal));
        let [waits, is_busy, has_room] = std::array::from_fn(|_| AtomicBool::default());
        let committer = Arc::new(Committer { shared, queue, batch, journal, waits, is_busy, has_room });
        Engine { committer, lease_task: AtomicBool::new(false) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.committer.shared
    }

    /// Starts the task that ends leases, once there is one: a store without leases needs no timer.
    pub(crate) fn watch_leases(&self) {
        self.shared().leases_changed.notify_one();
        if !self.lease_task.swap(true, Ordering::Relaxed) {
            tokio::spawn(end_leases(self.shared().clone(), Arc::downgrade(&self.committer)));
        }
    }
}

impl<J: Journal> Committer<J> {
    async fn submit(self: &Arc<Self>, command: Command) -> Result<Answer> {
        if !J::BLOCKING {
            return self.commit_now(command);
        }
        if !self.has_room.load(Ordering::Relaxed) {
            let committer = self.clone();
            let room = blocking(move || committer.ask_for_room(&mut *lock(&committer.journal))).await?;
            if room == Room::Little && command.grows() {
                return Err(StoreError::NoSpace);
            }
        }
        let (sender, receiver) = oneshot::channel();
        let lead = {
            let mut queue = lock(&self.queue);
            queue.waiting.push((command, sender));
            !std::mem::replace(&mut queue.led, true)
        };
        if lead {
            let committer = self.clone();
            tokio::task::spawn_blocking(move || committer.lead(&mut *lock(&committer.journal)));
        } else {
            self.execute_meanwhile();
        }
        // The leader always answers, unless it panicked.
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }

    fn ask_for_room(&self, journal: &mut J) -> Result<Room> {
        let room = journal.ready();
        self.has_room.store(matches!(room, Ok(Room::Plenty)), Ordering::Relaxed);
        room
    }

    /// Executes what is in the queue if nobody else wants the core.
    fn execute_meanwhile(&self) {
        if self.waits.load(Ordering::Relaxed)
            && let Ok(mut core) = self.shared.core.try_write()
        {
            self.execute(&mut core);
        }
    }

    /// Executes what is in the queue.
    fn execute(&self, core: &mut Core) {
        let waiting = std::mem::take(&mut lock(&self.queue).waiting);
        let mut batch = lock(&self.batch);
        for (command, sender) in waiting {
            let answer = core.execute(command, &mut batch.records);
            batch.answers.push((sender, answer));
        }
    }

    fn commit_now(&self, command: Command) -> Result<Answer> {
        let mut records = Vec::new();
        let mut core = self.shared.write();
        let answer = core.execute(command, &mut records)?;
        lock(&self.journal).commit(records)?;
        let head = core.head();
        core.publish(head);
        Ok(answer)
    }

    /// Commits batch after batch until nobody waits.
    fn lead(self: &Arc<Self>, journal: &mut J) {
        let _unwinding = Abdicate(self);
        let mut failed = None;
        loop {
            let mut core = self.shared.write();
            // What came while the last batch was published is executed beside this one's commit, if there is anything
            // to commit.
            if lock(&self.batch).answers.is_empty() {
                self.execute(&mut core);
            }
            let Batch { records, answers } = std::mem::take(&mut *lock(&self.batch));
            if answers.is_empty() && failed.is_none() && core.mvcc().surveying() {
                core.mvcc().survey(SURVEYED_AT_LEISURE);
                drop(core);
                failed = self.go_on_with_checkpoint(journal, None).err();
                continue;
            }
            if answers.is_empty() {
                let mut queue = lock(&self.queue);
                queue.led = !queue.waiting.is_empty();
                match queue.led {
                    true => continue,
                    false => return,
                }
            }
            let head = core.head();
            drop(core);
            // The lock is free meanwhile: readers go on at the last acknowledged revision, writers beyond.
            if failed.is_none() && !records.is_empty() {
                self.waits.store(true, Ordering::Relaxed);
                failed = journal.commit(records).err();
                self.waits.store(false, Ordering::Relaxed);
                // While the answer is not plenty, everybody asks for themselves.
                _ = self.ask_for_room(journal);
            }
            match &failed {
                None => self.shared.write().publish(head),
                Some(why) => self.shared.write().fail(why),
            }
            let turn = self.answer(answers, failed.as_ref());
            if failed.is_none() {
                failed = self.go_on_with_checkpoint(journal, Some(head)).err();
            }
            if self.is_busy.load(Ordering::Relaxed) {
                self.waits.store(true, Ordering::Relaxed);
                turn.wait();
                self.waits.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Begins a survey if the journal wants one as of `head`, the last commit; hands it over when it is through.
    fn go_on_with_checkpoint(&self, journal: &mut J, head: Option<Revision>) -> Result<()> {
        let (surveying, found, bytes) = {
            let mut core = self.shared.write();
            (core.mvcc().surveying(), core.mvcc().take_survey(), core.size_bytes())
        };
        let done = match (found, head) {
            (Some(survey), _) => journal.checkpoint(survey),
            (None, Some(head)) if !surveying => journal.wants_checkpoint(bytes).map(|wanted| {
                if wanted {
                    self.shared.write().mvcc().begin_survey(head);
                }
            }),
            (None, _) => Ok(()),
        };
        done.inspect_err(|why| self.shared.write().fail(why))
    }

    /// Tells everybody what came of their command; the disk need not wait for that.
    fn answer(self: &Arc<Self>, answers: Vec<(Sender, Result<Answer>)>, failed: Option<&StoreError>) -> Turn {
        let (committer, failed) = (self.clone(), failed.map(ToString::to_string));
        let turn = Turn { leader: std::thread::current(), came: Arc::default() };
        let (since, own) = (coracle_clock::instant(), turn.clone());
        let send = move || {
            committer.is_busy.store(since.elapsed() > BUSY, Ordering::Relaxed);
            own.came.store(true, Ordering::Release);
            own.leader.unpark();
            for (sender, answer) in answers {
                // Whoever asked may have gone away; what it asked for happened all the same.
                _ = sender.send(failed.as_ref().map_or(answer, |why| Err(StoreError::Engine(why.clone()))));
            }
            committer.execute_meanwhile();
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { send() })),
            Err(_) => send(),
        }
        turn
    }

    /// Commits what is executed, and gives the journal up.
    fn close(self: &Arc<Self>) {
        let mut journal = lock(&self.journal);
        self.lead(&mut journal);
        journal.close();
    }
}

/// The turn of a batch's answers in the runtime. While that has more to do than it can, every task that is ready now has
/// its turn before: who of them writes goes along with the next commit, and there are fewer of those. Where nobody else
/// has to wait, the leader does not either.
#[derive(Clone, Debug)]
struct Turn {
    leader: std::thread::Thread,
    came: Arc<AtomicBool>,
}

/// Answers that wait longer than this are not alone.
const BUSY: Duration = Duration::from_micros(200);
/// The leader waits no longer than this.
const PATIENCE: Duration = Duration::from_millis(5);

impl Turn {
    fn wait(&self) {
        let since = coracle_clock::instant();
        while !self.came.load(Ordering::Acquire) && since.elapsed() < PATIENCE {
            std::thread::park_timeout(PATIENCE);
        }
    }
}

/// A leader that panics leaves nobody waiting for it, and a store that takes no more changes.
struct Abdicate<'a, J>(&'a Committer<J>);

impl<J> Drop for Abdicate<'_, J> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Ok(mut core) = self.0.shared.core.write() {
                core.fail(&StoreError::Engine("a commit panicked".into()));
            }
            *lock(&self.0.queue) = Queue::default();
            *lock(&self.0.batch) = Batch::default();
        }
    }
}

/// A lock whose holder panicked: what it guards here (a queue, a journal that refuses after an error) is still sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until the next lease ends, ends it, and so on until the store is gone.
async fn end_leases<J: Journal>(shared: Arc<Shared>, committer: std::sync::Weak<Committer<J>>) {
    loop {
        let (open, deadline) = {
            let core = shared.read();
            (core.check_open().is_ok(), core.next_deadline())
        };
        if !open {
            return;
        }
        let expired = match deadline {
            None => {
                shared.leases_changed.notified().await;
                false
            }
            Some(deadline) => tokio::select! { biased;
                () = shared.leases_changed.notified() => false,
                () = coracle_clock::sleep_until(deadline) => true,
            },
        };
        let Some(committer) = committer.upgrade() else { return };
        if !expired {
            continue;
        }
        match committer.submit(Command::Expire(coracle_clock::instant())).await {
            Ok(_) => {}
            Err(StoreError::NoSpace) => coracle_clock::sleep(Duration::from_secs(1)).await,
            // Without a journal no lease can end; to try again would only spin.
            Err(error) => {
                tracing::error!(%error, "leases no longer expire");
                return;
            }
        }
    }
}

#[async_trait]
impl<J: Journal> Store for Engine<J> {
    fn revision(&self) -> Revision {
        self.shared().read().visible()
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        self.shared().read().range(&request)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        match self.committer.submit(Command::Txn(txn)).await? {
            Answer::Txn(response) => Ok(response),
            other => unreachable!("a transaction answered {other:?}"),
        }
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        let wake = Arc::new(Notify::new());
        let id = self.shared().write().watch(&request, wake.clone())?;
        let watch = Watch { shared: self.shared().clone(), id, wake, request, asked: false, ended: false };
        Ok(futures::stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) }).boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.committer.submit(Command::Compact(revision)).await.map(|_| ())
    }

    async fn lease_grant(&self, id: LeaseId, ttl: Duration) -> Result<LeaseId> {
        let mut chosen = id;
        while chosen == 0 {
            chosen = (coracle_clock::random_u64() >> 1) as LeaseId;
            if self.shared().read().has_lease(chosen) {
                chosen = 0;
            }
        }
        self.committer.submit(Command::Grant { id: chosen, ttl, now: Moment::now() }).await?;
        self.watch_leases();
        Ok(chosen)
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration> {
        match self.committer.submit(Command::KeepAlive { id, now: Moment::now() }).await? {
            Answer::Ttl(ttl) => Ok(ttl),
            other => unreachable!("a lease answered {other:?}"),
        }
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.committer.submit(Command::Revoke(id)).await.map(|_| ())
    }

    async fn lease_status(&self, id: LeaseId) -> Result<LeaseStatus> {
        self.shared().read().lease_status(id, coracle_clock::instant())
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.shared().read().leases()
    }

    async fn size_bytes(&self) -> Result<u64> {
        let in_memory = {
            let core = self.shared().read();
            core.check_open()?;
            core.size_bytes() as u64
        };
        if !J::BLOCKING {
            return Ok(in_memory);
        }
        let committer = self.committer.clone();
        let on_disk = blocking(move || lock(&committer.journal).size_bytes()).await?;
        Ok(on_disk.unwrap_or(in_memory))
    }

    async fn close(&self) -> Result<()> {
        self.shared().write().close()?;
        self.shared().leases_changed.notify_one();
        if !J::BLOCKING {
            return Ok(());
        }
        let committer = self.committer.clone();
        blocking(move || {
            committer.close();
            Ok(())
        })
        .await
    }
}

/// Runs what may block on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::Engine(error.to_string())))
}

impl<J: Journal> Drop for Engine<J> {
    /// Ends the watches and the lease task of a store that nobody closed, and waits for the leader (whoever
    /// opens the same files next must find them free).
    fn drop(&mut self) {
        if let Ok(mut core) = self.shared().core.write() {
            _ = core.close();
        }
        self.shared().leases_changed.notify_one();
        self.committer.close();
    }
}

impl<J: Journal> fmt::Debug for Engine<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// One watch: a cursor in the hub, and how it waits.
#[derive(Debug)]
struct Watch {
    shared: Arc<Shared>,
    id: WatcherId,
    wake: Arc<Notify>,
    request: WatchRequest,
    /// Whether to tell how far it is although there is nothing to report.
    asked: bool,
    ended: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchBatch>> {
        while !self.ended {
            let (poll, revision) = {
                let mut core = self.shared.write();
                core.check_open().ok()?;
                (core.poll_watch(self.id), core.visible())
            };
            match poll {
                Poll::Batch(batch) => return Some(Ok(batch)),
                Poll::Again => continue,
                Poll::Lagging(compact_revision) => {
                    self.ended = true;
                    return Some(Err(StoreError::Compacted { compact_revision }));
                }
                Poll::Idle if std::mem::take(&mut self.asked) => {
                    return Some(Ok(WatchBatch { revision, events: Vec::new() }));
                }
                Poll::Idle => {}
            }
            self.asked = tokio::select! { biased;
                () = self.wake.notified() => false,
                () = self.request.progress_due() => true,
            };
        }
        None
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Ok(mut core) = self.shared.core.write() {
            core.unwatch(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Leases;
    use crate::mvcc::Mvcc;
    use crate::{FIRST_REVISION, KeyRange, Op};

    /// A disk that is full after so many commits, or worse.
    #[derive(Debug)]
    struct FailingJournal {
        commits_left: u32,
        panics: bool,
    }

    impl Journal for FailingJournal {
        const BLOCKING: bool = true;

        fn commit(&mut self, _: Vec<Record>) -> Result<()> {
            assert!(self.commits_left > 0 || !self.panics, "a bug");
            self.commits_left = self.commits_left.checked_sub(1).ok_or(StoreError::Engine("disk full".into()))?;
            Ok(())
        }

        fn size_bytes(&self) -> Result<Option<u64>> {
            Ok(None)
        }

        fn close(&mut self) {}
    }

    fn engine(journal: FailingJournal) -> Engine<FailingJournal> {
        Engine::start(Core::new(Mvcc::starting_at(FIRST_REVISION), Leases::default(), 1 << 20), journal)
    }

    fn put(value: &'static str) -> Txn {
        Txn { success: vec![Op::Put { key: "a".into(), value: value.into(), lease: 0 }], ..Txn::default() }
    }

    #[tokio::test]
    async fn a_write_that_did_not_reach_the_disk_is_never_seen_and_nothing_builds_on_it() {
        let store = engine(FailingJournal { commits_left: 1, panics: false });
        let progress = Some(Duration::from_millis(1));
        let request = WatchRequest { progress, ..WatchRequest::new(KeyRange::key("a"), None) };
        let mut events = store.watch(request).await.unwrap();
        store.txn(put("1")).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap().events.len(), 1);
        for _ in 0..3 {
            assert!(matches!(store.txn(put("2")).await, Err(StoreError::Engine(why)) if why == "disk full"));
        }
        let read = store.range(RangeRequest::new(KeyRange::key("a"))).await.unwrap();
        assert_eq!((&read.kvs[0].value[..], read.revision), (&b"1"[..], 2));
        assert!(events.next().await.unwrap().unwrap().events.is_empty(), "only progress");
    }

    #[tokio::test]
    async fn what_was_executed_beside_a_failing_commit_fails_with_it() {
        let store = engine(FailingJournal { commits_left: 2, panics: false });
        let writes = futures::future::join_all((0..100).map(|_| store.txn(put("1")))).await;
        let acknowledged = writes.iter().filter(|write| write.is_ok()).count() as Revision;
        assert_eq!(store.revision(), FIRST_REVISION + acknowledged);
    }

    #[tokio::test]
    async fn a_leader_that_panics_leaves_nobody_waiting() {
        let store = engine(FailingJournal { commits_left: 0, panics: true });
        for _ in 0..3 {
            assert!(store.txn(put("1")).await.is_err());
        }
        assert_eq!(store.revision(), 1);
    }

    #[tokio::test]
    async fn writers_that_come_together_share_commits() {
        let store = engine(FailingJournal { commits_left: 20, panics: false });
        let writes = futures::future::join_all((0..100).map(|_| store.txn(put("1")))).await;
        assert!(writes.iter().all(|write| write.is_ok()), "a hundred writes in at most twenty commits");
    }
}
