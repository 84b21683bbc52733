//! A value that many watch: [`tokio::sync::watch`] with the same order of waking every time.
//!
//! tokio's own spreads its waiters over eight queues by a random number, so those who wait for one value go on in
//! another order in each run, and a simulation would have as many histories as runs. Here they go on in the order in
//! which they began to wait.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

struct Shared<T> {
    /// The value, and how often it was sent.
    value: RwLock<(T, u64)>,
    changed: Notify,
    senders: AtomicUsize,
}

/// The value while it is looked at; nobody can send meanwhile, so let it go soon.
pub struct Ref<'a, T>(RwLockReadGuard<'a, (T, u64)>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.fmt(f)
    }
}

/// All senders are gone: the value will not change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("channel closed")
    }
}

impl std::error::Error for Closed {}

/// Changes the value.
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees the value and waits for its changes.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A sender and a receiver of one value.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A value that nobody watches yet.
    pub fn new(value: T) -> Sender<T> {
        let value = RwLock::new((value, 0));
        Sender(Arc::new(Shared { value, changed: Notify::new(), senders: AtomicUsize::new(1) }))
    }

    /// A receiver that has seen the present value.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.value.read().unwrap_or_else(PoisonError::into_inner).1;
        Receiver { shared: self.0.clone(), seen }
    }

    /// Whether there is nobody but this sender.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// The present value.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a value in place of the present one and answers that.
    pub fn send_replace(&self, value: T) -> T {
        let mut old = value;
        self.send_if_modified(|present| {
            std::mem::swap(present, &mut old);
            true
        });
        old
    }

    /// Changes the value in place; receivers are told if `modify` says that it did. Answers what it said.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = {
            let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
            let modified = modify(&mut value.0);
            value.1 += u64::from(modified);
            modified
        };
        if modified {
            self.0.changed.notify_waiters();
        }
        modified
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::SeqCst);
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Receiver<T> {
    /// The present value.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The present value, which then counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.value.read().unwrap_or_else(PoisonError::into_inner);
        self.seen = value.1;
        Ref(value)
    }

    /// Waits for a value that was not seen yet, which then counts as seen.
    ///
    /// # Errors
    /// All senders are gone.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Made before looking, so that no change falls between.
            let notified = self.shared.changed.notified();
            let version = self.shared.value.read().unwrap_or_else(PoisonError::into_inner).1;
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.senders.load(Ordering::SeqCst) == 0 {
                return Err(Closed);
            }
            notified.await;
        }
    }

    /// Waits until the value is as wanted, and answers it.
    ///
    /// # Errors
    /// All senders are gone, and the last value is not as wanted.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        loop {
            if wanted(&self.borrow_and_update()) {
                return Ok(self.borrow());
            }
            self.changed().await?;
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&*self.borrow()).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&*self.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn waiters_go_on_in_the_order_in_which_they_began_to_wait() {
        let sender = Sender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..50)
            .map(|index| {
                let (mut receiver, order) = (sender.subscribe(), order.clone());
                tokio::spawn(async move {
                    receiver.wait_for(|value| *value == 1).await.unwrap();
                    order.lock().unwrap().push(index);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_end_is_told() {
        let (sender, mut receiver) = channel(1);
        assert_eq!(sender.send_replace(2), 1);
        assert!(receiver.changed().await.is_ok());
        assert_eq!(*receiver.borrow(), 2);
        assert!(!sender.send_if_modified(|_| false));
        drop(sender);
        assert_eq!(receiver.changed().await, Err(Closed));
        assert!(receiver.wait_for(|value| *value == 2).await.is_ok());
    }
}
