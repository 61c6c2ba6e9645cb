//! One attempt: pick an endpoint, get a connection, send, and tell outlier detection how it ended.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Instant;

use http::request::Parts;
use http::{Request, Response, StatusCode};

use crate::body::Body;
use crate::cluster::{Outcome, Picked};
use crate::exchange::watched::{Held, Times, Verdict};
use crate::exchange::{Exchange, grpc_status};
use crate::failure::{Failure, Kind};
use crate::http1::client;
use crate::matcher::is_grpc;
use crate::outbound::Sending;
use crate::outbound::upload::Upload;
use crate::pool::admission::Want;
use crate::pool::{Asker, Http1, Lease, Stream, http2};
use crate::retry::{Ended, RetryPolicy};
use crate::said::UNPROCESSED;

/// How often a kept connection may turn out to be closed, before a byte was written, until that counts as the
/// end of the attempt.
const STALE_CONNECTIONS: usize = 4;

/// See the module.
pub struct Attempt<'a> {
    sending: &'a Sending<'a>,
    parts: &'a Parts,
    asker: Asker,
    tried: &'a [SocketAddr],
    stage: Stage,
}

/// How far it came: what a timeout says about the endpoint, and whether the request may have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// For a connection of the pool.
    Waiting,
    /// To the endpoint.
    Connecting,
    /// From here on bytes may have arrived.
    Sent,
}

/// The head of an answer has come.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub response: Response<Body>,
    /// What must live until its end.
    pub held: Held,
    /// When its end must have come.
    pub deadline: Option<Instant>,
}

/// A connection that takes the request.
enum Connection {
    Http1(client::Connection),
    Http2(Stream),
}

impl<'a> Attempt<'a> {
    /// An attempt at another endpoint than those in `tried`, if there is one.
    pub fn new(sending: &'a Sending<'a>, parts: &'a Parts, asker: Asker, tried: &'a [SocketAddr]) -> Self {
        Self { sending, parts, asker, tried, stage: Stage::Waiting }
    }

    /// Makes it, now. A failure comes with the endpoint that it is about.
    pub async fn make(
        mut self,
        now: Instant,
        exchange: &mut Exchange,
        upload: &mut Upload,
    ) -> Result<Answered, (Failure, Option<SocketAddr>)> {
        let cluster = self.sending.cluster;
        let Some(mut picked) = cluster.pick(now, self.tried) else {
            let reason = format!("{} has no endpoint", cluster.settings.name);
            return Err((Failure::local(Kind::NoEndpoint, reason), None));
        };
        exchange.attempt(picked.endpoint().address());
        let deadline = self.sending.limits.deadline_of_try(now);
        let times = Times { deadline, idle: self.sending.limits.times.idle.clone() };
        // Pinned here, so that it is not moved from one future into the next: it is the largest part of them.
        let sent = {
            let sending = pin!(self.send(&mut picked, upload));
            if times.are_unlimited() { Some(sending.await) } else { limited(&times, sending).await }
        };
        let sent = sent.unwrap_or_else(|| Err(self.timed_out(&picked)));
        exchange.attempted(now);
        let endpoint = picked.endpoint().address();
        let sent =
            sent.and_then(|(response, stream)| handed_over(response).map(|response| (response, stream)));
        match sent {
            Ok((response, stream)) => {
                let verdict = Verdict { status: response.status(), grpc: is_grpc(response.headers()) };
                let held = Held { picked: Some((picked, Some(verdict))), stream, ..Held::default() };
                Ok(Answered { response, held, deadline })
            }
            Err(failure) => {
                // A caller that leaves in the middle of its request says nothing about the endpoint.
                if !upload.is_broken() {
                    picked.record(exchange.seen(), Outcome::of(&failure));
                }
                Err((failure, Some(endpoint)))
            }
        }
    }

    async fn send(
        &mut self,
        picked: &mut Picked,
        upload: &mut Upload,
    ) -> Result<(Response<Body>, Option<Stream>), Failure> {
        let parts = self.parts;
        let mut stale = 0;
        loop {
            self.stage = Stage::Waiting;
            let connection = self.checkout(picked).await?;
            self.stage = Stage::Sent;
            let unsent = match connection {
                Connection::Http1(connection) => match connection.send_parts(parts, upload.body()).await {
                    Ok(response) => return Ok((response, None)),
                    Err(error) if error.request_sent || !error.reused => return Err(error.into_failure()),
                    Err(error) => error.into_failure(),
                },
                Connection::Http2(mut stream) => {
                    let request = Request::from_parts(parts.clone(), upload.body());
                    // Boxed: it would make room for itself in the future of every HTTP/1.1 request.
                    match Box::pin(stream.handle.sender.try_send_request(request)).await {
                        Ok(response) => return Ok((response.map(Body::from), Some(stream))),
                        Err(mut error) => match error.take_message() {
                            None => return Err(http2::failure(error.error())),
                            Some(_) => Failure::upstream(Kind::Refused, false, "the connection was closing"),
                        },
                    }
                }
            };
            // A kept connection that was closed meanwhile: nothing was written, so it is no attempt yet.
            stale += 1;
            if stale > STALE_CONNECTIONS || !upload.is_replayable() {
                return Err(unsent);
            }
        }
    }

    /// A connection to the endpoint, or to another one to which one came free while we waited.
    async fn checkout(&mut self, picked: &mut Picked) -> Result<Connection, Failure> {
        let pool = &self.sending.cluster.live.pool;
        let settings = &self.sending.cluster.settings.pool;
        let want = if self.sending.http2 { Want::Shared } else { Want::Exclusive };
        loop {
            let ask = self.asker.ask(picked.endpoint().address(), want);
            let (address, connection) = match pool.admit(settings, ask).await? {
                Lease::Http1(address, Http1(connection)) => (address, Connection::Http1(connection)),
                Lease::Stream(stream) => (stream.address, Connection::Http2(stream)),
                Lease::Slot(slot) if self.sending.http2 => {
                    self.stage = Stage::Connecting;
                    // Rare beside the requests that a connection carries, and large: boxed.
                    return Box::pin(pool.open_http2(settings, slot, ask)).await.map(Connection::Http2);
                }
                Lease::Slot(slot) => {
                    self.stage = Stage::Connecting;
                    let opened = Box::pin(pool.open_http1(settings, slot, ask)).await;
                    return opened.map(|Http1(connection)| Connection::Http1(connection));
                }
            };
            if address == ask.address {
                return Ok(connection);
            }
            if !self.tried.contains(&address)
                && let Some(other) = self.sending.cluster.claim(address)
            {
                *picked = other;
                return Ok(connection);
            }
            // It is closed, which makes room for one that we can use.
        }
    }

    fn timed_out(&self, picked: &Picked) -> Failure {
        let endpoint = picked.endpoint().address();
        match self.stage {
            Stage::Waiting => {
                Failure::local(Kind::Timeout, "the time was over while waiting for a connection")
            }
            Stage::Connecting => {
                Failure::upstream(Kind::Timeout, false, format!("{endpoint} did not accept in time"))
            }
            Stage::Sent => {
                Failure::upstream(Kind::Timeout, true, format!("{endpoint} did not answer in time"))
            }
        }
    }
}

impl Answered {
    /// As a retry policy sees it.
    pub fn ended(&self, policy: &RetryPolicy) -> Ended<'_> {
        let headers = self.response.headers();
        let grpc = !policy.grpc_codes.is_empty() && is_grpc(headers);
        Ended::Answered(self.response.status(), if grpc { grpc_status(headers) } else { None })
    }

    /// What is known of the endpoint already is told to outlier detection.
    pub fn settle(&mut self, now: Instant) {
        let Some((picked, verdict)) = &mut self.held.picked else { return };
        let Some(Verdict { status, grpc }) = *verdict else { return };
        let code = if grpc { grpc_status(self.response.headers()) } else { None };
        if status.is_server_error() || code.is_some() {
            *verdict = None;
            picked.record(now, code.map_or(Outcome::Status(status), Outcome::Grpc));
        }
    }
}

/// A remote sidecar that could not reach its application is an endpoint without a connection.
fn handed_over(response: Response<Body>) -> Result<Response<Body>, Failure> {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE
        && let Some(why) = response.headers().get(UNPROCESSED)
    {
        let reason = format!("the endpoint's sidecar: {}", String::from_utf8_lossy(why.as_bytes()));
        return Err(Failure::upstream(Kind::Connect, false, reason));
    }
    Ok(response)
}

/// Runs `future` until the times are over: None.
async fn limited<F: Future>(times: &Times, future: Pin<&mut F>) -> Option<F::Output> {
    let over = async {
        let mut slept_until = None;
        // Once it has slept until `at` and nothing has moved that on, the time is over; no clock needs to be asked.
        while let Some(at) = times.next().filter(|at| slept_until.is_none_or(|before| *at > before)) {
            tokio::time::sleep_until(at.into()).await;
            slept_until = Some(at);
        }
    };
    tokio::select! {
        biased;
        output = future => Some(output),
        () = over => None,
    }
}
