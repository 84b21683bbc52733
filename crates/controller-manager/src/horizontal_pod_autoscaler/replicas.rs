//! How many replicas a metric calls for: `current × usage / target`, as the documented algorithm has it.
//!
//! Pods that are not ready, or whose metrics are missing, count against a change: as if they used nothing when there
//! are to be more replicas, as if they used what they may when there are to be fewer. All amounts are in thousandths.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use kube::ResourceExt;

use crate::pods;

/// What a pod uses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    pub(super) window: Duration,
    pub(super) value: i64,
}

/// By the pods' names.
pub(super) type Samples = BTreeMap<String, Sample>;

/// How far usage may be from the target without anything being done, as shares of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    pub(super) down: f64,
    pub(super) up: f64,
}

impl Tolerance {
    fn holds(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What is scaled, as of now.
#[derive(Clone, Copy)]
pub(super) struct Scaled<'a> {
    pub(super) pods: &'a [Arc<Pod>],
    /// `spec.replicas` of the scale.
    pub(super) current: i32,
    pub(super) tolerance: Tolerance,
    pub(super) now: Timestamp,
    /// So long after their start the processor use of pods counts only if it was measured while they were ready.
    pub(super) cpu_initialization: Duration,
    /// A pod that was last ready so soon after its start counts as never ready.
    pub(super) initial_readiness: Duration,
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

impl Scaled<'_> {
    /// By usage as a percentage of what pods (or one container of each) request: replicas, that percentage, and the
    /// average usage.
    pub(super) fn by_utilization(
        &self,
        samples: Samples,
        resource: &str,
        container: Option<&str>,
        target: i32,
    ) -> Result<(i32, i32, i64), String> {
        // Nothing is asked of the requests of pods of which nothing is known.
        let counted = self.count(samples, resource)?;
        let requests = self.pods.iter().map(|pod| Ok((pod.name_any(), request(pod, container, resource)?)));
        let requests: BTreeMap<String, i64> = requests.collect::<Result<_, String>>()?;
        let utilization = |samples: &Samples| {
            let known = samples.iter().filter_map(|(name, sample)| Some((sample.value, *requests.get(name)?)));
            let (used, requested, number) = known.fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + 1));
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            Ok((i32::try_from(used * 100 / requested).unwrap_or(i32::MAX), used / number))
        };
        let (percent, average) = utilization(&counted.samples)?;
        let ratio = |samples: &Samples| Ok(f64::from(utilization(samples)?.0) / f64::from(target));
        let at_most = |pod: &str| requests.get(pod).copied().unwrap_or_default() * i64::from(target.max(100)) / 100;
        Ok((self.replicas(counted, ratio, at_most)?, percent, average))
    }

    /// By the average of what pods use: replicas, and that average.
    pub(super) fn by_average(&self, samples: Samples, resource: &str, target: i64) -> Result<(i32, i64), String> {
        let counted = self.count(samples, resource)?;
        let average = |samples: &Samples| {
            samples.values().map(|sample| sample.value).sum::<i64>() / i64::try_from(samples.len()).unwrap_or(1).max(1)
        };
        let now = average(&counted.samples);
        let ratio = |samples: &Samples| Ok(average(samples) as f64 / target as f64);
        Ok((self.replicas(counted, ratio, |_| target)?, now))
    }

    /// By one value for all.
    pub(super) fn by_value(&self, usage: i64, target: i64) -> Result<i32, String> {
        let ratio = usage as f64 / target as f64;
        if self.current == 0 {
            return Ok(up(ratio));
        }
        if self.tolerance.holds(ratio) {
            return Ok(self.current);
        }
        if self.pods.is_empty() {
            return Err(format!("unable to calculate ready pods: {NO_PODS}"));
        }
        let ready = self.pods.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)).count();
        Ok(up(ratio * ready as f64))
    }

    /// By one value for all, of which each replica is to have a share: replicas, and the share now.
    pub(super) fn by_share(&self, usage: i64, target: i64, status_replicas: i32) -> (i32, i64) {
        let ratio = usage as f64 / (target as f64 * f64::from(status_replicas));
        let share = (usage as f64 / f64::from(status_replicas)).ceil() as i64;
        let replicas = if self.tolerance.holds(ratio) { status_replicas } else { up(usage as f64 / target as f64) };
        (replicas, share)
    }

    /// Sorts pods and their samples by whether they count.
    fn count(&self, mut samples: Samples, resource: &str) -> Result<Counted, String> {
        if self.pods.is_empty() {
            return Err(NO_PODS.into());
        }
        let mut counted = Counted::default();
        for pod in self.pods {
            let name = pod.name_any();
            let unready = match samples.get(&name) {
                _ if pods::is_terminating(pod) || pods::phase(pod) == "Failed" => {
                    samples.remove(&name);
                    continue;
                }
                _ if pods::phase(pod) == "Pending" => true,
                None => {
                    counted.missing.insert(name);
                    continue;
                }
                Some(sample) => resource == "cpu" && self.is_warming_up(pod, sample),
            };
            if unready {
                samples.remove(&name);
                counted.unready.insert(name);
            } else {
                counted.ready += 1;
            }
        }
        if samples.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".into());
        }
        counted.samples = samples;
        Ok(counted)
    }

    /// Whether the sample is of a pod's start, which says nothing of what it will use.
    fn is_warming_up(&self, pod: &Pod, sample: &Sample) -> bool {
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else { return true };
        let since = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        if started + self.cpu_initialization > self.now {
            ready.status == "False" || sample.at < since + sample.window
        } else {
            ready.status == "False" && started + self.initial_readiness > since
        }
    }

    fn replicas(
        &self,
        Counted { ready, unready, missing, mut samples }: Counted,
        ratio: impl Fn(&Samples) -> Result<f64, String>,
        at_most: impl Fn(&str) -> i64,
    ) -> Result<i32, String> {
        let before = ratio(&samples)?;
        let rise_unready = before > 1.0 && !unready.is_empty();
        if !rise_unready && missing.is_empty() {
            return Ok(if self.tolerance.holds(before) { self.current } else { up(before * f64::from(ready)) });
        }
        let mut assume = |pod: &String, value| {
            samples.insert(pod.clone(), Sample { at: self.now, window: Duration::ZERO, value });
        };
        if before < 1.0 {
            missing.iter().for_each(|pod| assume(pod, at_most(pod)));
        } else if before > 1.0 {
            missing.iter().for_each(|pod| assume(pod, 0));
        }
        if rise_unready {
            unready.iter().for_each(|pod| assume(pod, 0));
        }
        let after = ratio(&samples)?;
        let wanted = up(after * samples.len() as f64);
        let turned = (before < 1.0 && after > 1.0) || (before > 1.0 && after < 1.0);
        let contrary = (after < 1.0 && wanted > self.current) || (after > 1.0 && wanted < self.current);
        Ok(if self.tolerance.holds(after) || turned || contrary { self.current } else { wanted })
    }
}

#[derive(Default)]
struct Counted {
    ready: i32,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    /// Of pods that are ready, and of those that the selector does not know.
    samples: Samples,
}

fn up(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

/// An amount in thousandths.
pub(super) fn millis(amount: &Amount) -> i64 {
    amount.0.parse::<Quantity>().map_or(0, Quantity::to_millis)
}

/// How much a pod, or one of its containers, requests.
fn request(pod: &Pod, container: Option<&str>, resource: &str) -> Result<i64, String> {
    let (name, spec) = (pod.name_any(), pod.spec.as_ref());
    let whole = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()).filter(|all| !all.is_empty());
    if container.is_none()
        && let Some(requests) = whole
    {
        let amount = requests.get(resource);
        return amount.map(millis).ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
    }
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let sidecars = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let all = spec.map(|spec| &spec.containers).into_iter().flatten().chain(sidecars);
    let mut sum = None;
    for one in all.filter(|one| container.is_none_or(|name| name == one.name)) {
        let amount = one.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get(resource));
        let amount =
            amount.ok_or_else(|| format!("missing request for {resource} in container {} of Pod {name}", one.name))?;
        sum = Some(sum.unwrap_or(0) + millis(amount));
    }
    match (sum, container) {
        (None, Some(container)) => Err(format!("container {container} not found in Pod {name}")),
        (sum, _) => Ok(sum.unwrap_or(0)),
    }
}
