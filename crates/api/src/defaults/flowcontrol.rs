//! FlowSchemas and PriorityLevelConfigurations.

use serde_json::Value;

use super::{child, set, set_nonzero};

/// A FlowSchema.
pub fn flow_schema(object: &mut Value) {
    set_nonzero(child(object, "spec"), "matchingPrecedence", 1000);
}

/// A PriorityLevelConfiguration.
pub fn priority_level(object: &mut Value) {
    let spec = child(object, "spec");
    if spec["exempt"].is_object() {
        set(&mut spec["exempt"], "nominalConcurrencyShares", 0);
        set(&mut spec["exempt"], "lendablePercent", 0);
    }
    if spec["limited"].is_object() {
        let limited = &mut spec["limited"];
        set(limited, "nominalConcurrencyShares", 30);
        set(limited, "lendablePercent", 0);
        let queuing = &mut limited["limitResponse"]["queuing"];
        if queuing.is_object() {
            for (key, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                set_nonzero(queuing, key, value);
            }
        }
    }
}
