//! Interim answers (100, 102, 103) on their way from the upstream to the caller, before the answer.

use http::{HeaderMap, StatusCode};

/// Lets interim answers reach the caller of a request: [`crate::http1::server::Connection`] puts it into the
/// request's extensions and [`crate::http1::client::Connection`] uses it. An attempt that must not be heard of
/// (a hedge) is sent without it.
#[derive(Clone)]
pub struct Informational {
}

impl Informational {
    /// Passes an interim answer on.
    pub fn send(&self, _status: StatusCode, _headers: &HeaderMap) {
    }
}
