//! The page: verdicts first, then figures, plots, and the story. It needs no other file and no script.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use super::svg::{Mark, Series, Style, bars, escape, plot, short};
use super::{PHASES, Report, Sample};
use crate::scenario::view::Sort;

const STYLE: &str = include_str!("style.css");
/// So many owners of pods are plotted, the largest.
const OWNERS: usize = 7;

/// The page of a report.
pub(super) fn page(report: &Report) -> String {
    let (class, word) = if report.met() { ("met", "all expectations met") } else { ("unmet", "not as expected") };
    let name = escape(&report.name);
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{name}</title><style>{STYLE}</style><main>\
         <h1>{name} <span class=\"badge {class}\">{word}</span></h1><div class=\"soft description\">{}</div>{}{}{}{}\
         <footer><code>seed {}, history {}</code></footer></main></html>\n",
        paragraphs(&report.description),
        verdicts(report),
        figures(report),
        plots(report),
        story(report),
        report.seed,
        report.history_hash
    )
}

/// A text whose lines end where they happen to, in paragraphs.
fn paragraphs(text: &str) -> String {
    let text = escape(text);
    text.split("\n\n").map(|paragraph| format!("<p>{}</p>", paragraph.trim())).collect()
}

fn verdicts(report: &Report) -> String {
    if report.verdicts.is_empty() {
        return String::new();
    }
    let mut html = "<section class=\"card\"><h2>Expectations</h2><table>".to_owned();
    for verdict in &report.verdicts {
        let (class, sign) = if verdict.met { ("met", "✓") } else { ("unmet", "✗") };
        let breaches = verdict.breaches.iter().filter(|_| !verdict.met);
        let breaches: String =
            breaches.map(|b| format!("<br>from {} to {}: {}", b.from, b.to, escape(&b.measured))).collect();
        let _ = write!(
            html,
            "<tr><td class=\"{class}\">{sign}</td><td><code>{}</code></td><td>{}{breaches}</td></tr>",
            escape(&verdict.expectation),
            escape(&verdict.seen)
        );
    }
    html + "</table></section>"
}

fn figures(report: &Report) -> String {
    let most = |of: fn(&Sample) -> usize| report.samples.iter().map(of).max().unwrap_or_default();
    let (asked, answered) = report
        .requests
        .iter()
        .fold((0.0, 0.0), |(all, done), requests| (all + requests.total, done + requests.answered));
    let mut all = vec![
        (report.duration.to_string(), "in the cluster's time"),
        (most(|sample| sample.nodes).to_string(), "nodes at most"),
        (most(|sample| sample.pods.iter().sum()).to_string(), "pods at most"),
        (format!("{} s", short(report.pending.p99)), "pending, p99"),
        (report.disruptions.len().to_string(), "pods disrupted"),
        (report.restarts.to_string(), "restarts"),
        (format!("${:.2}", report.cost_usd), "for nodes"),
    ];
    if asked > 0.0 {
        all.push((format!("{:.2} %", answered / asked * 100.0), "of requests answered"));
    }
    let all: String = all.iter().map(|(value, name)| format!("<div><b>{value}</b>{name}</div>")).collect();
    format!("<section class=\"card figures\">{all}</section>")
}

fn plots(report: &Report) -> String {
    let samples = &report.samples;
    let at: Vec<Duration> = samples.iter().map(|sample| sample.at.0).collect();
    let marks = report.story.iter().filter(|line| line.sort == Sort::Event);
    let marks: Vec<Mark> = marks.map(|line| Mark { at: line.at.0, text: line.text.clone() }).collect();
    let series = |name: &str, of: &dyn Fn(&Sample) -> f64| Series::new(name, samples.iter().map(of));
    let mut html = "<section class=\"plots\">".to_owned();
    let mut add = |title: &str, style: Style, all: Vec<Series>| {
        let class = if style == Style::Lines { "card lines" } else { "card" };
        let _ = write!(html, "<div class=\"{class}\"><h2>{title}</h2>{}</div>", plot(style, &at, &all, &marks));
    };
    let phases = PHASES.iter().enumerate().map(|(i, name)| series(name, &|s| s.pods[i] as f64));
    add("Pods by phase", Style::Stacked, phases.collect());
    let requests = [series("asked", &|s| s.requests[0]), series("answered", &|s| s.requests[1])];
    if samples.iter().any(|sample| sample.requests[0] > 0.0) {
        add("Requests per second", Style::Lines, requests.into());
    }
    let peak = |owner: &String| samples.iter().filter_map(|s| s.ready.get(owner)).max().copied().unwrap_or_default();
    let owners: BTreeSet<&String> = samples.iter().flat_map(|sample| sample.ready.keys()).collect();
    let mut owners: Vec<(usize, &String)> = owners.into_iter().map(|owner| (peak(owner), owner)).collect();
    owners.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let ready = owners
        .iter()
        .take(OWNERS)
        .map(|(_, owner)| series(owner, &|s| s.ready.get(*owner).copied().unwrap_or_default() as f64));
    add("Ready pods by owner", Style::Lines, ready.collect());
    let nodes =
        [series("ready", &|s| s.nodes_ready as f64), series("not ready", &|s| (s.nodes - s.nodes_ready) as f64)];
    add("Nodes", Style::Stacked, nodes.into());
    let three = |of: fn(&Sample) -> [f64; 3]| -> Vec<Series> {
        let names = ["used", "requested", "offered by ready nodes"];
        let order = [2, 1, 0];
        names.iter().zip(order).map(|(name, i)| series(name, &|sample| of(sample)[i])).collect()
    };
    add("Processors, cores", Style::Lines, three(|sample| sample.cpu));
    add("Memory, GiB", Style::Lines, three(|sample| sample.memory_gib));
    add(
        "Cost of nodes, USD",
        Style::Lines,
        vec![series("per hour", &|s| s.cost_usd[0]), series("in total", &|s| s.cost_usd[1])],
    );
    let steps = report.pending.histogram.iter().map(|(limit, count)| (format!("< {} s", short(*limit)), *count as f64));
    let _ = write!(
        html,
        "<div class=\"card\"><h2>Pods by how long they were pending</h2>{}</div></section>",
        bars(&steps.collect::<Vec<_>>())
    );
    html
}

fn story(report: &Report) -> String {
    let mut rows: Vec<(Duration, &str, String)> = Vec::new();
    for line in &report.story {
        let class = match line.sort {
            Sort::Event => "event",
            Sort::Cluster => "cluster",
            Sort::Expectation => "expectation",
            Sort::Stall => "stall",
        };
        rows.push((line.at.0, class, line.text.clone()));
    }
    // Disruptions of one moment and reason are one line.
    let mut disrupted: Vec<(Duration, &str, Vec<&str>)> = Vec::new();
    for disruption in &report.disruptions {
        match disrupted.last_mut() {
            Some((at, reason, pods)) if *at == disruption.at.0 && *reason == disruption.reason => {
                pods.push(&disruption.pod);
            }
            _ => disrupted.push((disruption.at.0, &disruption.reason, vec![&disruption.pod])),
        }
    }
    for (at, reason, pods) in disrupted {
        let more = if pods.len() > 3 { format!(" and {} more", pods.len() - 3) } else { String::new() };
        let named = pods.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        rows.push((at, "cluster", format!("{reason}: {named}{more}")));
    }
    rows.sort_by_key(|(at, ..)| *at);
    let mut html = "<section class=\"card\"><h2>What happened</h2><table>".to_owned();
    for (at, class, text) in rows {
        let at = super::Span(at);
        let _ = write!(html, "<tr class=\"{class}\"><td class=\"at\">{at}</td><td>{}</td></tr>", escape(&text));
    }
    html += "</table>";
    if !report.waits.is_empty() {
        html += "<h2>Waited for at the end</h2><ul>";
        report.waits.iter().for_each(|wait| {
            let _ = write!(html, "<li>{}</li>", escape(wait));
        });
        html += "</ul>";
    }
    html + "</section>"
}
