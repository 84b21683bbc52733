//! From what metrics call for to what is done: stabilised over time, and no faster than the rules allow.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// What an autoscaler remembers between two looks. It begins anew with the process, as upstream's does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// What metrics called for, and when.
    recommended: Vec<(Timestamp, i32)>,
    /// How many replicas were added and taken away, and when.
    added: Vec<(Timestamp, i32)>,
    removed: Vec<(Timestamp, i32)>,
}

/// Between which an autoscaler may choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) min: i32,
    pub(super) max: i32,
}

/// A reason and a message of a condition.
pub(super) type Why = (&'static str, &'static str);

/// What is to be done, and why.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Normalized {
    pub(super) replicas: i32,
    /// Of `AbleToScale`.
    pub(super) able: Why,
    /// Whether less is done than metrics call for, and of `ScalingLimited`.
    pub(super) limited: (bool, Why),
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_LIMIT: Why = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Why = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");

fn ago(now: Timestamp, seconds: i32) -> Timestamp {
    now - Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn sum_since(changes: &[(Timestamp, i32)], cutoff: Timestamp) -> i32 {
    changes.iter().filter(|(at, _)| *at > cutoff).map(|(_, change)| change).sum()
}

impl Memory {
    /// The first look at a target takes its size for what was recommended.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push((now, current));
        }
    }

    /// What of `desired` is to be done now. `stabilization` is how long a recommendation holds against fewer replicas,
    /// unless the behaviour says otherwise.
    pub(super) fn normalize(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        stabilization: Duration,
        range: Range,
        (current, desired): (i32, i32),
        now: Timestamp,
    ) -> Normalized {
        let default = HPAScalingRules::default();
        let up = behavior.map(|behavior| behavior.scale_up.as_ref().unwrap_or(&default));
        let down = behavior.map(|behavior| behavior.scale_down.as_ref().unwrap_or(&default));
        let window = |rules: Option<&HPAScalingRules>| rules.and_then(|rules| rules.stabilization_window_seconds);
        let long = i32::try_from(stabilization.as_secs()).unwrap_or(i32::MAX);
        let (up_cutoff, down_cutoff) = (ago(now, window(up).unwrap_or(0)), ago(now, window(down).unwrap_or(long)));

        let since = |cutoff: Timestamp| self.recommended.iter().filter(move |(at, _)| *at > cutoff).map(|(_, it)| *it);
        let lowest = since(up_cutoff).chain([desired]).min().unwrap_or(desired);
        let highest = since(down_cutoff).chain([desired]).max().unwrap_or(desired);
        // Without a behaviour nothing holds up a rise, not even the present size.
        let stable = if behavior.is_some() { current.max(lowest).min(highest) } else { highest };
        self.recommended.retain(|(at, _)| *at >= up_cutoff.min(down_cutoff));
        self.recommended.push((now, desired));

        let rising = behavior.is_some() && desired >= current;
        let able = match stable == desired {
            true => READY,
            false if rising => UP_STABILIZED,
            false => DOWN_STABILIZED,
        };
        let (replicas, why) = match (up, down) {
            (Some(up), Some(down)) => self.limit(up, down, range, (current, stable), now),
            _ => limit_by_default(range, (current, stable)),
        };
        Normalized { replicas, able, limited: (replicas != stable, why) }
    }

    fn limit(
        &self,
        up: &HPAScalingRules,
        down: &HPAScalingRules,
        range: Range,
        (current, desired): (i32, i32),
        now: Timestamp,
    ) -> (i32, Why) {
        if desired > current {
            let limit = self.bound(up, current, now, true).max(current);
            let (most, why) = if range.max > limit { (limit, UP_LIMIT) } else { (range.max, TOO_MANY) };
            if desired > most {
                return (most, why);
            }
        } else if desired < current {
            let limit = self.bound(down, current, now, false).min(current);
            let (least, why) = if range.min < limit { (limit, DOWN_LIMIT) } else { (range.min, TOO_FEW) };
            if desired < least {
                return (least, why);
            }
        }
        (desired, WITHIN)
    }

    /// The size that the policies allow at most (or at least), from what it was when their periods began.
    fn bound(&self, rules: &HPAScalingRules, current: i32, now: Timestamp, up: bool) -> i32 {
        let proposed = rules.policies.iter().flatten().map(|policy| {
            let cutoff = ago(now, policy.period_seconds);
            let start = current - sum_since(&self.added, cutoff) + sum_since(&self.removed, cutoff);
            let percent = f64::from(start) * f64::from(policy.value) / 100.0;
            match (policy.type_.as_str(), up) {
                ("Percent", true) => (f64::from(start) + percent).ceil() as i32,
                ("Percent", false) => (f64::from(start) - percent) as i32,
                (_, true) => start.saturating_add(policy.value),
                (_, false) => start - policy.value,
            }
        });
        // The greatest change, unless the least is asked for; upwards that is the greatest size.
        let bound = match rules.select_policy.as_deref() {
            Some("Disabled") => Some(current),
            policy if (policy == Some("Min")) == up => proposed.min(),
            _ => proposed.max(),
        };
        bound.unwrap_or(current)
    }

    /// A change was made. Only behaviours ask for that later.
    pub(super) fn rescaled(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        (from, to): (i32, i32),
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        let longest = [&behavior.scale_up, &behavior.scale_down].into_iter().flatten();
        let longest = longest.flat_map(|rules| rules.policies.iter().flatten()).map(|policy| policy.period_seconds);
        let cutoff = ago(now, longest.max().unwrap_or_default());
        for changes in [&mut self.added, &mut self.removed] {
            changes.retain(|(at, _)| *at >= cutoff);
        }
        if to > from {
            self.added.push((now, to - from));
        } else {
            self.removed.push((now, from - to));
        }
    }
}

/// Without a behaviour a target at most doubles at a time, or grows to four.
fn limit_by_default(range: Range, (current, desired): (i32, i32)) -> (i32, Why) {
    let limit = current.saturating_mul(2).max(4);
    let (most, why) = if range.max > limit { (limit, UP_LIMIT) } else { (range.max, TOO_MANY) };
    if desired < range.min {
        (range.min, TOO_FEW)
    } else if desired > most {
        (most, why)
    } else {
        (desired, WITHIN)
    }
}
