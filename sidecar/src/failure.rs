//! Why a call did not end with the application's answer, and what follows from it.
//!
//! Whatever goes wrong on the way of a request becomes one [`Failure`]: where it arose, what it was, and
//! whether any byte of the request may have reached an application. The status that the caller gets, the
//! flag in the access log and whether a retry is provably safe are three matches in this file and nowhere
//! else. The flags are Envoy's response flags, so that on-call people need no second vocabulary.

use http::StatusCode;

/// Where a failure arose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// On the caller's side: its request was bad, or it went away.
    Downstream,
    /// In this sidecar: a limit, no route, no endpoint.
    Local,
    /// On the way to, or in, the endpoint.
    Upstream,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No rule matches the request: 404, `NR`.
    NoRoute,
    /// The rule's backend does not exist or may not be used: 500, `NC`.
    BadBackend,
    /// The service has no endpoint that may be called: 503, `UH`.
    NoEndpoint,
    /// No connection could be opened, or the remote sidecar says that its application has none: 503, `UF`.
    Connect,
    /// The endpoint refused the stream before processing it (REFUSED_STREAM, GOAWAY below the id): 503, `UR`.
    Refused,
    /// The connection ended before the answer was complete: 503, `UC`.
    Reset,
    /// The endpoint broke the protocol: 502, `UPE`.
    Protocol,
    /// A limit of the connection pool: 503, `UO`.
    Overflow,
    /// The rule's time was over: 504, `UT`.
    Timeout,
    /// A rate limit: 429, `RL`.
    RateLimited,
    /// The caller's request is malformed: 400, `DPE`.
    BadRequest,
    /// The caller's header block is over the limit: 431, `DPE`.
    HeadTooLarge,
    /// The caller's head did not arrive in time: 408, `DT`.
    HeadTimeout,
    /// The caller went away first: nobody to answer, `DC`.
    Gone,
}

/// A call that ended without the application's answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} {at:?}: {reason}")]
pub struct Failure {
    /// Where it arose.
    pub at: At,
    /// What it was.
    pub kind: Kind,
    /// Whether any byte of the request may have reached the application: then only what is idempotent may
    /// be sent again.
    pub request_sent: bool,
    /// Whether the connection had served a request before: the endpoint may have closed it while idle, at
    /// the moment when this request was written to it.
    pub reused: bool,
    /// For the log and the person who reads it: the endpoint, the error of the system.
    pub reason: String,
}

impl Failure {
    /// A failure of this sidecar's own making; nothing was sent.
    pub fn local(kind: Kind, reason: impl Into<String>) -> Self {
        Self { at: At::Local, kind, request_sent: false, reused: false, reason: reason.into() }
    }

    /// A failure on the way to an endpoint.
    pub fn upstream(kind: Kind, request_sent: bool, reason: impl Into<String>) -> Self {
        Self { at: At::Upstream, kind, request_sent, reused: false, reason: reason.into() }
    }

    /// The same failure, on a connection that had served a request before.
    #[must_use]
    pub fn on_reused(self, reused: bool) -> Self {
        Self { reused, ..self }
    }

    /// A failure on the caller's side.
    pub fn downstream(kind: Kind, reason: impl Into<String>) -> Self {
        Self { at: At::Downstream, kind, request_sent: false, reused: false, reason: reason.into() }
    }

    /// What the caller is answered (ARCHITECTURE.md, "What we answer ourselves").
    pub fn status(&self) -> StatusCode {
        match self.kind {
            Kind::NoRoute => StatusCode::NOT_FOUND,
            Kind::BadBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::NoEndpoint | Kind::Connect | Kind::Refused | Kind::Reset | Kind::Overflow | Kind::Gone => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Kind::Protocol => StatusCode::BAD_GATEWAY,
            Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Kind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Kind::BadRequest => StatusCode::BAD_REQUEST,
            Kind::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Kind::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The response flag of the access log and the metrics, in Envoy's words.
    pub fn flag(&self) -> &'static str {
        match self.kind {
            Kind::NoRoute => "NR",
            Kind::BadBackend => "NC",
            Kind::NoEndpoint => "UH",
            Kind::Connect => "UF",
            Kind::Refused => "UR",
            Kind::Reset => "UC",
            Kind::Protocol => "UPE",
            Kind::Overflow => "UO",
            Kind::Timeout => "UT",
            Kind::RateLimited => "RL",
            Kind::BadRequest | Kind::HeadTooLarge => "DPE",
            Kind::HeadTimeout => "DT",
            Kind::Gone => "DC",
        }
    }

    /// Whether the request provably reached no application, so that any method may be sent again.
    pub fn provably_unprocessed(&self) -> bool {
        match self.kind {
            Kind::Connect | Kind::Refused => true,
            Kind::Reset | Kind::Protocol | Kind::Timeout => !self.request_sent,
            Kind::NoRoute
            | Kind::BadBackend
            | Kind::NoEndpoint
            | Kind::Overflow
            | Kind::RateLimited
            | Kind::BadRequest
            | Kind::HeadTooLarge
            | Kind::HeadTimeout
            | Kind::Gone => false,
        }
    }
}
