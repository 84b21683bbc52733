//! What is going on, for whoever shows it.

use std::fmt;

/// A step on the way to an engine or an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Asking whether the engine answers, or whether the image is there.
    Look,
    /// Installing the engine's packages.
    Install,
    /// Starting the engine.
    Start,
    /// Pulling the image from its registry.
    Pull,
    /// Fetching the package index of a Debian suite.
    Index,
    /// Finding out which packages a recipe needs.
    Resolve,
    /// Downloading packages; counted in bytes.
    Download,
    /// Unpacking packages; counted in packages.
    Unpack,
    /// Writing the layer; counted in bytes.
    Layer,
    /// Loading the image into the engine; counted in bytes.
    Load,
    /// It is there.
    Done,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Look => "looking",
            Stage::Install => "installing packages",
            Stage::Start => "starting",
            Stage::Pull => "pulling",
            Stage::Index => "fetching the package index",
            Stage::Resolve => "resolving dependencies",
            Stage::Download => "downloading packages",
            Stage::Unpack => "unpacking",
            Stage::Layer => "writing the layer",
            Stage::Load => "loading into Docker",
            Stage::Done => "ready",
        })
    }
}

/// Receives reports; shared by builds that run side by side.
pub trait Progress: Send + Sync {
    /// `item` (an image's name, or `docker` for the engine) is at `stage`, `done` of `total` through it
    /// (bytes or pieces; 0 of 0 when nothing can be counted).
    fn report(&self, item: &str, stage: Stage, done: u64, total: u64);

    /// Something the user should know although it stops nothing.
    fn warn(&self, item: &str, message: &str) {
        tracing::warn!(item, "{message}");
    }
}

/// Shows nothing; stages go to the log.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, item: &str, stage: Stage, done: u64, total: u64) {
        tracing::debug!(item, %stage, done, total);
    }
}
