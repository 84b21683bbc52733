//! Seats: how many requests of each priority level are under way, and who waits for a seat.
//!
//! A level is owed its nominal seats less those it lends. It takes more while there are seats that nobody else is
//! owed, up to its borrowing limit. Within a level, flows are dealt to queues (each flow a hand of a few, of which it
//! takes the shortest), and queues are served in turn: who sends much waits behind itself, not before others.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::text;

/// Who waits.
pub type Ticket = u64;

/// What becomes of a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It goes on.
    Seated,
    /// It waits until its ticket is called.
    Queued(Ticket),
    /// It is turned away, for upstream's reason.
    Rejected(&'static str),
}

/// How a level's requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queuing {
    queues: usize,
    hand_size: usize,
    length_limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Ticket>,
    /// How much this queue has been served, on the level's scale: the least served is next.
    served: u64,
}

/// One priority level.
#[derive(Debug, Default)]
pub struct Level {
    exempt: bool,
    nominal: u32,
    /// What it is owed at any time.
    owed: u32,
    /// The most it may have.
    most: u32,
    queuing: Option<Queuing>,
    queues: Vec<Queue>,
    waiting: usize,
    executing: u32,
    /// The scale of `served`: that of the queue that was served last.
    clock: u64,
}

/// A gauge: its name, its help text, and how a level tells it.
pub type Gauge = (&'static str, &'static str, fn(&Level) -> u64);

/// What a level shows in metrics, by upstream's names.
pub const GAUGES: [Gauge; 4] = [
    (
        "current_executing_requests",
        "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and \
         Fairness subsystem",
        |level| u64::from(level.executing),
    ),
    (
        "current_inqueue_requests",
        "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
        |level| level.waiting as u64,
    ),
    ("nominal_limit_seats", "Nominal number of execution seats configured for each priority level", |level| {
        u64::from(level.nominal)
    }),
    (
        "upper_limit_seats",
        "Configured upper bound on number of execution seats available to each priority level",
        |level| u64::from(level.most),
    ),
];

/// All levels.
#[derive(Debug, Default)]
pub struct Seats {
    total: u32,
    levels: BTreeMap<String, Level>,
    next: Ticket,
}

/// The level as the object describes it, of `total` seats shared by `shares`.
fn level(object: &Value, total: u32, shares: i64) -> Level {
    let spec = &object["spec"];
    let exempt = text(spec, "/type") == "Exempt";
    let config = if exempt { &spec["exempt"] } else { &spec["limited"] };
    let number = |value: &Value| value.as_i64().unwrap_or(0).max(0);
    let seats = |seats: i64| u32::try_from(seats).unwrap_or(u32::MAX);
    let percent = |of: u32, percent: i64| seats((i64::from(of) * percent + 50) / 100);
    let nominal = seats((i64::from(total) * number(&config["nominalConcurrencyShares"]) + shares - 1) / shares.max(1));
    let borrows = config["borrowingLimitPercent"].as_i64().map(|limit| percent(nominal, limit.max(0)));
    let queuing = &config["limitResponse"]["queuing"];
    let size = |key: &str| usize::try_from(number(&queuing[key])).unwrap_or(0).max(1);
    Level {
        exempt,
        nominal,
        // One at least, so that every level gets on, however few seats there are.
        owed: (nominal - percent(nominal, number(&config["lendablePercent"]).min(100))).max(1),
        most: borrows.map_or(total, |borrows| nominal.saturating_add(borrows)),
        queuing: (text(config, "/limitResponse/type") == "Queue").then(|| Queuing {
            queues: size("queues"),
            hand_size: size("handSize").min(size("queues")),
            length_limit: size("queueLengthLimit"),
        }),
        ..Level::default()
    }
}

/// A hand of `size` different cards of a deck of `deck`, dealt by a hash as upstream deals it.
fn hand(mut hash: u64, deck: usize, size: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(size);
    for round in 0..size.min(deck) {
        let left = (deck - round) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        let mut before = dealt.clone();
        before.sort_unstable();
        for other in before {
            if card >= other {
                card += 1;
            }
        }
        dealt.push(card);
    }
    dealt
}

impl Level {
    fn enqueue(&mut self, ticket: Ticket, hash: u64) -> bool {
        let Some(queuing) = self.queuing else { return false };
        if self.queues.is_empty() {
            // Made when first needed: an idle level costs nothing.
            self.queues.resize_with(queuing.queues, Queue::default);
        }
        let dealt = hand(hash, self.queues.len(), queuing.hand_size);
        let Some(shortest) = dealt.into_iter().min_by_key(|index| self.queues[*index].waiting.len()) else {
            return false;
        };
        let queue = &mut self.queues[shortest];
        if queue.waiting.len() >= queuing.length_limit {
            return false;
        }
        if queue.waiting.is_empty() {
            // An idle queue saves up nothing.
            queue.served = queue.served.max(self.clock);
        }
        queue.waiting.push_back(ticket);
        self.waiting += 1;
        true
    }

    fn dequeue(&mut self) -> Option<Ticket> {
        let waiting = self.queues.iter_mut().filter(|queue| !queue.waiting.is_empty());
        let queue = waiting.min_by_key(|queue| queue.served)?;
        self.clock = queue.served;
        queue.served += 1;
        self.waiting -= 1;
        queue.waiting.pop_front()
    }
}

impl Seats {
    /// Takes over a configuration. Who is under way or waits stays so.
    pub fn configure(&mut self, total: u32, objects: &[Value]) {
        self.total = total;
        let shares = |object: &Value| {
            let spec = &object["spec"];
            let config = if text(spec, "/type") == "Exempt" { &spec["exempt"] } else { &spec["limited"] };
            config["nominalConcurrencyShares"].as_i64().unwrap_or(0).max(0)
        };
        let sum = objects.iter().map(shares).sum::<i64>().max(1);
        let mut old = std::mem::take(&mut self.levels);
        for object in objects {
            let name = text(object, "/metadata/name");
            let mut new = level(object, total, sum);
            if let Some(before) = old.remove(name) {
                let tickets = before.queues.into_iter().flat_map(|queue| queue.waiting);
                new.executing = before.executing;
                new.adopt(tickets);
            }
            self.levels.insert(name.to_owned(), new);
        }
        // What is no more is owed nothing, and ends when the last of its requests does.
        let left = old.into_iter().filter(|(_, level)| level.executing > 0 || level.waiting > 0);
        self.levels.extend(left.map(|(name, level)| (name, Level { nominal: 0, owed: 0, ..level })));
    }

    /// The levels by name.
    pub fn levels(&self) -> impl Iterator<Item = (&String, &Level)> {
        self.levels.iter()
    }

    fn has_seat(&self, level: &Level) -> bool {
        if level.exempt || level.executing < level.owed {
            return true;
        }
        let limited = || self.levels.values().filter(|level| !level.exempt);
        let taken: u32 = limited().map(|other| other.executing.max(other.owed)).sum();
        level.executing < level.most && taken < self.total
    }

    /// A request of a level arrives; `flow` tells, if it must wait, the hash of its flow.
    pub fn arrive(&mut self, name: &str, flow: impl FnOnce() -> u64) -> Arrival {
        let Some(level) = self.levels.get(name) else { return Arrival::Rejected("cancelled") };
        let seated = level.waiting == 0 && self.has_seat(level);
        let Some(level) = self.levels.get_mut(name) else { return Arrival::Rejected("cancelled") };
        if seated {
            level.executing += 1;
            return Arrival::Seated;
        }
        if level.queuing.is_none() {
            return Arrival::Rejected("concurrency-limit");
        }
        self.next += 1;
        if level.enqueue(self.next, flow()) { Arrival::Queued(self.next) } else { Arrival::Rejected("queue-full") }
    }

    /// A request of a level is over.
    pub fn leave(&mut self, name: &str) {
        if let Some(level) = self.levels.get_mut(name) {
            level.executing = level.executing.saturating_sub(1);
        }
    }

    /// Who waits, waits no longer.
    pub fn give_up(&mut self, name: &str, ticket: Ticket) {
        let Some(level) = self.levels.get_mut(name) else { return };
        for queue in &mut level.queues {
            let before = queue.waiting.len();
            queue.waiting.retain(|waiting| *waiting != ticket);
            level.waiting -= before - queue.waiting.len();
        }
    }

    /// Seats those whose turn it is, and says who they are.
    pub fn call(&mut self) -> Vec<Ticket> {
        let mut called = Vec::new();
        loop {
            let next = self.levels.iter().find(|(_, level)| level.waiting > 0 && self.has_seat(level));
            let Some(name) = next.map(|(name, _)| name.clone()) else { return called };
            let Some(level) = self.levels.get_mut(&name) else { return called };
            level.executing += 1;
            called.extend(level.dequeue());
        }
    }
}

impl Level {
    /// Takes over those who wait. Where nobody may wait any more, or there are too many, they are seated in time.
    fn adopt(&mut self, tickets: impl Iterator<Item = Ticket>) {
        for ticket in tickets {
            if self.queues.is_empty() {
                self.queues.resize_with(self.queuing.map_or(1, |queuing| queuing.queues), Queue::default);
            }
            let index = ticket as usize % self.queues.len();
            self.queues[index].waiting.push_back(ticket);
            self.waiting += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn limited(name: &str, shares: i64, lendable: i64, queues: Option<(i64, i64, i64)>) -> Value {
        let response = match queues {
            None => json!({ "type": "Reject" }),
            Some((queues, hand, limit)) => json!({ "type": "Queue", "queuing": {
                "queues": queues, "handSize": hand, "queueLengthLimit": limit } }),
        };
        json!({ "metadata": { "name": name }, "spec": { "type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response } } })
    }

    fn seats(total: u32, levels: &[Value]) -> Seats {
        let mut seats = Seats::default();
        seats.configure(total, levels);
        seats
    }

    #[test]
    fn a_level_has_its_share_and_borrows_what_others_lend() {
        let mut seats = seats(10, &[limited("a", 1, 0, None), limited("b", 1, 60, None)]);
        let mut arrive = |name: &str| seats.arrive(name, || 0) == Arrival::Seated;
        // `a` is owed 5; `b` keeps 2 of its 5.
        assert_eq!((0..10).filter(|_| arrive("a")).count(), 8);
        assert_eq!((0..10).filter(|_| arrive("b")).count(), 2);
        seats.leave("a");
        assert_eq!(seats.arrive("b", || 0), Arrival::Seated);
        assert_eq!(seats.arrive("b", || 0), Arrival::Rejected("concurrency-limit"));
    }

    #[test]
    fn the_exempt_level_is_never_full() {
        let exempt = json!({ "metadata": { "name": "exempt" }, "spec": { "type": "Exempt" } });
        let mut seats = seats(1, &[exempt, limited("a", 1, 0, None)]);
        assert!((0..100).all(|_| seats.arrive("exempt", || 0) == Arrival::Seated));
        assert_eq!(seats.arrive("a", || 0), Arrival::Seated);
    }

    #[test]
    fn a_flow_that_sends_much_waits_behind_itself() {
        let mut seats = seats(1, &[limited("a", 1, 0, Some((8, 1, 4)))]);
        let mut arrive = |flow: u64| seats.arrive("a", || flow);
        assert_eq!(arrive(0), Arrival::Seated);
        let busy: Vec<Arrival> = (0..5).map(|_| arrive(1)).collect();
        assert_eq!(busy[4], Arrival::Rejected("queue-full"));
        let Arrival::Queued(quiet) = arrive(2) else { panic!("it waits") };
        let order: Vec<Ticket> = (0..3)
            .flat_map(|_| {
                seats.leave("a");
                seats.call()
            })
            .collect();
        assert_eq!(order.len(), 3);
        assert_eq!(order[1], quiet, "the quiet flow is next but one: {order:?}");
    }

    #[test]
    fn who_gives_up_is_not_called() {
        let mut seats = seats(1, &[limited("a", 1, 0, Some((2, 1, 4)))]);
        assert_eq!(seats.arrive("a", || 0), Arrival::Seated);
        let Arrival::Queued(ticket) = seats.arrive("a", || 0) else { panic!("it waits") };
        seats.give_up("a", ticket);
        seats.leave("a");
        assert!(seats.call().is_empty());
        assert_eq!(seats.arrive("a", || 0), Arrival::Seated);
    }

    #[test]
    fn those_who_wait_go_on_under_a_new_configuration() {
        let mut seats = seats(1, &[limited("a", 1, 0, Some((2, 1, 4)))]);
        assert_eq!(seats.arrive("a", || 0), Arrival::Seated);
        let Arrival::Queued(ticket) = seats.arrive("a", || 0) else { panic!("it waits") };
        seats.configure(2, &[limited("a", 1, 0, None)]);
        assert_eq!(seats.call(), [ticket]);
        seats.configure(2, &[]);
        seats.leave("a");
        seats.leave("a");
        assert!(seats.levels().all(|(_, level)| level.executing == 0));
    }

    proptest! {
        #[test]
        fn a_hand_is_of_different_cards(hash: u64, deck in 1usize..200, size in 1usize..12) {
            let mut dealt = hand(hash, deck, size);
            prop_assert_eq!(dealt.len(), size.min(deck));
            dealt.sort_unstable();
            dealt.dedup();
            prop_assert_eq!(dealt.len(), size.min(deck));
            prop_assert!(dealt.iter().all(|card| *card < deck));
        }

        #[test]
        fn no_more_are_under_way_than_there_are_seats(steps in proptest::collection::vec((0u8..3, any::<u64>()), 1..200)) {
            let levels = [limited("a", 3, 50, Some((4, 2, 3))), limited("b", 1, 0, Some((4, 2, 3)))];
            let mut seats = seats(4, &levels);
            let (mut under_way, mut waiting) = (0usize, 0usize);
            for (step, flow) in steps {
                let name = if flow % 2 == 0 { "a" } else { "b" };
                if step == 2 && seats.levels[name].executing > 0 {
                    seats.leave(name);
                    under_way -= 1;
                } else {
                    match seats.arrive(name, || flow) {
                        Arrival::Seated => under_way += 1,
                        Arrival::Queued(_) => waiting += 1,
                        Arrival::Rejected(_) => {}
                    }
                }
                let called = seats.call().len();
                under_way += called;
                waiting -= called;
                prop_assert!(under_way <= 4);
                // Nobody waits while somebody owes them a seat.
                prop_assert!(waiting == 0 || under_way >= 1);
            }
        }
    }
}
