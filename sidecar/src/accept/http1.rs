//! A caller that speaks HTTP/1.1: one exchange after the other, all in this task.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Response, StatusCode};
use tokio::net::TcpStream;

use crate::accept::{Connection, FIRST_REQUEST, Purpose};
use crate::body::Body;
use crate::config::Destination;
use crate::drain::Phase;
use crate::http1::server::{self, Ended, Next};
use crate::inbound::{ToProbe, Unprocessed};
use crate::opaque::{self, Side};
use crate::said::UNPROCESSED;

/// Serves until the caller leaves, or is asked to.
pub async fn serve(connection: Connection, stream: TcpStream, first: Bytes) {
    let metrics = &connection.proxy.metrics;
    metrics.connection_is(connection.purpose.direction(), "http1");
    let mut caller = server::Connection::new(stream, &first, Arc::clone(&connection.proxy.http1));
    drop(first);
    let drain = &connection.proxy.drain;
    let must_leave = || drain.phase() >= connection.leaves_in();
    let mut grace = FIRST_REQUEST;
    let mut closing = pin!(drain.reached(Phase::Closing)); // One for all requests: each would get in line anew.
    loop {
        // Between two requests we may leave.
        let leave = async {
            if drain.phase() < Phase::Closing {
                closing.as_mut().await;
            }
            tokio::time::sleep(grace).await;
        };
        let next = tokio::select! {
            biased;
            next = caller.next_request() => next,
            () = leave, if caller.is_idle() => {
                if caller.is_idle() {
                    return;
                }
                continue; // A head has begun meanwhile.
            }
        };
        grace = Duration::ZERO;
        let request = match next {
            Next::Request(request) => request,
            Next::Refused(refusal) => {
                tracing::debug!(peer = %connection.peer, %refusal, "refused a request");
                return metrics.connection_is(connection.purpose.direction(), "refused");
            }
            Next::Closed => return,
        };
        let answer = connection.answer(false, request);
        let Some(answer) = caller.until_gone(answer).await else { return };
        let answer = answer.unwrap_or_else(|unprocessed| not_handed_over(&unprocessed));
        if must_leave() && answer.extensions().get::<ToProbe>().is_none() || is_void(&connection, &answer) {
            caller.last();
        }
        match caller.respond(answer).await {
            Ended::Open => {}
            Ended::Closed | Ended::Failed(_) => return,
            Ended::Upgraded(both) => return upgraded(&connection, *both).await,
        }
    }
}

/// Whether this connection's Service is gone: a captured caller that comes anew is passed through.
fn is_void(connection: &Connection, answer: &Response<Body>) -> bool {
    let Purpose::Outbound(upstream) = &connection.purpose else { return false };
    answer.status() == StatusCode::SERVICE_UNAVAILABLE
        && matches!(connection.proxy.destination(&upstream.name).as_deref(), Some(Destination::Unknown))
}

/// `503` with the word that says that no application has seen the request.
fn not_handed_over(unprocessed: &Unprocessed) -> Response<Body> {
    let why = unprocessed.reason.as_str();
    let mut response = Response::new(Body::from(format!("{why}\n")));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    let value = HeaderValue::from_str(why).unwrap_or(HeaderValue::from_static("no connection"));
    headers.insert(UNPROCESSED, value);
    response
}

async fn upgraded(connection: &Connection, both: crate::http1::Upgraded) {
    let direction = connection.purpose.direction();
    let counters = connection.proxy.metrics.opaque_bytes(direction, &connection.purpose.name());
    let crate::http1::Upgraded { caller, upstream } = both;
    let permits = (caller.permit, upstream.permit);
    let caller = Side { stream: caller.stream, first: caller.first };
    let upstream = Side { stream: upstream.stream, first: upstream.first };
    Box::pin(opaque::carry(caller, upstream, &counters)).await;
    drop(permits);
}
