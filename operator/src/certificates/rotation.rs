//! When roots and leaf change: a pure function of what there is and what time it is.
//!
//! ```text
//! one root ──due, or asked for──> AddRoot: the bundle has both, the leaf stays
//!    ^                               │ everything carries the bundle, for as long as it takes
//!    │                               v to reach the volumes of running pods
//!    └──DropOldRoots <──same wait── IssueLeaf: signed by the new root
//! ```
//!
//! A client trusts what it last read. So the leaf changes only when every client can have read the new
//! root, and the old root goes only when every replica can have read the new leaf.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long things live.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// A root's life.
    pub root: Duration,
    /// A leaf's life.
    pub leaf: Duration,
    /// How long after everything carries a bundle the last client has read it. A kubelet takes up to two
    /// minutes to renew a mounted ConfigMap.
    pub settle: Duration,
}

impl Terms {
    /// A year, thirty days, and this wait.
    #[must_use]
    pub fn new(settle: Duration) -> Self {
        Self { root: 365 * DAY, leaf: 30 * DAY, settle }
    }
}

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it was made.
    pub from: Timestamp,
    /// When it ends.
    pub until: Timestamp,
}

impl Life {
    /// When so much of it is over.
    fn share(&self, numerator: i32, denominator: i32) -> Timestamp {
        later(self.from, self.until.duration_since(self.from) * numerator / denominator)
    }

    /// When the next one is made: two thirds of a life leave a third for whatever goes wrong.
    fn due(&self) -> Timestamp {
        self.share(2, 3)
    }

    /// When waiting for others does more harm than going on without them.
    fn urgent(&self) -> Timestamp {
        self.share(11, 12)
    }
}

/// The leaf that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its life.
    pub life: Life,
    /// Which root of the bundle signed it; `None`: none of them.
    pub signer: Option<usize>,
    /// Whether it has the names that we are called by.
    pub names_fit: bool,
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Held {
    /// The roots of the bundle, the newest first.
    pub roots: Vec<Life>,
    /// Whether the key belongs to the newest root.
    pub signs: bool,
    /// The leaf; `None`: there is none that can be served.
    pub leaf: Option<Leaf>,
    /// Whether someone asked for a new root.
    pub asked: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put a new root, with a new key, before the others; the leaf stays.
    AddRoot,
    /// Make a new leaf, signed by the newest root.
    IssueLeaf,
    /// Leave only the newest root in the bundle.
    DropOldRoots,
    /// Look again then, or when something changed.
    Wait(Timestamp),
}

/// What to do next. `carried`: since when everything that should carries this very bundle.
#[must_use]
pub fn next(held: &Held, carried: Option<Timestamp>, terms: &Terms, now: Timestamp) -> Step {
    let Some(newest) = held.roots.first().filter(|_| held.signs) else {
        return Step::AddRoot;
    };
    // Whom nobody can believe has nothing to lose.
    let Some(leaf) = held.leaf.filter(|leaf| leaf.signer.is_some() && now < leaf.life.until) else {
        return Step::IssueLeaf;
    };
    if leaf.signer != Some(0) {
        let urgent = leaf.life.urgent();
        let when = carried.map_or(urgent, |since| later(since, signed(terms.settle)).min(urgent));
        return due(now, when, Step::IssueLeaf);
    }
    let leaf_due = if leaf.names_fit { leaf.life.due() } else { now };
    let (root_due, step) = if held.roots.len() > 1 {
        (later(leaf.life.from, signed(terms.settle)), Step::DropOldRoots)
    } else {
        (if held.asked { now } else { newest.due() }, Step::AddRoot)
    };
    // The root first: its steps are the ones that others wait for.
    match due(now, root_due, step) {
        Step::Wait(then) => match due(now, leaf_due, Step::IssueLeaf) {
            Step::Wait(other) => Step::Wait(then.min(other)),
            step => step,
        },
        step => step,
    }
}

fn due(now: Timestamp, when: Timestamp, step: Step) -> Step {
    if now >= when { step } else { Step::Wait(when) }
}

/// Times far beyond any certificate stay where they are.
fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests;
