//! Our own answers.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use crate::body::Body;
use crate::failure::{Failure, Kind};

/// The answer that a failure calls for.
pub fn own_answer(failure: &Failure, grpc: bool) -> Response<Body> {
    if grpc {
        return grpc_answer(grpc_status(failure), &failure.reason);
    }
    let mut response = Response::new(Body::from(format!("{}: {}\n", failure.flag(), failure.reason)));
    *response.status_mut() = failure.status();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A gRPC answer without a message: status and text where the trailers would be (gRPC over HTTP/2,
/// "Trailers-Only").
pub fn grpc_answer(status: u32, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(status));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message)) {
        headers.insert("grpc-message", message);
    }
    response
}

/// As gRPC's clients take it: UNAVAILABLE may be tried again, DEADLINE_EXCEEDED is the time, the rest is wrong.
fn grpc_status(failure: &Failure) -> u32 {
    match failure.kind {
        Kind::NoRoute => 12, // UNIMPLEMENTED
        Kind::BadBackend | Kind::BadRequest | Kind::HeadTooLarge | Kind::Protocol => 13, // INTERNAL
        Kind::Timeout | Kind::HeadTimeout => 4, // DEADLINE_EXCEEDED
        Kind::RateLimited => 8, // RESOURCE_EXHAUSTED
        Kind::Gone => 1,     // CANCELLED
        Kind::NoEndpoint | Kind::Connect | Kind::Refused | Kind::Reset | Kind::Overflow => 14, // UNAVAILABLE
    }
}

/// `grpc-message`: what is not printable ASCII, and `%`, is percent-encoded.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => _ = write!(out, "%{byte:02X}"),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_callers_hear_it_in_their_words() {
        let failure = Failure::local(Kind::Overflow, "100 % full");
        let answer = own_answer(&failure, true);
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["grpc-status"], "14");
        assert_eq!(answer.headers()["grpc-message"], "100 %25 full");
        assert_eq!(own_answer(&failure, false).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
