//! Consumable capacity: how much of a device that many may use a request takes (KEP 5075).

use std::collections::BTreeMap;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::resource::v1::{CapacityRequestPolicyRange, CapacityRequirements, Device, DeviceCapacity};

use crate::devices::quantity;

/// Amounts by the names of a device's capacities.
pub(super) type Amounts<'a> = BTreeMap<&'a str, Quantity>;

/// What a request takes of each of a device's capacities; none if it wants one that the device does not have, or as
/// much as the device does not give to one.
pub(super) fn consumed<'a>(wanted: Option<&CapacityRequirements>, device: &'a Device) -> Option<Amounts<'a>> {
    let capacities = device.capacity.iter().flatten();
    let wanted = wanted.and_then(|wanted| wanted.requests.as_ref());
    if wanted.is_some_and(|wanted| wanted.keys().any(|name| device.capacity.iter().all(|all| !all.contains_key(name))))
    {
        return None;
    }
    let each = capacities.map(|(name, capacity)| {
        let wanted = wanted.and_then(|wanted| wanted.get(name)).map(quantity);
        Some((&name[..], share(wanted, capacity)?))
    });
    each.collect()
}

/// Whether a device has so much, if so much of it is in use.
pub(super) fn suffices(device: &Device, used: &Amounts<'_>) -> bool {
    let has = |name: &str| device.capacity.as_ref().and_then(|all| all.get(name)).map(|has| quantity(&has.value));
    used.iter().all(|(name, used)| has(name).is_some_and(|has| *used <= has))
}

/// Upstream's rounding: to what the device's policy allows next; all of it, if nothing else is said.
fn share(wanted: Option<Quantity>, capacity: &DeviceCapacity) -> Option<Quantity> {
    let policy = capacity.request_policy.as_ref();
    let default = policy.and_then(|policy| policy.default.as_ref()).map(quantity);
    let Some(wanted) = wanted else { return Some(default.unwrap_or(quantity(&capacity.value))) };
    let Some(policy) = policy.filter(|_| default != Some(wanted)) else { return Some(wanted) };
    match (&policy.valid_range, &policy.valid_values) {
        (Some(range), _) => in_range(wanted, range),
        (None, Some(values)) => values.iter().map(quantity).find(|value| wanted <= *value),
        (None, None) => Some(wanted),
    }
}

fn in_range(wanted: Quantity, range: &CapacityRequestPolicyRange) -> Option<Quantity> {
    let min = quantity(&range.min);
    let step = range.step.as_ref().map_or(0, |step| quantity(step).to_value());
    let share = match (wanted - min).to_value() {
        ..=0 => min,
        more if step > 0 => min + Quantity::from_bytes((more - 1) / step * step + step),
        _ => wanted,
    };
    range.max.as_ref().is_none_or(|max| share <= quantity(max)).then_some(share)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_request_takes_what_the_policy_allows_next() {
        let range = json!({ "default": "2Gi", "validRange": { "min": "1Gi", "max": "8Gi", "step": "2Gi" } });
        let values = json!({ "default": "2Gi", "validValues": ["1Gi", "2Gi", "4Gi"] });
        for (policy, wanted, expected) in [
            (Value::Null, None, Some("10Gi")),
            (Value::Null, Some("3Gi"), Some("3Gi")),
            (range.clone(), None, Some("2Gi")),
            (range.clone(), Some("2Gi"), Some("2Gi")),
            (range.clone(), Some("1Mi"), Some("1Gi")),
            (range.clone(), Some("3Gi"), Some("3Gi")),
            (range.clone(), Some("4Gi"), Some("5Gi")),
            (range, Some("8Gi"), None),
            (values.clone(), None, Some("2Gi")),
            (values.clone(), Some("3Gi"), Some("4Gi")),
            (values, Some("5Gi"), None),
        ] {
            let capacity: DeviceCapacity =
                serde_json::from_value(json!({ "value": "10Gi", "requestPolicy": policy })).unwrap();
            let parse = |text: &str| text.parse::<Quantity>().unwrap();
            assert_eq!(share(wanted.map(parse), &capacity), expected.map(parse), "{policy} {wanted:?}");
        }
    }
}
