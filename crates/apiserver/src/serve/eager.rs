//! Begins to answer a request on the spot, and sends the answer on the spot.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use hyper::rt::Executor;

/// So often a connection is looked at in one go.
const LOOKS: usize = 8;

/// Looks once at each task right where it is to be spawned, and spawns only what cannot be done at once: most answers of
/// a store are ready sooner than another thread is awake.
#[derive(Clone)]
pub(super) struct Eager;

impl<F> Executor<F> for Eager
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let mut task = Box::pin(task);
        // Nobody need be woken yet: what is not ready is looked at again when it is spawned.
        if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(task);
        }
    }
}

/// A connection that wakes itself, because a request that it brought is answered, is looked at again on the spot: through
/// the runtime's queue that would wake another thread.
#[derive(Default)]
pub(super) struct Again {
    state: Mutex<Turn>,
}

#[derive(Default)]
enum Turn {
    /// It is being looked at; whether it is to be looked at again.
    Looking(bool),
    #[default]
    Idle,
    /// Whom to wake.
    Waiting(Waker),
}

impl Again {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a connection, whose `waker` this is, and again if it was woken meanwhile.
    pub(super) fn poll<F: Future>(&self, mut future: Pin<&mut F>, cx: &Context<'_>, waker: &Waker) -> Poll<F::Output> {
        for _ in 0..LOOKS {
            *self.turn() = Turn::Looking(false);
            if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(done);
            }
            let mut turn = self.turn();
            if matches!(*turn, Turn::Looking(false)) {
                *turn = Turn::Waiting(cx.waker().clone());
                return Poll::Pending;
            }
        }
        // Others want to go on, too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        let mut turn = self.turn();
        match std::mem::take(&mut *turn) {
            Turn::Looking(_) => *turn = Turn::Looking(true),
            Turn::Waiting(waker) => waker.wake(),
            Turn::Idle => {}
        }
    }
}
