//! Time and chance: the one clock, wall time, and seeded randomness.
//!
//! A cluster that is to be replayed must not ask the machine what time it is or roll the machine's
//! dice. Every component therefore takes both from here:
//!
//! - [`now`]: wall time, for timestamps in objects;
//! - [`instant`] and [`sleep`]: tokio's clock, for measuring and waiting (pausable in tests);
//! - [`random_u64`], [`random_below`], [`random_unit`], [`uuid`], [`name_suffix`]: chance;
//! - [`watch`]: a value that many watch, without chance in who is woken first.
//!
//! Outside a simulation these are the machine's clock and a randomly seeded generator. Inside one
//! ([`Simulation::start`], which holds for the current thread) wall time advances exactly with
//! tokio's paused clock from a fixed start, and chance follows from the seed: same seed, same history.

pub mod watch;

use std::cell::RefCell;
use std::time::Duration;

use jiff::Timestamp;
pub use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout};

/// What a simulation replaces: where its wall time began, and its source of chance.
struct Simulated {
    wall_start: Timestamp,
    clock_start: Instant,
    rng: fastrand::Rng,
}

thread_local! {
    static SIMULATED: RefCell<Option<Simulated>> = const { RefCell::new(None) };
    static RNG: RefCell<fastrand::Rng> = RefCell::new(fastrand::Rng::new());
}

/// A simulated world on the current thread; the real one returns when this is dropped.
///
/// Use it with a current-thread runtime whose clock is paused:
///
/// ```
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
/// runtime.block_on(async {
///     let _world = coracle_clock::Simulation::start(7);
///     let before = coracle_clock::now();
///     coracle_clock::sleep(std::time::Duration::from_secs(3600)).await; // takes no time at all
///     assert_eq!(coracle_clock::now().duration_since(before).as_secs(), 3600);
/// });
/// ```
#[derive(Debug)]
pub struct Simulation {
    // Thread-bound: dropping it on another thread would restore the wrong world.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Simulation {
    /// Wall time at the start of every simulation, so that histories can be compared byte for byte.
    pub const WALL_START: &'static str = "2026-01-01T00:00:00Z";

    /// Starts a simulated world on this thread from a seed. Must be called inside a tokio runtime.
    ///
    /// # Panics
    /// If this thread already lives in a simulation.
    pub fn start(seed: u64) -> Simulation {
        SIMULATED.with_borrow_mut(|slot| {
            assert!(slot.is_none(), "this thread already lives in a simulation");
            *slot = Some(Simulated {
                wall_start: Self::WALL_START.parse().expect("a constant RFC 3339 time"),
                clock_start: Instant::now(),
                rng: fastrand::Rng::with_seed(seed),
            });
        });
        Simulation { _not_send: std::marker::PhantomData }
    }

    /// Sets the wall clock of this thread's simulated world forward, which nobody who waits notices.
    pub fn set_forward(by: Duration) {
        SIMULATED.with_borrow_mut(|slot| slot.as_mut().into_iter().for_each(|world| world.wall_start += by));
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        SIMULATED.with_borrow_mut(|slot| *slot = None);
    }
}

/// Wall time.
#[allow(clippy::disallowed_methods)] // the one place that asks the machine
pub fn now() -> Timestamp {
    SIMULATED.with_borrow(|slot| match slot {
        Some(world) => world.wall_start + world.clock_start.elapsed(),
        None => Timestamp::now(),
    })
}

/// Wall time in whole seconds: the precision of `metav1.Time`.
pub fn now_seconds() -> Timestamp {
    Timestamp::from_second(now().as_second()).expect("whole seconds of a valid time")
}

/// The day in UTC, as `2026-01-31`.
pub fn today() -> String {
    now().strftime("%Y-%m-%d").to_string()
}

/// The present instant of tokio's clock, for measuring durations.
pub fn instant() -> Instant {
    Instant::now()
}

fn with_rng<T>(f: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
    SIMULATED.with_borrow_mut(|slot| match slot {
        Some(world) => f(&mut world.rng),
        None => RNG.with_borrow_mut(f),
    })
}

/// A random 64-bit number. Not for secrets: keys and tokens come from the TLS library.
pub fn random_u64() -> u64 {
    with_rng(|rng| rng.u64(..))
}

/// A random number below `bound`; 0 when `bound` is 0.
pub fn random_below(bound: usize) -> usize {
    if bound == 0 { 0 } else { with_rng(|rng| rng.usize(..bound)) }
}

/// A random number in `[0, 1)`.
pub fn random_unit() -> f64 {
    with_rng(fastrand::Rng::f64)
}

/// `base` lengthened by a random part of up to `factor` of it, as `wait.Jitter` does.
pub fn jitter(base: Duration, factor: f64) -> Duration {
    base + base.mul_f64(random_unit() * factor)
}

/// A random (version 4) UUID in its usual text form, as `metadata.uid` holds it.
pub fn uuid() -> String {
    let high = random_u64() & !0xf000 | 0x4000;
    let low = random_u64() & !(0b11 << 62) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// `length` random characters of the alphabet that Kubernetes uses for generated names: no vowels
/// and no look-alikes, so that no name spells a word or is misread.
pub fn name_suffix(length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..length).map(|_| char::from(ALPHABET[random_below(ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_simulation<T>(seed: u64, f: impl AsyncFnOnce() -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let _world = Simulation::start(seed);
            f().await
        })
    }

    #[test]
    fn the_same_seed_gives_the_same_history() {
        let history = |seed| {
            in_simulation(seed, async || {
                sleep(Duration::from_millis(random_u64() % 10_000)).await;
                (now(), uuid(), name_suffix(5), random_unit())
            })
        };
        assert_eq!(history(7), history(7));
        assert_ne!(history(7).1, history(8).1);
    }

    #[test]
    fn wall_time_advances_with_the_paused_clock_only() {
        in_simulation(1, async || {
            let start = now();
            assert_eq!(start, now());
            sleep(Duration::from_secs(86_400)).await;
            assert_eq!(now().duration_since(start).as_secs(), 86_400);
            Simulation::set_forward(Duration::from_secs(60));
            assert_eq!(now().duration_since(start).as_secs(), 86_460);
        });
    }

    #[test]
    fn a_uuid_has_version_4_and_the_rfc_9562_variant() {
        for _ in 0..100 {
            let id = uuid();
            assert_eq!(id.len(), 36);
            assert_eq!(&id[14..15], "4");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
    }
}
