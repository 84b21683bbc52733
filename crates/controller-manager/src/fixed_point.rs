//! For the tests of plans: that from any state they come to rest.

use std::fmt::Debug;

/// The state after which a step changes nothing any more.
///
/// # Panics
/// If there is none within a hundred steps.
pub(crate) fn rest<S: PartialEq + Debug>(mut state: S, mut step: impl FnMut(&S) -> S) -> S {
    for _ in 0..100 {
        let next = step(&state);
        if next == state {
            return state;
        }
        state = next;
    }
    panic!("still at it: {state:?}")
}
