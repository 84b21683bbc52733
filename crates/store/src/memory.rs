//! The engine without a disk: for tests, simulations, and clusters that may be forgotten.
//!
//! Every call is done when it returns, on the caller's own thread and in the order of the calls, so a
//! simulation over it has one history per seed.

use std::sync::Arc;

use crate::core::{Core, Record};
use crate::engine::{Engine, Journal};
use crate::lease::Leases;
use crate::mvcc::Mvcc;
use crate::{DEFAULT_HISTORY_LIMIT_BYTES, FIRST_REVISION, Result};

/// A store in memory.
pub type MemoryStore = Engine<NoJournal>;

/// Keeps nothing: an engine over it lives as long as its process.
#[derive(Debug)]
pub struct NoJournal;

impl Journal for NoJournal {
    const BLOCKING: bool = false;

    fn commit(&mut self, _: Vec<Record>) -> Result<()> {
        Ok(())
    }

    fn size_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn close(&mut self) {}
}

impl MemoryStore {
    /// An empty store that keeps up to [`DEFAULT_HISTORY_LIMIT_BYTES`] of history.
    pub fn new() -> Arc<MemoryStore> {
        Self::with_history_limit(DEFAULT_HISTORY_LIMIT_BYTES)
    }

    /// An empty store that compacts by itself when its history passes so many bytes.
    pub fn with_history_limit(bytes: usize) -> Arc<MemoryStore> {
        Arc::new(Engine::start(Core::new(Mvcc::starting_at(FIRST_REVISION), Leases::default(), bytes), NoJournal))
    }
}
