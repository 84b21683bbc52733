//! `coracle images`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use coracle_images::{ECHO_IMAGE, PAUSE_IMAGE, Policy, State, ensure_engine, ensure_images, list, recipe_for, recipes};

use crate::cli::{Images, ImagesCommand};
use crate::data_dir::DataDir;
use crate::progress::Display;

pub async fn run(data_dir: Option<PathBuf>, options: Images) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let display = Arc::new(Display::new());
    let docker = ensure_engine(display.as_ref()).await?;
    match options.command {
        ImagesCommand::List => {
            println!("{:<28} {:<10} {:>9}", "IMAGE", "STATE", "SIZE");
            for listed in list(&docker).await? {
                let state = match listed.state {
                    State::Absent => "absent",
                    State::Built => "built",
                    State::Outdated => "outdated",
                    State::Foreign => "pulled",
                };
                let size = listed.size.map_or_else(String::new, |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
                println!("{:<28} {state:<10} {size:>9}", listed.image);
            }
            Ok(())
        }
        ImagesCommand::Build { names, force } => {
            // Two small ones are in this binary and need no recipe.
            let embedded = [PAUSE_IMAGE, ECHO_IMAGE];
            let recipes = recipes().into_iter().map(|recipe| recipe.image);
            let all: Vec<String> = recipes.chain(embedded.map(str::to_owned)).collect();
            let known = |name: &str| recipe_for(name).is_some() || embedded.contains(&name);
            if let Some(unknown) = names.iter().find(|name| !known(name)) {
                bail!("there is no recipe for {unknown}; there are: {}", all.join(", "));
            }
            let wanted = if names.is_empty() { &all } else { &names };
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            let policy = if force { Policy::Rebuild } else { Policy::Build };
            dir.create()?;
            ensure_images(&docker, &wanted, policy, &dir.join("images"), display).await?;
            Ok(())
        }
    }
}
