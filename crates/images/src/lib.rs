//! Container images without a registry, and the Docker engine they live in.
//!
//! Kubernetes takes for granted that a container engine runs and that a registry answers. On a
//! laptop in a train neither holds, so this crate provides both:
//!
//! - [`ensure_engine`] makes sure that a Docker engine answers: it connects to the one there is, on
//!   Debian and Ubuntu with root it installs and starts one, and elsewhere it says what to type;
//! - [`ensure_images`] makes sure that images are there: those present are used, else they are
//!   pulled if a registry answers quickly, else built from Debian packages by our own [`recipes`],
//!   under the very names the registry would have served;
//! - [`ensure_pause`] loads the image of every pod's sandbox, a static program of a kilobyte that
//!   this binary carries.
//!
//! The way of a recipe: [`recipe`](mod@recipe) (data: packages, files, settings) → [`debian`] (which packages
//! these are, and their download) → [`rootfs`] (the tree they make, in memory) → [`archive`] (one
//! layer with sorted names and a fixed time, loaded into the engine). The same packages give the same
//! image, bit for bit. What happens meanwhile is told to a [`Progress`].

pub mod archive;
pub mod builder;
pub mod debian;
pub mod embedded;
pub mod engine;
pub mod ensure;
pub mod progress;
pub mod recipe;
pub mod rootfs;

pub use archive::ImageError;
pub use embedded::{ECHO_IMAGE, PAUSE_IMAGE, ensure_pause};
pub use engine::{EngineError, connect_engine, ensure_engine};
pub use ensure::{Listed, Policy, State, ensure_images, list};
pub use progress::{Progress, Silent, Stage};
pub use recipe::{Recipe, recipe as recipe_for, recipes};
