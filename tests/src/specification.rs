//! A specification: named sections that run in order on one cluster.
//!
//! The usual test harness starts every test on its own and in parallel. These tests share a cluster that lives
//! through a story (installed, killed, scaled, rolled back), so each file is a small program of its own that
//! speaks like the usual harness: `cargo test -p coracle-tests --test wordpress -- scale` runs the sections with
//! `scale` in their names.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// A named section.
pub type Section<T> = (&'static str, fn(&T));

/// Names functions as sections, by the modules they are in: `sections![a, b]`.
#[macro_export]
macro_rules! sections {
    ($($section:ident),* $(,)?) => {
        &[$((concat!(module_path!(), "::", stringify!($section)), $section as fn(&_))),*]
    };
}

/// A section's name as the usual harness says it: without the program's.
fn short(name: &'static str) -> &'static str {
    name.split_once("::").map_or(name, |(_, name)| name)
}

/// Runs the sections on what `start` makes; exits with status 101 if one fails, like a test.
///
/// `missing` says why they cannot run here; `report` says what helps to understand a failure.
#[allow(clippy::disallowed_methods)] // how long it really took
pub fn specification<T>(
    sections: &[Section<T>],
    missing: impl FnOnce() -> Option<String>,
    start: impl FnOnce() -> T,
    report: impl Fn(&T) -> String,
) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        sections.iter().for_each(|(name, _)| println!("{}: test", short(name)));
        return;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name| filters.is_empty() || filters.iter().any(|filter| short(name).contains(*filter));
    let chosen: Vec<&Section<T>> = sections.iter().filter(|(name, _)| wanted(name)).collect();
    println!("\nrunning {} sections", chosen.len());
    if chosen.is_empty() {
        return;
    }
    if let Some(reason) = missing() {
        assert!(!crate::cluster::required(), "{reason}");
        println!("skipped: {reason}\n");
        return;
    }
    let begin = Instant::now();
    let subject = start();
    println!("started ({:.1} s)", begin.elapsed().as_secs_f64());
    let mut failed = vec![];
    for (name, section) in chosen {
        let name = short(name);
        let begin = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(|| section(&subject))).is_ok();
        let outcome = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {outcome} ({:.1} s)", begin.elapsed().as_secs_f64());
        if !passed {
            if failed.is_empty() {
                eprintln!("{}", report(&subject));
            }
            failed.push(name);
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    if failed.is_empty() {
        drop(subject);
        println!("\ntest result: ok. ({seconds:.1} s)\n");
        return;
    }
    if std::env::var_os("CORACLE_TEST_KEEP").is_some() {
        std::mem::forget(subject);
    } else {
        drop(subject);
    }
    println!("\ntest result: FAILED: {} ({seconds:.1} s)\n", failed.join(", "));
    std::process::exit(101);
}
