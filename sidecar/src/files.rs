//! How many files the process may have open, and how many of them callers may take.
//!
//! Every connection is a file. Without a bound of our own callers could take all of them, and then neither the
//! endpoints nor the operator could be dialled, nor our own pages be asked: those who are in would be starved by
//! those who come. So a part is kept back, and callers beyond the rest are closed on as soon as they are
//! accepted; a caller that is left in the backlog would wait for nothing.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// One in so many files is kept for what we open ourselves.
const KEPT: u64 = 4;

/// Raises the limit of open files as far as it may be: the usual 1024 is for programs that use `select(2)`.
/// Returns how many connections callers may have.
pub fn for_callers() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    limit.map_or(usize::MAX, |files| usize::try_from(files - files / KEPT).unwrap_or(usize::MAX))
}
