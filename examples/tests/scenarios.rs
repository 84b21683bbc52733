//! The scenarios that are shipped hold what they expect, tell a story, and are the same each time.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::path::{Path, PathBuf};

use coracle_sim::{Pace, Report, Scenario};

fn all() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
    files.sort();
    files
}

fn play(file: &Path) -> Report {
    let scenario = Scenario::load(file).unwrap_or_else(|refusal| panic!("{refusal}"));
    scenario.run(&mut Pace::default()).unwrap_or_else(|error| panic!("{}: {error:?}", file.display()))
}

#[test]
fn every_scenario_meets_its_expectations_and_says_what_to_look_for() {
    let files = all();
    assert!(files.len() >= 6, "{files:?}");
    let mut unmet = Vec::new();
    for file in files {
        let report = play(&file);
        assert!(report.description.contains("Look "), "{}", file.display());
        assert!(!report.verdicts.is_empty() && !report.story.is_empty(), "{}", file.display());
        if !report.met() {
            let story: Vec<_> =
                report.story.iter().map(|line| format!("{:>8} {}", line.at.to_string(), line.text)).collect();
            unmet.push(format!("{}\n{}{}", file.display(), report.text(), story.join("\n")));
        }
        let page = report.html();
        assert!(page.matches("<svg").count() >= 7 && !page.contains("NaN"), "{}", file.display());
        assert!(!page.contains("http") && !page.contains("<script"), "the page needs something else");
    }
    assert!(unmet.is_empty(), "{}", unmet.join("\n\n"));
}

#[test]
fn one_seed_is_one_history_and_another_is_another() {
    let file = all().into_iter().find(|file| file.ends_with("spot-storm.yaml")).unwrap();
    let (first, second) = (play(&file), play(&file));
    assert_eq!(first.history_hash, second.history_hash);
    assert_eq!(serde_json::to_string(&first).unwrap(), serde_json::to_string(&second).unwrap());
    let mut scenario = Scenario::load(&file).unwrap();
    scenario.spec.seed += 1;
    let other = scenario.run(&mut Pace::default()).unwrap();
    assert_ne!(first.history_hash, other.history_hash);
}
