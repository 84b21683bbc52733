//! Makes sure that images are there: used, pulled or built.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt;
use futures::future::try_join_all;

use crate::archive::{ImageError, recipe_of};
use crate::builder::Builder;
use crate::embedded::{EMBEDDED, Embedded};
use crate::progress::{Progress, Stage};
use crate::recipe::{Recipe, recipe, recipes};

/// A registry that has said nothing for so long does not answer.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(3);
/// A pull in which nothing moves for so long has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Where images may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Those there are; else from a registry; else built.
    #[default]
    PullOrBuild,
    /// Those there are; else built: no registry is asked.
    Build,
    /// Built anew, even if they are there.
    Rebuild,
}

/// What we could make an image from.
#[derive(Debug, Clone)]
enum Source {
    /// A recipe.
    Recipe(Arc<Recipe>),
    /// A program in this binary.
    Embedded(&'static Embedded),
}

impl Source {
    fn of(name: &str) -> Option<Source> {
        let embedded = Embedded::find(name).map(Source::Embedded);
        embedded.or_else(|| recipe(name).map(Arc::new).map(Source::Recipe))
    }

    fn hash(&self) -> String {
        match self {
            Source::Recipe(recipe) => recipe.hash.clone(),
            Source::Embedded(embedded) => embedded.hash(),
        }
    }

    async fn build(&self, docker: &Docker, builder: &Builder, progress: &Arc<dyn Progress>) -> Result<(), ImageError> {
        match self {
            Source::Recipe(recipe) => builder.build(docker, recipe, progress).await,
            Source::Embedded(embedded) => embedded.load(docker).await,
        }
    }
}

/// What the engine has of an image that we could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No image of that name.
    Absent,
    /// The image that we would make.
    Built,
    /// An image that an earlier version of its recipe made.
    Outdated,
    /// An image of that name from elsewhere, such as a registry.
    Foreign,
}

/// An image that we can make, and what the engine has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The image's name.
    pub image: String,
    /// What it is, in a line.
    pub about: String,
    /// What the engine has.
    pub state: State,
    /// The image's size in bytes, if it is there.
    pub size: Option<u64>,
}

/// Whether and how we could make an image ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Makeable {
    No,
    FromPackages,
    FromThisBinary,
}

/// What is to be done for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Use,
    Build,
    PullElseBuild,
    Pull,
}

/// Decides what to do for one image: `state` as the engine has it.
fn decide(state: State, makeable: Makeable, policy: Policy) -> Step {
    match (state, makeable, policy) {
        (State::Absent, Makeable::No, _) => Step::Pull,
        (_, Makeable::No, _) => Step::Use,
        (_, _, Policy::Rebuild) => Step::Build,
        (State::Built | State::Foreign, ..) => Step::Use,
        // It was built here, so this is where its successor comes from.
        (State::Outdated, ..) => Step::Build,
        // No registry has these.
        (State::Absent, Makeable::FromThisBinary, _) => Step::Build,
        (State::Absent, Makeable::FromPackages, Policy::Build) => Step::Build,
        (State::Absent, Makeable::FromPackages, Policy::PullOrBuild) => Step::PullElseBuild,
    }
}

/// Makes sure that the engine has these images; several are pulled or built side by side.
///
/// `folder` (`<data-dir>/images`) keeps package indexes and packages between builds.
pub async fn ensure_images(
    docker: &Docker,
    names: &[&str],
    policy: Policy,
    folder: &Path,
    progress: Arc<dyn Progress>,
) -> Result<(), ImageError> {
    let builder = Builder::new(folder);
    try_join_all(names.iter().map(|name| ensure_image(docker, name, policy, &builder, &progress))).await?;
    Ok(())
}

async fn ensure_image(
    docker: &Docker,
    name: &str,
    policy: Policy,
    builder: &Builder,
    progress: &Arc<dyn Progress>,
) -> Result<(), ImageError> {
    progress.report(name, Stage::Look, 0, 0);
    let source = Source::of(name);
    let state = state_of(docker, name, source.as_ref()).await?;
    match (decide(state, kind_of(source.as_ref()), policy), source) {
        (Step::Use, _) => {}
        (Step::Build, Some(source)) => source.build(docker, builder, progress).await?,
        (Step::PullElseBuild, Some(source)) => {
            if let Err(error) = pull(docker, name, progress).await {
                tracing::info!(name, %error, "no registry has it for us; building it");
                source.build(docker, builder, progress).await?;
            }
        }
        (Step::Pull | Step::PullElseBuild | Step::Build, _) => pull(docker, name, progress).await?,
    }
    progress.report(name, Stage::Done, 0, 0);
    Ok(())
}

/// Every image that we can make and what the engine has of it.
pub async fn list(docker: &Docker) -> Result<Vec<Listed>, ImageError> {
    let recipes = recipes().into_iter().map(|recipe| (recipe.image, recipe.about));
    let embedded = EMBEDDED.iter().map(|embedded| (embedded.image.to_owned(), embedded.about.to_owned()));
    let mut listed = Vec::new();
    for (image, about) in recipes.chain(embedded) {
        let state = state_of(docker, &image, Source::of(&image).as_ref()).await?;
        let size = match state {
            State::Absent => None,
            _ => docker.inspect_image(&image).await?.size.map(|bytes| bytes.max(0) as u64),
        };
        listed.push(Listed { image, about, state, size });
    }
    Ok(listed)
}

fn kind_of(source: Option<&Source>) -> Makeable {
    match source {
        None => Makeable::No,
        Some(Source::Recipe(_)) => Makeable::FromPackages,
        Some(Source::Embedded(_)) => Makeable::FromThisBinary,
    }
}

async fn state_of(docker: &Docker, name: &str, source: Option<&Source>) -> Result<State, ImageError> {
    let found = recipe_of(docker, name).await?;
    Ok(match (found, source) {
        (None, _) => State::Absent,
        (Some(None), _) => State::Foreign,
        (Some(Some(hash)), Some(source)) if hash != source.hash() => State::Outdated,
        (Some(Some(_)), _) => State::Built,
    })
}

/// Pulls an image, if its registry begins to answer within [`REGISTRY_TIMEOUT`].
async fn pull(docker: &Docker, name: &str, progress: &Arc<dyn Progress>) -> Result<(), ImageError> {
    let silent = |limit: Duration| {
        ImageError::Host(format!("the registry of {name} did not answer within {} s", limit.as_secs()))
    };
    progress.report(name, Stage::Pull, 0, 0);
    let options = CreateImageOptionsBuilder::default().from_image(name).build();
    let mut answers = std::pin::pin!(docker.create_image(Some(options), None, None));
    let mut limit = REGISTRY_TIMEOUT;
    let mut layers = std::collections::BTreeMap::new();
    loop {
        let answer = coracle_clock::timeout(limit, answers.next()).await.map_err(|_| silent(limit))?;
        let Some(answer) = answer.transpose()? else { return Ok(()) };
        limit = STALL_TIMEOUT;
        if let (Some(id), Some(detail)) = (answer.id, answer.progress_detail) {
            let (done, total) = (detail.current.unwrap_or(0).max(0), detail.total.unwrap_or(0).max(0));
            layers.insert(id, (done as u64, total as u64));
            let sum = |part: fn(&(u64, u64)) -> u64| layers.values().map(part).sum();
            progress.report(name, Stage::Pull, sum(|(done, _)| *done), sum(|(_, total)| *total));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_used_then_pulled_then_built() {
        use Policy::{Build, PullOrBuild, Rebuild};
        use State::{Absent, Built, Foreign, Outdated};
        let table = [
            (Built, Makeable::FromPackages, PullOrBuild, Step::Use),
            (Foreign, Makeable::FromPackages, PullOrBuild, Step::Use),
            (Foreign, Makeable::No, Build, Step::Use),
            (Outdated, Makeable::FromPackages, PullOrBuild, Step::Build),
            (Outdated, Makeable::FromThisBinary, PullOrBuild, Step::Build),
            (Absent, Makeable::FromPackages, PullOrBuild, Step::PullElseBuild),
            (Absent, Makeable::FromPackages, Build, Step::Build),
            (Absent, Makeable::FromThisBinary, PullOrBuild, Step::Build),
            (Absent, Makeable::No, PullOrBuild, Step::Pull),
            (Absent, Makeable::No, Build, Step::Pull),
            (Built, Makeable::FromPackages, Rebuild, Step::Build),
            (Foreign, Makeable::FromPackages, Rebuild, Step::Build),
            (Foreign, Makeable::No, Rebuild, Step::Use),
        ];
        for (state, makeable, policy, expected) in table {
            assert_eq!(decide(state, makeable, policy), expected, "{state:?} {makeable:?} {policy:?}");
        }
    }
}
