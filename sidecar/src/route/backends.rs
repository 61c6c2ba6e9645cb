//! Which backend of a rule gets the next request: smooth weighted round robin.
//!
//! Each pick adds every backend's weight to its credit, takes the one with the most (the first of equals)
//! and charges it the sum of all weights. Weights 1, 2, 3 give C B A C B C; 90 and 10 give exactly one in
//! ten, never two in a row. The credits are behind a mutex that is held for the walk over the list, so that
//! the shares are exact over all workers together and not only within each.

use std::sync::{Mutex, PoisonError};

use super::HeaderChanges;

/// Backends with weights and the live state of the smooth weighted pick.
#[derive(Debug)]
pub struct Backends {
    list: Vec<Backend>,
    /// One for each backend; their sum is always zero.
    credits: Mutex<Vec<i64>>,
}

/// One backend of a rule.
#[derive(Debug)]
pub struct Backend {
    /// Index into [`super::RouteTable::clusters`].
    pub cluster: usize,
    /// Its share of the sum of all weights.
    pub weight: u32,
    /// Changes to the request's headers for this backend alone.
    pub request_headers: HeaderChanges,
    /// Changes to the answer's headers for this backend alone.
    pub response_headers: HeaderChanges,
}

impl Backends {
    /// Those of the list that have a weight; the others never get a request.
    pub fn new(mut list: Vec<Backend>) -> Self {
        list.retain(|backend| backend.weight > 0);
        let credits = Mutex::new(vec![0; list.len()]);
        Self { list, credits }
    }

    /// Those with a weight above zero, in the order received.
    pub fn list(&self) -> &[Backend] {
        &self.list
    }

    /// The backend of the next request; none when no backend has a weight.
    pub fn pick(&self) -> Option<&Backend> {
        if let [only] = self.list.as_slice() {
            return Some(only);
        }
        let mut credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let mut best: Option<(&Backend, &mut i64)> = None;
        for (backend, credit) in self.list.iter().zip(credits.iter_mut()) {
            let weight = i64::from(backend.weight);
            total += weight;
            *credit += weight;
            if best.as_ref().is_none_or(|(_, most)| *credit > **most) {
                best = Some((backend, credit));
            }
        }
        let (backend, credit) = best?;
        *credit -= total;
        Some(backend)
    }
}
