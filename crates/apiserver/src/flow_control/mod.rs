//! Priority and fairness: who waits when there is too much to do.
//!
//! ```text
//! request ─► first FlowSchema that matches ─► its priority level ─► a free seat: go on
//!                                                               └► none: wait in one of the flow's queues, or 429
//! ```
//!
//! A request takes a seat of its level until its answer begins; requests that may last (exec, logs, proxies, …) take
//! none, and a watch only while it is set up. [`bootstrap`] holds the FlowSchemas and PriorityLevelConfigurations that
//! the server keeps, [`schema`] decides which one a request belongs to, [`seats`] who may go on. Where upstream moves
//! seats between levels every ten seconds, here a level borrows, at once, what nobody else is owed; and every request
//! is one seat wide.

pub mod bootstrap;
pub mod in_flight;
mod schema;
mod seats;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use coracle_api::{ApiError, ApiResult};
use coracle_store::Revision;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::hooks::UserInfo;
use crate::rbac::cached;
use crate::request_info::RequestInfo;
use crate::storage::Storage;
use schema::{Schema, Schemas};
use seats::{Arrival, Seats, Ticket};

/// The API group of the two kinds.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const KINDS: [&str; 2] = ["flowschemas", "prioritylevelconfigurations"];
/// How long a request waits for a seat: a quarter of `--request-timeout`, as upstream has it.
const WAIT: Duration = Duration::from_secs(15);
const TOO_MANY: &str = "Too many requests, please try again later.";
/// When those who are turned away may come again.
const RETRY_SECONDS: u32 = 1;

/// The requests of one priority level that are over or were turned away.
#[derive(Debug, Default)]
struct Counts {
    /// By schema and level.
    dispatched: BTreeMap<(String, String), u64>,
    /// By schema, level and reason.
    rejected: BTreeMap<(String, String, &'static str), u64>,
}

#[derive(Debug, Default)]
struct State {
    seats: Seats,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
    counts: Counts,
}

/// Decides which requests go on.
#[derive(Debug)]
pub struct FlowControl {
    storage: Arc<Storage>,
    /// How many seats there are.
    total: u32,
    /// The schemas and the revision of the last change they have seen.
    schemas: RwLock<(Revision, Arc<Schemas>)>,
    state: Mutex<State>,
}

/// A request's seat, given back when dropped, and what it came under.
#[derive(Debug)]
pub struct Pass {
    control: Arc<FlowControl>,
    schema: Arc<Schema>,
    seated: bool,
}

impl Pass {
    /// Tells the client which FlowSchema and PriorityLevelConfiguration its request came under.
    pub fn mark(&self, headers: &mut HeaderMap) {
        for (name, uid) in [
            ("x-kubernetes-pf-flowschema-uid", &self.schema.uid),
            ("x-kubernetes-pf-prioritylevel-uid", &self.schema.level_uid),
        ] {
            if let Ok(value) = HeaderValue::from_str(uid) {
                headers.insert(name, value);
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.seated {
            self.control.leave(&self.schema.level);
        }
    }
}

/// A place in a queue; who gives up leaves it.
struct Place<'a> {
    control: &'a FlowControl,
    level: &'a str,
    ticket: Ticket,
    called: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.called {
            return;
        }
        let mut state = self.control.state();
        if state.waiting.remove(&self.ticket).is_some() {
            state.seats.give_up(self.level, self.ticket);
        } else {
            // It was called in the moment in which it gave up.
            drop(state);
            self.control.leave(self.level);
        }
    }
}

/// Whether a request lasts as long as its client likes.
pub(crate) fn lasts(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "attach" | "exec" | "log" | "portforward" | "proxy")
}

impl FlowControl {
    /// With `total` seats, by the configuration in `storage`, as it changes.
    pub fn new(storage: Arc<Storage>, total: u32) -> Arc<Self> {
        Arc::new(FlowControl { storage, total, schemas: RwLock::default(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration as of now. After a change it is read anew, and the objects that are ours are looked after.
    fn schemas(self: &Arc<Self>) -> Arc<Schemas> {
        let newest = KINDS.iter().map(|kind| self.storage.last_change(GROUP, kind)).max().unwrap_or(0);
        {
            let held = self.schemas.read().unwrap_or_else(PoisonError::into_inner);
            if held.0 == newest {
                return held.1.clone();
            }
        }
        let [flow_schemas, levels] = KINDS.map(|kind| cached(&self.storage, GROUP, kind, ""));
        let schemas = Arc::new(Schemas::build(&flow_schemas, &levels));
        *self.schemas.write().unwrap_or_else(PoisonError::into_inner) = (newest, schemas.clone());
        {
            let mut state = self.state();
            state.seats.configure(self.total, &levels);
            state.call();
        }
        let control = self.clone();
        tokio::spawn(async move {
            if let Err(error) = bootstrap::maintain(&control.storage).await {
                tracing::debug!(%error, "the objects of priority and fairness are looked after at their next change");
            }
        });
        schemas
    }

    /// Waits until the request may go on.
    ///
    /// # Errors
    /// 429 if it may not.
    pub async fn admit(self: &Arc<Self>, user: &UserInfo, info: &RequestInfo) -> ApiResult<Option<Pass>> {
        let schemas = self.schemas();
        let Some(schema) = schemas.of(user, info) else { return Ok(None) };
        if lasts(info) {
            return Ok(Some(Pass { control: self.clone(), schema: schema.clone(), seated: false }));
        }
        let flow = || {
            let mut hasher = DefaultHasher::new();
            (&schema.name, schema.distinguisher(user, info)).hash(&mut hasher);
            hasher.finish()
        };
        let (ticket, call) = {
            let mut state = self.state();
            match state.seats.arrive(&schema.level, flow) {
                Arrival::Seated => {
                    state.count(schema);
                    return Ok(Some(Pass { control: self.clone(), schema: schema.clone(), seated: true }));
                }
                Arrival::Rejected(reason) => return Err(state.reject(schema, reason)),
                Arrival::Queued(ticket) => {
                    let (sender, call) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    (ticket, call)
                }
            }
        };
        let mut place = Place { control: self, level: &schema.level, ticket, called: false };
        match coracle_clock::timeout(WAIT, call).await {
            Ok(Ok(())) => {
                place.called = true;
                self.state().count(schema);
                Ok(Some(Pass { control: self.clone(), schema: schema.clone(), seated: true }))
            }
            _ => {
                drop(place);
                Err(self.state().reject(schema, "time-out"))
            }
        }
    }

    fn leave(&self, level: &str) {
        let mut state = self.state();
        state.seats.leave(level);
        state.call();
    }

    /// The counts as Prometheus text, by upstream's names.
    pub fn metrics(&self, out: &mut String) {
        let state = self.state();
        let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, u64)>| {
            let _ = writeln!(out, "# HELP apiserver_flowcontrol_{name} {help}");
            let _ = writeln!(out, "# TYPE apiserver_flowcontrol_{name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(out, "apiserver_flowcontrol_{name}{{{labels}}} {value}");
            }
        };
        let dispatched = state
            .counts
            .dispatched
            .iter()
            .map(|((schema, level), count)| (format!("flow_schema={schema:?},priority_level={level:?}"), *count));
        let help = "Number of requests executed by API Priority and Fairness subsystem";
        family("dispatched_requests_total", "counter", help, dispatched.collect());
        let rejected = state.counts.rejected.iter().map(|((schema, level, reason), count)| {
            (format!("flow_schema={schema:?},priority_level={level:?},reason={reason:?}"), *count)
        });
        let help = "Number of requests rejected by API Priority and Fairness subsystem";
        family("rejected_requests_total", "counter", help, rejected.collect());
        for (name, help, value) in seats::GAUGES {
            let lines = state.seats.levels().map(|(level, seats)| (format!("priority_level={level:?}"), value(seats)));
            family(name, "gauge", help, lines.collect());
        }
    }
}

impl State {
    /// Tells those whose turn it is. Whoever has gone meanwhile gives the seat back itself (see [`Place`]).
    fn call(&mut self) {
        for ticket in self.seats.call() {
            if let Some(sender) = self.waiting.remove(&ticket) {
                let _ = sender.send(());
            }
        }
    }

    fn count(&mut self, schema: &Schema) {
        *self.counts.dispatched.entry((schema.name.clone(), schema.level.clone())).or_default() += 1;
    }

    fn reject(&mut self, schema: &Schema, reason: &'static str) -> ApiError {
        *self.counts.rejected.entry((schema.name.clone(), schema.level.clone(), reason)).or_default() += 1;
        too_many()
    }
}

/// 429: the refusal of those for whom there is no seat.
pub fn too_many() -> ApiError {
    ApiError::too_many_requests(TOO_MANY, RETRY_SECONDS)
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;
