//! A checker of histories: what concurrent clients saw, held against what a store may do.
//!
//! To judge a history linearizable one must in general try every order of its calls. Here the store says the order
//! itself: each change has its revision, each read the revision it was read at. So it is enough to replay the changes
//! once and to ask of every call: does its answer follow from the state at its revision, and did nothing that had
//! ended before it began come later? A call whose answer never came may have happened at most once, or not at all.
//! A watch, then, must have told a part of the same changes. The properties are those of etcd's own robustness tests.
//!
//! What is wrong is an `Err` that says so, for the checker itself is tested with wrong histories.

#![allow(dead_code)] // each test that includes this uses a part of it

use std::collections::BTreeMap;

use coracle_store::*;

pub mod clients;
pub mod naive;

use naive::State;

/// What a client asked for.
#[derive(Clone, Debug)]
pub enum Action {
    Txn(Txn),
    Range(RangeRequest),
}

/// What a client was told.
#[derive(Clone, Debug)]
pub enum Answer {
    Txn(TxnResponse),
    Range(RangeResponse),
    /// Only that it is done, by this revision.
    Done(Revision),
}

/// A call of a client. Times are places in one order of all beginnings and ends.
#[derive(Clone, Debug)]
pub struct Call {
    pub began: usize,
    pub action: Action,
    /// When and what was answered; nobody knows what became of a call without.
    pub answer: Option<(usize, Answer)>,
}

/// All that one watch told, over all its resumptions.
#[derive(Clone, Debug)]
pub struct Watched {
    pub range: KeyRange,
    pub start: Revision,
    pub batches: Vec<WatchBatch>,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub calls: Vec<Call>,
    /// Every change, in order.
    pub events: Vec<Event>,
    pub watches: Vec<Watched>,
}

type Verdict<T = ()> = Result<T, String>;

impl History {
    /// Judges the history of a store that held `state` at `revision`; returns what it holds in the end.
    pub fn check(&self, mut state: State, mut revision: Revision) -> Verdict<State> {
        let mut at: BTreeMap<Revision, Vec<&Call>> = BTreeMap::new();
        let mut past: BTreeMap<Revision, Vec<&Call>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for call in &self.calls {
            match (&call.action, call.revision()) {
                (_, None) => unknown.push(call),
                (Action::Range(RangeRequest { revision: Some(past_revision), .. }), Some(_)) => {
                    past.entry(*past_revision).or_default().push(call);
                }
                (_, Some(revision)) => at.entry(revision).or_default().push(call),
            }
        }
        let mut placed = Vec::new();
        let mut changes = self.events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision);
        loop {
            // Those that changed nothing saw the state that the last change left.
            for call in at.remove(&revision).unwrap_or_default() {
                call.check(&state, revision)?;
                placed.push((call, revision, false));
            }
            for call in past.remove(&revision).unwrap_or_default() {
                call.check(&state, revision)?;
                placed.push((call, call.revision().unwrap_or_default(), false));
            }
            let Some(events) = changes.next() else { break };
            revision += 1;
            if events[0].kv.mod_revision != revision {
                return Err(format!("revision {} follows {}", events[0].kv.mod_revision, revision - 1));
            }
            let made = |call: &&Call| call.makes(events, &state, revision);
            let here = at.entry(revision).or_default();
            match here.iter().position(made).map(|at| here.swap_remove(at)) {
                Some(call) => placed.push((call, revision, true)),
                // A call without an answer, then, or a lease that ended; else nobody asked for this.
                None => match unknown.iter().position(made) {
                    Some(at) => placed.push((unknown.swap_remove(at), revision, true)),
                    None if lease_ended(&state, events) => {}
                    None => return Err(format!("nobody asked for revision {revision}: {events:?}")),
                },
            }
            naive::apply(&mut state, events);
        }
        if let Some((revision, calls)) = at.iter().chain(&past).find(|(_, calls)| !calls.is_empty()) {
            return Err(format!("there is no revision {revision}, but {:?}", calls[0]));
        }
        in_real_time(placed)?;
        self.watches.iter().try_for_each(|watch| watch.check(&self.events, revision))?;
        Ok(state)
    }
}

impl Call {
    pub fn revision(&self) -> Option<Revision> {
        self.answer.as_ref().map(|(_, answer)| match answer {
            Answer::Txn(answer) => answer.revision,
            Answer::Range(answer) => answer.revision,
            Answer::Done(revision) => *revision,
        })
    }

    /// Whether it is this call that made `revision` of `state`.
    fn makes(&self, events: &[Event], state: &State, revision: Revision) -> bool {
        let Action::Txn(txn) = &self.action else { return false };
        let (expected, changes) = naive::execute(txn, state, revision);
        let told = match &self.answer {
            Some((_, Answer::Txn(told))) => format!("{told:?}") == format!("{expected:?}"),
            _ => true,
        };
        told && changes == events
    }

    /// Whether a call that changed nothing was answered from `state`.
    fn check(&self, state: &State, revision: Revision) -> Verdict {
        let (expected, told) = match (&self.action, &self.answer) {
            (Action::Txn(txn), Some((_, Answer::Txn(told)))) => {
                (format!("{:?}", naive::execute(txn, state, revision + 1).0), format!("{told:?}"))
            }
            (Action::Txn(txn), _) => {
                let (_, changes) = naive::execute(txn, state, revision + 1);
                ("[]".into(), format!("{changes:?}"))
            }
            (Action::Range(request), Some((_, Answer::Range(told)))) => {
                (format!("{:?}", naive::read(request, state, told.revision)), format!("{told:?}"))
            }
            _ => return Ok(()),
        };
        if expected == told { Ok(()) } else { Err(format!("at {revision} {self:?} should be {expected}")) }
    }
}

/// Whether these are the deletes of all that one lease held.
fn lease_ended(state: &State, events: &[Event]) -> bool {
    let Some(lease) = events[0].prev.as_ref().map(|kv| kv.lease).filter(|lease| *lease != 0) else { return false };
    let held = state.values().filter(|kv| kv.lease == lease);
    held.map(|kv| naive::delete(kv.clone(), events[0].kv.mod_revision)).eq(events.iter().cloned())
}

/// Whatever had ended before a call began lies before it: a change has a later revision than those, a read none earlier.
fn in_real_time(mut placed: Vec<(&Call, Revision, bool)>) -> Verdict {
    let mut ends: Vec<_> =
        placed.iter().filter_map(|(call, revision, _)| call.answer.as_ref().map(|(at, _)| (*at, *revision))).collect();
    ends.sort_unstable();
    placed.sort_unstable_by_key(|(call, ..)| call.began);
    let (mut ends, mut newest) = (ends.into_iter().peekable(), 0);
    for (call, revision, changed) in placed {
        while let Some((_, ended)) = ends.next_if(|(at, _)| *at < call.began) {
            newest = newest.max(ended);
        }
        if revision < newest || changed && revision == newest {
            return Err(format!("{newest} was answered before this began, which is {revision}: {call:?}"));
        }
    }
    Ok(())
}

impl Watched {
    /// Every change of the range from the start on, once (unique, reliable), in order, those of one revision together
    /// (atomic), none missing before a revision that is said to be reached (bookmarkable).
    fn check(&self, events: &[Event], head: Revision) -> Verdict {
        let mut reached = self.start - 1;
        for batch in &self.batches {
            let due = events.iter().filter(|event| {
                let at = event.kv.mod_revision;
                at > reached && at <= batch.revision && self.range.contains(&event.kv.key)
            });
            if batch.revision > head || !batch.events.is_empty() && batch.revision <= reached {
                return Err(format!("a watch that had reached {reached} reached {}", batch.revision));
            }
            if !due.eq(&batch.events) {
                return Err(format!("between {reached} and {} a watch told {:?}", batch.revision, batch.events));
            }
            reached = reached.max(batch.revision);
        }
        Ok(())
    }
}
