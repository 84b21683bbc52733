//! `coracle kubeconfig`: print it, or merge it into the user's own without harming what is there.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_yaml_ng::{Mapping, Value};

use crate::cli::Kubeconfig;
use crate::data_dir::{DataDir, write_private};

pub fn run(data_dir: Option<PathBuf>, options: Kubeconfig) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let path = dir.kubeconfig();
    if !path.exists() {
        bail!("there is no kubeconfig in {}; `coracle up` makes it", dir.path().display());
    }
    if options.path {
        println!("{}", path.display());
        return Ok(());
    }
    let ours = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if !options.merge {
        print!("{ours}");
        return Ok(());
    }
    let target = user_config()?;
    let theirs = match std::fs::read_to_string(&target) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", target.display())),
    };
    let merged = merge(&theirs, &ours).with_context(|| format!("{} is left as it was", target.display()))?;
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Through a link, as some people keep their configuration elsewhere.
    let target = std::fs::canonicalize(&target).unwrap_or(target);
    write_private(&target, merged.as_bytes())?;
    println!("Merged into {}. Use it with: kubectl --context coracle get nodes", target.display());
    Ok(())
}

/// The first file of `$KUBECONFIG`, or `~/.kube/config`.
fn user_config() -> anyhow::Result<PathBuf> {
    if let Some(first) = std::env::var_os("KUBECONFIG").and_then(|list| std::env::split_paths(&list).next())
        && first != Path::new("")
    {
        return Ok(first);
    }
    Ok(std::env::home_dir().context("there is no home directory")?.join(".kube/config"))
}

/// `theirs` with the clusters, users and contexts of `ours` added, or replaced where they have the same name. Their
/// current context stays.
fn merge(theirs: &str, ours: &str) -> anyhow::Result<String> {
    let ours: Mapping = serde_yaml_ng::from_str(ours)?;
    if theirs.trim().is_empty() {
        return Ok(serde_yaml_ng::to_string(&ours)?);
    }
    let mut merged: Mapping = serde_yaml_ng::from_str(theirs).context("it is not a kubeconfig")?;
    for list in ["clusters", "contexts", "users"] {
        let added = ours.get(list).and_then(Value::as_sequence).cloned().unwrap_or_default();
        let entry = merged.entry(list.into()).or_insert(Value::Sequence(Vec::new()));
        if entry.is_null() {
            *entry = Value::Sequence(Vec::new());
        }
        let existing = entry.as_sequence_mut().with_context(|| format!("its {list} are no list"))?;
        existing.retain(|item| !added.iter().any(|new| new.get("name") == item.get("name")));
        existing.extend(added);
    }
    let current = merged.get("current-context").and_then(Value::as_str).unwrap_or_default();
    if current.is_empty() {
        merged.insert("current-context".into(), ours.get("current-context").cloned().unwrap_or_default());
    }
    Ok(serde_yaml_ng::to_string(&merged)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "apiVersion: v1\nkind: Config\nclusters: [{name: coracle, cluster: {server: new}}]\n\
                        contexts: [{name: coracle}]\nusers: [{name: coracle}]\ncurrent-context: coracle\n";

    fn names(text: &str, list: &str) -> Vec<String> {
        let parsed: Value = serde_yaml_ng::from_str(text).unwrap();
        let items = parsed[list].as_sequence().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_is_there_stays() {
        let theirs = "clusters: [{name: work, cluster: {server: w}}, {name: coracle, cluster: {server: old}}]\n\
                      contexts: [{name: work}]\nusers:\ncurrent-context: work\npreferences: {colors: true}\n";
        let merged = merge(theirs, OURS).unwrap();
        assert_eq!(names(&merged, "clusters"), ["work", "coracle"]);
        assert_eq!(names(&merged, "contexts"), ["work", "coracle"]);
        assert_eq!(names(&merged, "users"), ["coracle"]);
        let parsed: Value = serde_yaml_ng::from_str(&merged).unwrap();
        assert_eq!(parsed["current-context"], Value::from("work"));
        assert_eq!(parsed["clusters"][1]["cluster"]["server"], Value::from("new"));
        assert_eq!(parsed["preferences"]["colors"], Value::from(true));
    }

    #[test]
    fn merging_twice_changes_nothing_more() {
        let once = merge("", OURS).unwrap();
        assert_eq!(merge(&once, OURS).unwrap(), merge(&merge(&once, OURS).unwrap(), OURS).unwrap());
        assert_eq!(names(&merge(&once, OURS).unwrap(), "users"), ["coracle"]);
    }

    #[test]
    fn what_is_no_kubeconfig_is_refused() {
        assert!(merge("just text", OURS).is_err());
        assert!(merge("clusters: yes", OURS).is_err());
    }
}
