//! A timer of the worker that is always near, so that setting a later one costs nothing.
//!
//! tokio sleeps until the earliest timer that it knows of. When one is set that is earlier, or the only one, it wakes
//! itself through an eventfd, awake though it is: a write, an event and one more turn. A request with a time limit that
//! comes while no other is in flight would pay that, which is nearly every request of a sidecar that is mostly idle.

use std::time::Duration;

/// How near. A limit that is shorter still pays; an idle worker wakes so often.
const NEAR: Duration = Duration::from_secs(1);

/// Beats for as long as its worker lives.
pub async fn beat() {
    let mut clock = tokio::time::interval(NEAR);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
    }
}
