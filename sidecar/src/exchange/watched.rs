//! The body of an answer on its way to the caller: holds what must live as long, keeps the time limits, and
//! says how it ended.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use crate::body::{Body, Error, Source};
use crate::cluster::{Outcome, Picked};
use crate::exchange::{Exchange, grpc_status};
use crate::failure::Kind;
use crate::hops::Inside;
use crate::pool::{InFlight, Stream};
use crate::proxy::now;

/// The time of the request was over before the answer was.
pub const TIMEOUT: Error = Error::Aborted("the time of the request is over");

/// What an attempt holds until the last byte of its answer.
#[derive(Debug, Default)]
pub struct Held {
    /// The endpoint, and what is told of it when the answer has ended; None: it was told already.
    pub picked: Option<(Picked, Option<Verdict>)>,
    /// The HTTP/2 stream.
    pub stream: Option<Stream>,
    /// The place among `maxRequests`.
    pub in_flight: Option<InFlight>,
    /// What the pod's own calls are to know of this one.
    pub inside: Option<Inside>,
}

/// What is told of an endpoint whose answer ended well.
#[derive(Debug, Clone, Copy)]
pub struct Verdict {
    /// The answer's status.
    pub status: StatusCode,
    /// The status comes in the trailers.
    pub grpc: bool,
}

/// When an answer must have ended, or moved.
#[derive(Debug, Default, Clone)]
pub struct Times {
    /// All of it.
    pub deadline: Option<Instant>,
    /// How long neither side may send anything.
    pub idle: Option<Idle>,
}

/// How long, and where it is seen.
pub type Idle = (Duration, Arc<Activity>);

/// When anything was last sent, in milliseconds since it was made; both bodies write it.
#[derive(Debug)]
pub struct Activity {
    made: Instant,
    last: AtomicU64,
}

impl Activity {
    /// Something was sent now.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { made: now(), last: AtomicU64::new(0) })
    }

    /// Something was sent.
    pub fn touch(&self) {
        let since = u64::try_from((now() - self.made).as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// Since when it has been silent.
    pub fn since(&self) -> Instant {
        self.made + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// See the module.
pub struct Watched {
    body: Body,
    exchange: Option<Exchange>,
    held: Held,
    times: Times,
    timer: Option<Pin<Box<Sleep>>>,
    bytes: u64,
    /// It was ended before its end.
    cut: bool,
}

impl Watched {
    /// Puts the answer on its way: what has arrived as a whole needs no watching.
    pub fn watch(body: Body, exchange: Exchange, mut held: Held, times: Times) -> Body {
        if let Body::Empty | Body::Bytes(_) = body {
            let now = exchange.seen();
            held.good(now, None);
            exchange.end(now, body.size_hint().exact().unwrap_or(0));
            return body;
        }
        let timer = times.next().map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        Body::source(Self { body, exchange: Some(exchange), held, times, timer, bytes: 0, cut: false })
    }

    /// Whether its time is over; then it is cancelled upstream, and told so.
    fn over(&mut self, context: &mut Context<'_>) -> bool {
        let Some(timer) = &mut self.timer else { return self.cut };
        while timer.as_mut().poll(context).is_ready() {
            match self.times.next() {
                Some(at) if at > now() => timer.as_mut().reset(at.into()),
                _ => {
                    (self.timer, self.cut) = (None, true);
                    self.body = Body::Empty;
                    self.broke_off(Kind::Timeout, "UT", "the time was over in the middle of the answer");
                    return true;
                }
            }
        }
        false
    }

    fn broke_off(&mut self, kind: Kind, flag: &'static str, reason: &str) {
        let now = now();
        self.held.failed(now, kind);
        if let Some(mut exchange) = self.exchange.take() {
            exchange.broke_off(flag, reason);
            exchange.end(now, self.bytes);
        }
        self.held = Held::default();
    }

    fn ended(&mut self, trailers: Option<&HeaderMap>) {
        let Some(mut exchange) = self.exchange.take() else { return };
        let now = now();
        self.held.good(now, trailers.and_then(grpc_status));
        if let Some(trailers) = trailers {
            exchange.trailers(trailers);
        }
        exchange.end(now, self.bytes);
        self.held = Held::default();
    }
}

impl Source for Watched {
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if this.over(context) {
            return Poll::Ready(Some(Err(TIMEOUT)));
        }
        let polled = Pin::new(&mut this.body).poll_frame(context);
        match &polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.bytes += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.ended(Some(trailers));
                }
                if let Some((_, activity)) = &this.times.idle {
                    activity.touch();
                }
            }
            Poll::Ready(Some(Err(error))) => {
                let kind = if matches!(error, Error::Malformed(_)) { Kind::Protocol } else { Kind::Reset };
                let flag = if kind == Kind::Protocol { "UPE" } else { "UC" };
                this.broke_off(kind, flag, &error.to_string());
            }
            Poll::Ready(None) => this.ended(None),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        !self.cut && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.cut { SizeHint::default() } else { self.body.size_hint() }
    }

    fn poll_progress(mut self: Pin<&mut Self>, context: &mut Context<'_>) {
        // A caller that reads nothing does not hold the endpoint for longer than the request may take.
        if !self.over(context) {
            self.body.poll_progress(context);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.ended(None); // Whoever reads it knew, and did not ask again.
        } else if let Some(mut exchange) = self.exchange.take() {
            // The endpoint answered; that the caller left is not its fault.
            let now = now();
            self.held.good(now, None);
            exchange.broke_off("DC", "the caller left in the middle of the answer");
            exchange.end(now, self.bytes);
        }
    }
}

impl Held {
    /// The answer ended well.
    fn good(&mut self, now: Instant, grpc: Option<u32>) {
        if let Some((picked, verdict)) = &mut self.picked
            && let Some(verdict) = verdict.take()
        {
            let outcome = match grpc {
                Some(code) if verdict.grpc => Outcome::Grpc(code),
                _ => Outcome::Status(verdict.status),
            };
            picked.record(now, outcome);
        }
    }

    /// It did not.
    fn failed(&mut self, now: Instant, kind: Kind) {
        if let Some((picked, verdict)) = &mut self.picked
            && verdict.take().is_some()
        {
            picked.record(now, Outcome::Failure(kind));
        }
    }
}

impl Times {
    /// When to look next.
    pub fn next(&self) -> Option<Instant> {
        let idle = self.idle.as_ref().map(|(limit, activity)| activity.since() + *limit);
        [self.deadline, idle].into_iter().flatten().min()
    }

    /// Whether there is nothing to look at.
    pub fn are_unlimited(&self) -> bool {
        self.deadline.is_none() && self.idle.is_none()
    }
}
