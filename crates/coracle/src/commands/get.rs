//! `coracle get --at-revision`: what was there.

use std::path::PathBuf;

use anyhow::{Context, bail};
use http::Request;
use http::header::ACCEPT;
use serde_json::Value;

use crate::cli::{Get, OutputForm};
use crate::commands::client;
use crate::commands::kinds::{Kind, resolve};
use crate::data_dir::DataDir;
use crate::store::oldest;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

pub async fn run(data_dir: Option<PathBuf>, mut options: Get) -> anyhow::Result<()> {
    if options.name.is_none()
        && let Some((kind, name)) = options.kind.split_once('/')
    {
        (options.name, options.kind) = (Some(name.to_owned()), kind.to_owned());
    }
    let dir = DataDir::new(data_dir)?;
    let client = client(&dir).await?;
    let kind = resolve(&client, &options.kind).await?;
    let namespace = (!options.all_namespaces).then_some(&options.namespace[..]);
    let revision = options.at_revision;
    let mut path = format!("{}?resourceVersionMatch=Exact&resourceVersion={revision}", kind.collection(namespace));
    if let Some(name) = &options.name {
        path += &format!("&fieldSelector=metadata.name%3D{name}");
    }
    let form = if options.output == OutputForm::Wide { TABLE } else { "application/json" };
    let request = Request::get(path).header(ACCEPT, form).body(Vec::new())?;
    let list: Value = match client.request(request).await {
        Err(kube::Error::Api(status)) if status.code == 410 => {
            let oldest = oldest(&options.store, &dir).await.map(|oldest| format!(": the oldest that is, is {oldest}"));
            bail!(
                "revision {revision} is no longer kept{} (see --etcd-compaction-interval of `coracle up`)",
                oldest.unwrap_or_default()
            )
        }
        Err(kube::Error::Api(status)) => bail!("Error from server ({}): {}", status.reason, status.message),
        other => other?,
    };
    let found = list["rows"].as_array().or(list["items"].as_array()).context("the answer is no list")?;
    match &options.name {
        Some(name) if found.is_empty() => {
            bail!("Error from server (NotFound): {} {name:?} not found", kind.qualified())
        }
        None if found.is_empty() => eprintln!("No resources found."),
        _ => print!("{}", printed(&kind, &list, &options)?),
    }
    Ok(())
}

fn printed(kind: &Kind, list: &Value, options: &Get) -> anyhow::Result<String> {
    let items = list["items"].as_array().map_or(&[][..], |items| items);
    // One that was asked for by name is printed alone.
    let shown = if options.name.is_some() { &items.first().cloned().unwrap_or_default() } else { list };
    Ok(match options.output {
        OutputForm::Yaml => serde_yaml_ng::to_string(shown)?,
        OutputForm::Json => format!("{shown:#}\n"),
        OutputForm::Name => {
            let singular = match &kind.group[..] {
                "" => kind.resource.singular_name.clone(),
                group => format!("{}.{group}", kind.resource.singular_name),
            };
            items.iter().map(|item| format!("{singular}/{}\n", text(&item["metadata"]["name"]))).collect()
        }
        OutputForm::Wide => table(list, options.all_namespaces && kind.resource.namespaced),
    })
}

/// A Table's columns that are meant for everybody, as kubectl prints them.
fn table(list: &Value, namespaces: bool) -> String {
    let columns = list["columnDefinitions"].as_array().map_or(&[][..], |columns| columns);
    let shown: Vec<usize> = (0..columns.len()).filter(|index| columns[*index]["priority"] == 0).collect();
    let row = |namespace: &str, cell: &dyn Fn(usize) -> String| -> Vec<String> {
        let namespace = namespaces.then(|| namespace.to_owned()).into_iter();
        namespace.chain(shown.iter().map(|index| cell(*index))).collect()
    };
    let mut rows = vec![row("NAMESPACE", &|index| text(&columns[index]["name"]).to_uppercase())];
    for found in list["rows"].as_array().into_iter().flatten() {
        let namespace = text(&found["object"]["metadata"]["namespace"]);
        rows.push(row(&namespace, &|index| text(&found["cells"][index])));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}   ")).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_the_columns_that_are_for_everybody() {
        let list = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "IP", "priority": 1}, {"name": "Age", "priority": 0}],
            "rows": [{"cells": ["long-name", "1.2.3.4", "5s"], "object": {"metadata": {"namespace": "shop"}}}],
        });
        assert_eq!(table(&list, false), "NAME        AGE\nlong-name   5s\n");
        assert_eq!(table(&list, true), "NAMESPACE   NAME        AGE\nshop        long-name   5s\n");
    }
}
