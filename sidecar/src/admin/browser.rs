//! A browser on this machine must not be made to ask us by the pages of other sites.
//!
//! Nobody is asked for a password here, because only who is on this machine reaches the port. So does a browser, on
//! behalf of any page: with a form (then it sends `Origin`), or under a name of the page's own that leads to
//! 127.0.0.1 (then that name, which has a dot, is the `Host`). Tools send no `Origin`, and call us by address or by
//! a name of this machine's.

use std::net::Ipv4Addr;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Refuses what a page of another site asks for.
pub(super) async fn refuse(request: Request, next: Next) -> Response {
    if is_from_elsewhere(request.headers()) {
        return (StatusCode::FORBIDDEN, "not for pages in a browser; use curl 127.0.0.1:PORT/...\n")
            .into_response();
    }
    next.run(request).await
}

fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("."));
    headers.contains_key(header::ORIGIN) || host.is_some_and(is_of_the_internet)
}

/// A name with a dot, which anybody may own, and no address.
fn is_of_the_internet(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.contains('.') && name.parse::<Ipv4Addr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_refused() {
        for (host, origin, wanted) in [
            (Some("127.0.0.1:15000"), None, false),
            (Some("[::1]:15000"), None, false),
            (Some("localhost"), None, false),
            (Some("reviews:1"), None, false),
            (Some("127.0.0.1"), None, false),
            (None, None, false),
            (Some("rebound.example:15000"), None, true),
            (Some("127.0.0.1.example"), None, true),
            (Some("localhost.example"), None, true),
            (Some("localhost:15000"), Some("http://elsewhere.example"), true),
            (Some("localhost:15000"), Some("null"), true),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(host.map(|host| (header::HOST, host.parse().unwrap())));
            headers.extend(origin.map(|origin| (header::ORIGIN, origin.parse().unwrap())));
            assert_eq!(is_from_elsewhere(&headers), wanted, "{host:?} {origin:?}");
        }
    }
}
