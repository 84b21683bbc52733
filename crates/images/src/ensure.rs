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

/// What the engine has of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No image of that name.
    Absent,
    /// An image built from this recipe.
    Built,
    /// An image built from the recipe as it once was.
    Outdated,
    /// An image of that name from elsewhere, such as a registry.
    Foreign,
}

/// A recipe and what the engine has of it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The recipe.
    pub recipe: Recipe,
    /// The state of its image.
    pub state: State,
    /// The image's size in bytes, if it is there.
    pub size: Option<u64>,
}

/// What is to be done for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Use,
    Build,
    PullElseBuild,
    Pull,
}

/// Decides what to do for one image: `state` as the engine has it, `has_recipe` whether we could build it.
fn decide(state: State, has_recipe: bool, policy: Policy) -> Step {
    match (state, has_recipe, policy) {
        (_, true, Policy::Rebuild) => Step::Build,
        (State::Built | State::Foreign, ..) => Step::Use,
        // It was built here, so this is where its successor comes from.
        (State::Outdated, true, _) => Step::Build,
        (State::Outdated, false, _) => Step::Use,
        (State::Absent, true, Policy::Build) => Step::Build,
        (State::Absent, true, Policy::PullOrBuild) => Step::PullElseBuild,
        (State::Absent, false, _) => Step::Pull,
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
    let found = recipe(name).map(Arc::new);
    let state = state_of(docker, name, found.as_deref()).await?;
    match (decide(state, found.is_some(), policy), found) {
        (Step::Use, _) => {}
        (Step::Build, Some(recipe)) => builder.build(docker, &recipe, progress).await?,
        (Step::PullElseBuild, Some(recipe)) => {
            if let Err(error) = pull(docker, name, progress).await {
                tracing::info!(name, %error, "no registry has it for us; building it");
                builder.build(docker, &recipe, progress).await?;
            }
        }
        (Step::Pull | Step::PullElseBuild | Step::Build, _) => pull(docker, name, progress).await?,
    }
    progress.report(name, Stage::Done, 0, 0);
    Ok(())
}

/// Every recipe and what the engine has of it.
pub async fn list(docker: &Docker) -> Result<Vec<Listed>, ImageError> {
    let mut listed = Vec::new();
    for recipe in recipes() {
        let state = state_of(docker, &recipe.image, Some(&recipe)).await?;
        let size = match state {
            State::Absent => None,
            _ => docker.inspect_image(&recipe.image).await?.size.map(|bytes| bytes.max(0) as u64),
        };
        listed.push(Listed { recipe, state, size });
    }
    Ok(listed)
}

async fn state_of(docker: &Docker, name: &str, recipe: Option<&Recipe>) -> Result<State, ImageError> {
    let found = recipe_of(docker, name).await?;
    Ok(match (found, recipe) {
        (None, _) => State::Absent,
        (Some(None), _) => State::Foreign,
        (Some(Some(hash)), Some(recipe)) if hash != recipe.hash => State::Outdated,
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
            (Built, true, PullOrBuild, Step::Use),
            (Foreign, true, PullOrBuild, Step::Use),
            (Foreign, false, Build, Step::Use),
            (Outdated, true, PullOrBuild, Step::Build),
            (Absent, true, PullOrBuild, Step::PullElseBuild),
            (Absent, true, Build, Step::Build),
            (Absent, false, PullOrBuild, Step::Pull),
            (Absent, false, Build, Step::Pull),
            (Built, true, Rebuild, Step::Build),
            (Foreign, true, Rebuild, Step::Build),
            (Foreign, false, Rebuild, Step::Use),
        ];
        for (state, has_recipe, policy, expected) in table {
            assert_eq!(decide(state, has_recipe, policy), expected, "{state:?} {has_recipe} {policy:?}");
        }
    }
}
