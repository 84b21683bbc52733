//! Begins to answer a request on the spot.

use std::task::{Context, Waker};

use hyper::rt::Executor;

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
