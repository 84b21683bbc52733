//! `kill -9` under load: what was acknowledged is there, what was not is there whole or not at all, revisions go on,
//! and a watch resumed from where it was tells each change once.
//!
//! `CORACLE_STORE_KILL_ROUNDS=500 cargo test -p coracle-store --test kill -- --nocapture` for more than a few rounds.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod history;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coracle_store::*;
use futures::StreamExt;
use history::naive::State;
use history::{Action, Answer, Call, History};

const WRITERS: usize = 8;

async fn open(dir: &Path) -> Arc<SledStore> {
    // A checkpoint every few dozen commits.
    SledStore::open(SledConfig { checkpoint_bytes: 20_000, ..SledConfig::new(dir) }).await.unwrap()
}

fn variable(name: &str) -> Option<i64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The transaction a writer makes as its `n`th of a round: of several keys, some of which others write too.
fn transaction(round: i64, writer: usize, n: usize) -> Txn {
    let value = format!("{round}.{writer}.{n}.{}", "x".repeat(n % 50));
    let put = |key: String, lease| Op::Put { key: key.into(), value: value.clone().into(), lease };
    let mut success =
        vec![put(format!("a/{writer}"), 0), put(format!("b/{writer}"), 0), put(format!("s/{}", n % 5), 0)];
    match n % 10 {
        1..=5 if writer == 0 => success.push(put(format!("l/{n}"), lease(round, n))),
        6 => success.push(Op::Delete(KeyRange::prefix(format!("t/{writer}/")))),
        _ => success.push(put(format!("t/{writer}/{}", n % 10), 0)),
    }
    let often_put = Compare {
        range: KeyRange::key(format!("s/{}", n % 4)),
        target: CompareTarget::Version(20),
        operator: CompareOperator::Greater,
    };
    let failure = success[..3].to_vec();
    Txn { compare: vec![often_put], success, failure }
}

/// The lease that the first writer has in its `n`th transaction.
fn lease(round: i64, n: usize) -> LeaseId {
    round << 20 | (n as i64 / 10 + 1)
}

/// A key as a line, and back.
fn line(kv: &KeyValue) -> String {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    let KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
    format!("{},{},{create_revision},{mod_revision},{version},{lease}", text(key), text(value))
}

fn parse(line: &str) -> Option<KeyValue> {
    let [key, value, numbers @ ..] = &line.split(',').collect::<Vec<_>>()[..] else { return None };
    let numbers: Vec<i64> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    let [create_revision, mod_revision, version, lease] = numbers[..] else { panic!("{line}") };
    let (key, value) = (key.to_string().into(), value.to_string().into());
    Some(KeyValue { key, value, create_revision, mod_revision, version, lease })
}

/// Not a test of its own: the process that is killed. It says each call, each answer and each change that it sees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_to_be_killed() {
    let Ok(dir) = std::env::var("CORACLE_STORE_KILL_DIR") else { return };
    let (round, seen) = (variable("ROUND").unwrap(), AtomicI64::new(variable("SEEN").unwrap()));
    println!("\nopen;");
    let store = open(Path::new(&dir)).await;
    let all = WatchRequest::new(KeyRange::prefix(""), Some(seen.load(Ordering::SeqCst) + 1));
    let mut changes = store.watch(all).await.unwrap();
    let watch = async {
        while let Some(batch) = changes.next().await {
            let batch = batch.unwrap();
            for Event { kv, prev, deleted } in &batch.events {
                println!("event {deleted} {} {};", line(kv), prev.as_ref().map_or("none".into(), line));
            }
            println!("whole;");
            seen.store(batch.revision, Ordering::SeqCst);
        }
    };
    let write = async |writer: usize| {
        for n in 0.. {
            match (writer, n % 10) {
                (0, 0) => _ = store.lease_grant(lease(round, n), Duration::from_secs(3600)).await.unwrap(),
                (0, 8) => store.lease_revoke(lease(round, n)).await.unwrap(),
                // There may be nothing new to forget.
                (1, 0) => _ = store.compact(seen.load(Ordering::SeqCst) - 5).await,
                _ => {}
            }
            println!("call {writer} {n};");
            let response = store.txn(transaction(round, writer, n)).await.unwrap();
            println!("answer {writer} {n} {};", response.revision);
        }
    };
    futures::join!(watch, futures::future::join_all((0..WRITERS).map(write)));
}

/// What the process said until it was killed.
#[derive(Default)]
struct Said {
    calls: BTreeMap<(usize, usize), Call>,
    events: Vec<Event>,
    /// Those of a batch that it has not said all of.
    partial: Vec<Event>,
    lines: usize,
}

impl Said {
    fn note(&mut self, round: i64, line: &str) {
        self.lines += 1;
        // What the test harness says, and a line that was cut, does not count.
        let Some(line) = line.strip_suffix(';') else { return };
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        match words[0] {
            "call" => {
                let action = Action::Txn(transaction(round, number(1), number(2)));
                self.calls.insert((number(1), number(2)), Call { began: self.lines, action, answer: None });
            }
            "answer" => {
                let call = self.calls.get_mut(&(number(1), number(2))).unwrap();
                call.answer = Some((self.lines, Answer::Done(number(3) as Revision)));
            }
            "event" => {
                let (kv, prev) = (parse(words[2]).unwrap(), parse(words[3]));
                self.partial.push(Event { kv, prev, deleted: words[1] == "true" });
            }
            "whole" => self.events.append(&mut self.partial),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_and_leaves_nothing_half_done() {
    let rounds = variable("CORACLE_STORE_KILL_ROUNDS").unwrap_or(5);
    let dir = tempfile::tempdir().unwrap();
    let (mut state, mut head) = (State::new(), 1);
    let (mut answered, mut unanswered, mut survived) = (0, 0, 0);
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process_to_be_killed", "--nocapture"])
            .envs([("CORACLE_STORE_KILL_DIR", dir.path())])
            .envs([("ROUND", round.to_string()), ("SEEN", head.to_string())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(|line| line.ok());
        let mut said = Said::default();
        // Anywhere from the opening on; the rounds are the same each time, the instants as good as random.
        let last = 4 + (round as usize * 7919) % 2500;
        lines.by_ref().take(last).for_each(|line| said.note(round, &line));
        child.kill().unwrap();
        // What was said before the kill reached the pipe.
        lines.for_each(|line| said.note(round, &line));
        child.wait().unwrap();

        let store = open(dir.path()).await;
        let seen = said.events.last().map_or(head, |event| event.kv.mod_revision);
        assert!(store.revision() >= seen, "round {round}: {} after {seen} was seen", store.revision());
        let mut rest = store.watch(WatchRequest::new(KeyRange::prefix(""), Some(seen + 1))).await.unwrap();
        while said.events.last().map_or(head, |event| event.kv.mod_revision) < store.revision() {
            said.events.extend(rest.next().await.unwrap().unwrap().events);
        }
        let history = History { calls: said.calls.into_values().collect(), events: said.events, watches: Vec::new() };
        let known = history.calls.iter().filter(|call| call.answer.is_some()).count();
        answered += known;
        unanswered += history.calls.len() - known;
        survived += history
            .events
            .iter()
            .filter(|event| event.kv.mod_revision > seen && event.kv.key.starts_with(b"a/"))
            .count();
        state = history.check(state, head).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
        let found = store.range(RangeRequest::new(KeyRange::prefix(""))).await.unwrap().kvs;
        assert!(found.iter().eq(state.values()), "round {round}");
        head = store.revision();
        if round % 3 == 0 {
            store.close().await.unwrap();
        }
    }
    println!(
        "{rounds} kills, {head} revisions: {answered} answered calls all there; of {unanswered} unanswered \
         and those nobody had seen yet, {survived} there and whole"
    );
}
