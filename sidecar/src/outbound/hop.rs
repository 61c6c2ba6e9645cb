//! What a request must look like for the next hop.

use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{StatusCode, Uri, Version};

use crate::failure::{Failure, Kind};
use crate::http1::Informational;

/// `grpc-timeout`: up to eight digits and a unit.
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// For an endpoint that speaks HTTP/1.1.
pub fn for_http1(parts: &mut Parts) {
    if parts.version != Version::HTTP_2 {
        return;
    }
    // The authority counts (RFC 9113, 8.3.1), and the codec writes it as Host.
    if parts.uri.authority().is_some() {
        parts.headers.remove(header::HOST);
    }
    // RFC 9113, 8.2.3: the crumbs of a cookie are put together again.
    if parts.headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<_> =
            parts.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            parts.headers.insert(header::COOKIE, cookie);
        }
    }
    parts.version = Version::HTTP_11;
}

/// For an endpoint that speaks HTTP/2: the host becomes the authority, and what belongs to the old connection
/// goes.
pub fn for_http2(parts: &mut Parts) -> Result<(), Failure> {
    for name in [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        parts.headers.remove(name);
    }
    let expects = parts.headers.get(header::EXPECT);
    if expects.is_some_and(|what| what.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        && let Some(caller) = parts.extensions.get::<Informational>()
    {
        // hyper keeps interim answers to itself: nobody else would tell the caller to go on.
        caller.send(StatusCode::CONTINUE, &HeaderMap::new());
        parts.headers.remove(header::EXPECT);
    }
    if parts.headers.get(header::TE).is_some_and(|te| te != "trailers") {
        parts.headers.remove(header::TE);
    }
    let host = parts.headers.remove(header::HOST);
    let bad = |_| Failure::downstream(Kind::BadRequest, "the host is not one");
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    if uri.authority.is_none() {
        let host = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        uri.authority = Some(Authority::try_from(host).map_err(bad)?);
    }
    uri.scheme.get_or_insert(Scheme::HTTP);
    uri.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    parts.uri = Uri::from_parts(uri)
        .map_err(|_| Failure::downstream(Kind::BadRequest, "the request's target is not one"))?;
    parts.version = Version::HTTP_2;
    Ok(())
}

/// When a gRPC caller's time is over; the header itself is passed on as it is.
pub fn grpc_deadline(parts: &Parts, started: Instant) -> Option<Instant> {
    let value = parts.headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?;
    let limit = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    started.checked_add(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn host_and_authority() {
        let mut one =
            parts(http::Request::get("/a?b").header("host", "reviews:9080").header("te", "trailers"));
        for_http2(&mut one).unwrap();
        assert_eq!(one.uri, "http://reviews:9080/a?b");
        assert!(!one.headers.contains_key("host"));
        assert_eq!(one.headers["te"], "trailers");

        let mut two =
            parts(http::Request::get("http://reviews/a").version(Version::HTTP_2).header("host", "other"));
        two.headers.append("cookie", "a=1".parse().unwrap());
        two.headers.append("cookie", "b=2".parse().unwrap());
        for_http1(&mut two);
        assert!(!two.headers.contains_key("host"));
        assert_eq!(two.headers["cookie"], "a=1; b=2");

        let mut bad = parts(http::Request::get("/a").header("host", "a b"));
        assert_eq!(for_http2(&mut bad).unwrap_err().kind, Kind::BadRequest);
    }

    #[test]
    fn grpc_timeouts() {
        let start = crate::proxy::now();
        for (text, wanted) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000S", None),
            ("S", None),
            ("+5S", None),
            ("1s", None),
            ("", None),
        ] {
            let request = parts(http::Request::get("/").header("grpc-timeout", text));
            assert_eq!(grpc_deadline(&request, start).map(|at| at - start), wanted, "{text}");
        }
    }
}
