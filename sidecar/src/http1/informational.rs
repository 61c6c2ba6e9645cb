//! Interim answers (100, 102, 103) on their way from the upstream to the caller, before the answer.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use crate::http1::caller::Shared;

/// Lets interim answers reach the caller of a request: [`crate::http1::server::Connection`] puts it into the
/// request's extensions and [`crate::http1::client::Connection`] uses it. An attempt that must not be heard of
/// (a hedge) is sent without it. A caller that speaks HTTP/1.0 does not know interim answers and gets none.
#[derive(Clone)]
pub struct Informational {
    caller: Arc<Shared>,
    exchange: u32,
}

impl Informational {
    pub(super) fn new(caller: Arc<Shared>, exchange: u32) -> Self {
        Self { caller, exchange }
    }

    /// Passes an interim answer on; nothing happens when the exchange is over.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) {
        self.caller.reader().send_interim(self.exchange, status, headers);
    }
}
