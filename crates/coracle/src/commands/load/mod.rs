//! `coracle load`: traffic, and what becomes of it.

mod tally;
mod visitor;

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coracle_clock::Instant;
use tokio::task::JoinSet;

use self::tally::Tally;
use self::visitor::{Aim, Visitor};
use super::component::shutdown_on_signal;
use crate::cli;

/// How often there is something to read; less often where lines stay.
const REPORT: Duration = Duration::from_secs(1);
const PLAIN_REPORT: Duration = Duration::from_secs(5);
/// After a failure a visitor rests, so that a server that is down is not hammered.
const REST: Duration = Duration::from_millis(100);

/// What the visitors share.
struct Shared {
    aim: Aim,
    start: Instant,
    /// Requests a second of all visitors together; as fast as they are answered without.
    rate: Option<f64>,
    next: AtomicU64,
    lately: Mutex<Tally>,
}

/// Sends requests until the time is over or somebody interrupts, and says what became of them.
pub async fn run(options: cli::Load) -> anyhow::Result<()> {
    let aim = Aim::parse(&options.url, options.insecure)?;
    // What cannot be reached at all is an error, not a statistic.
    let first = Visitor::new(&aim).await.map_err(|why| anyhow::anyhow!("cannot reach {}: {why}", options.url))?;
    let shutdown = shutdown_on_signal()?;
    let start = coracle_clock::instant();
    let shared = Arc::new(Shared { aim, start, rate: options.rate, next: AtomicU64::new(0), lately: Mutex::default() });
    let mut visitors = JoinSet::new();
    let firsts = std::iter::once(Some(first)).chain(std::iter::repeat_with(|| None));
    for visitor in firsts.take(options.connections.max(1)) {
        visitors.spawn(visit(shared.clone(), visitor));
    }
    let end = options.duration.map(|duration| start + duration);
    let terminal = std::io::stdout().is_terminal();
    let period = if terminal { REPORT } else { PLAIN_REPORT };
    let (mut total, mut since) = (Tally::default(), start);
    loop {
        let until = (since + period).min(end.unwrap_or(since + period));
        let go_on = shutdown.run_until_cancelled(coracle_clock::sleep_until(until)).await.is_some();
        let now = coracle_clock::instant();
        let lately = std::mem::take(&mut *shared.lately.lock().unwrap_or_else(PoisonError::into_inner));
        let over = !go_on || end.is_some_and(|end| now >= end);
        if !over || !terminal {
            let line = format!("{:>4} s  {}", (now - start).as_secs(), lately.line(now - since));
            // On a terminal the line is written over the one before.
            let (before, after) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
            print!("{before}{line}{after}");
            std::io::stdout().flush()?;
        }
        total.add(lately);
        since = now;
        if over {
            break;
        }
    }
    visitors.abort_all();
    if terminal {
        print!("\r\x1b[K");
    }
    print!("{}", total.summary(coracle_clock::instant() - start));
    Ok(())
}

/// One visitor, who sends a request when it is due, and the next when that is answered.
async fn visit(shared: Arc<Shared>, mut visitor: Option<Visitor>) {
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if let Some(rate) = shared.rate {
            coracle_clock::sleep_until(shared.start + Duration::from_secs_f64(number as f64 / rate)).await;
        }
        let begin = coracle_clock::instant();
        let outcome = visitor::exchange(&shared.aim, &mut visitor).await;
        let failed = outcome.is_err();
        let took = begin.elapsed();
        shared.lately.lock().unwrap_or_else(PoisonError::into_inner).note(outcome, took);
        if failed {
            coracle_clock::sleep(REST).await;
        }
    }
}
