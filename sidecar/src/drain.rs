//! Leaving without losing anything: who is told, and who is waited for.
//!
//! ```text
//! Serving --POST /drain--> Draining --SIGTERM--> Closing
//!    '-----------SIGTERM------------------------'
//! ```
//!
//! Draining keeps accepting, for callers learn late; it answers with `Connection: close` or GOAWAY, so that
//! they leave. Closing accepts no more, and ends when the last request in flight has.

use std::sync::Arc;

use tokio::sync::watch;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// Callers are told to leave; whoever still comes is served.
    Draining,
    /// The listeners are closed; what is in flight is finished.
    Closing,
}

/// The switch. One a process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: Arc<watch::Sender<Phase>>,
    guests: Arc<watch::Sender<()>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)), guests: Arc::new(watch::Sender::new(())) }
    }
}

impl Drain {
    /// Moves on to `phase`, never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }

    /// Where we are.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Returns once `phase` is reached.
    pub async fn reached(&self, phase: Phase) {
        let mut watching = self.phase.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = watching.wait_for(|now| *now >= phase).await;
    }

    /// A connection that the end waits for, as long as the guard lives.
    pub fn guest(&self) -> Guest {
        Guest { _seat: self.guests.subscribe() }
    }

    /// How many guests there are.
    pub fn guests(&self) -> usize {
        self.guests.receiver_count()
    }

    /// Returns once the last guest has left.
    pub async fn empty(&self) {
        self.guests.closed().await;
    }
}

/// See [`Drain::guest`].
#[derive(Debug)]
pub struct Guest {
    _seat: watch::Receiver<()>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_go_forward_only() {
        let drain = Drain::default();
        drain.advance(Phase::Closing);
        drain.advance(Phase::Draining);
        assert_eq!(drain.phase(), Phase::Closing);
        drain.reached(Phase::Draining).await;
    }

    #[tokio::test]
    async fn waits_for_the_last_guest() {
        let drain = Drain::default();
        let (one, two) = (drain.guest(), drain.guest());
        drop(one);
        assert_eq!(drain.guests(), 1);
        assert!(futures::FutureExt::now_or_never(drain.empty()).is_none());
        drop(two);
        drain.empty().await;
    }
}
