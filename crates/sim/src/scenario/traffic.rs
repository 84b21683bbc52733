//! From requests to processor time: what a Service's traffic makes its pods use, and how much of it they can answer.
//!
//! A Service spreads its requests evenly over its endpoints. A request costs processor time, so an endpoint is asked
//! for `rate × cost`; it is [granted](grant) what its limit and its node leave for it, and answers as many requests as
//! that pays for. What the others are asked beyond that is lost, and so is all that goes to a pod whose node is down
//! before somebody has noticed.

/// What a pod on a node asks for, in thousandths of a processor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// What it would use.
    pub wants: f64,
    /// Its weight when there is too little for all: what it requests.
    pub weight: f64,
    /// What it may use at most.
    pub limit: f64,
}

/// A pod without requests has the least weight that the kernel knows, so many thousandths of a processor.
const LEAST_WEIGHT: f64 = 2.0;

/// What each gets of a node's processors, as the kernel's fair scheduler shares them: nobody more than wanted or
/// allowed; who wants less than a share by weight leaves the rest to the others.
pub fn grant(capacity: f64, demands: &[Demand]) -> Vec<f64> {
    let wants = |demand: &Demand| demand.wants.min(demand.limit).max(0.0);
    let weight = |demand: &Demand| demand.weight.max(LEAST_WEIGHT);
    let mut granted = vec![0.0; demands.len()];
    let mut open: Vec<usize> = (0..demands.len()).collect();
    let mut left = capacity.max(0.0);
    loop {
        let weights: f64 = open.iter().map(|i| weight(&demands[*i])).sum();
        let share = |i: usize| left * weight(&demands[i]) / weights;
        let (content, hungry): (Vec<usize>, Vec<usize>) =
            open.iter().copied().partition(|i| wants(&demands[*i]) <= share(*i));
        if content.is_empty() {
            hungry.iter().for_each(|i| granted[*i] = share(*i));
            return granted;
        }
        content.iter().for_each(|i| granted[*i] = wants(&demands[*i]));
        left -= content.iter().map(|i| granted[*i]).sum::<f64>();
        open = hungry;
    }
}

/// One endpoint of a Service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Endpoint {
    /// What it was granted, in thousandths of a processor; nothing where the node is down.
    pub granted_milli: f64,
}

/// How many requests a second are answered, of `rate` that cost `cost_milli` (thousandths of a processor for one
/// request a second) each.
pub fn answered(rate: f64, cost_milli: f64, endpoints: &[Endpoint]) -> f64 {
    let each = rate / endpoints.len().max(1) as f64;
    let answers = |endpoint: &Endpoint| match cost_milli {
        cost if cost > 0.0 => (endpoint.granted_milli / cost).min(each),
        _ => each,
    };
    endpoints.iter().map(answers).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(wants: f64, weight: f64, limit: f64) -> Demand {
        Demand { wants, weight, limit }
    }

    #[test]
    fn processors_are_shared_by_weight() {
        const NONE: f64 = f64::INFINITY;
        for (capacity, demands, granted) in [
            (1000.0, vec![demand(100.0, 100.0, NONE), demand(200.0, 100.0, NONE)], vec![100.0, 200.0]),
            (1000.0, vec![demand(2000.0, 100.0, NONE), demand(2000.0, 300.0, NONE)], vec![250.0, 750.0]),
            (1000.0, vec![demand(100.0, 500.0, NONE), demand(2000.0, 100.0, NONE)], vec![100.0, 900.0]),
            (1000.0, vec![demand(900.0, 100.0, 200.0), demand(900.0, 100.0, NONE)], vec![200.0, 800.0]),
            (1000.0, vec![demand(900.0, 998.0, NONE), demand(900.0, 0.0, NONE)], vec![900.0, 100.0]),
            (0.0, vec![demand(900.0, 100.0, NONE)], vec![0.0]),
            (1000.0, vec![], vec![]),
        ] {
            assert_eq!(grant(capacity, &demands), granted, "{demands:?}");
        }
    }

    #[test]
    fn what_a_pod_cannot_pay_for_is_not_answered() {
        let endpoint = |granted_milli| Endpoint { granted_milli };
        for (rate, cost, endpoints, expected) in [
            (100.0, 10.0, vec![endpoint(500.0), endpoint(500.0)], 100.0),
            (100.0, 10.0, vec![endpoint(500.0), endpoint(0.0)], 50.0),
            (100.0, 10.0, vec![endpoint(200.0), endpoint(900.0)], 70.0),
            (100.0, 0.0, vec![endpoint(0.0)], 100.0),
            (100.0, 10.0, vec![], 0.0),
        ] {
            assert_eq!(answered(rate, cost, &endpoints), expected);
        }
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_wanted_and_nothing_is_wasted(
            capacity in 0.0..8000.0_f64,
            demands in proptest::collection::vec((0.0..4000.0_f64, 0.0..2000.0_f64, 1.0..4000.0_f64), 0..12),
        ) {
            let demands: Vec<_> = demands.into_iter().map(|(w, weight, limit)| demand(w, weight, limit)).collect();
            let granted = grant(capacity, &demands);
            let wanted: f64 = demands.iter().map(|d| d.wants.min(d.limit)).sum();
            let total: f64 = granted.iter().sum();
            prop_assert!((total - wanted.min(capacity)).abs() < 1e-6, "{total} of {capacity}, {wanted} wanted");
            for (got, demand) in granted.iter().zip(&demands) {
                prop_assert!(*got <= demand.wants.min(demand.limit) + 1e-9);
            }
        }
    }
}
