//! What the corpus does not show: which fields go on, and how.

use super::*;

fn read(text: &str) -> RequestHead {
    let mut buffer = BytesMut::from(text);
    request(&mut buffer, &mut Scan::default(), &Limits::default()).expect("accepted").expect("complete")
}

fn read_response(text: &str) -> ResponseHead {
    let mut buffer = BytesMut::from(text);
    response(&mut buffer, &mut Scan::default(), &Limits::default(), &Method::GET)
        .expect("accepted")
        .expect("complete")
}

fn fields(fields: &str) -> Vec<(String, String)> {
    listed(read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).request.headers())
}

fn response_fields(status: &str, fields: &str) -> Vec<(String, String)> {
    listed(read_response(&format!("HTTP/1.1 {status}\r\n{fields}\r\n")).response.headers())
}

fn listed(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let all = headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    all.filter(|(name, _)| name != "host").collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn hop_by_hop_fields_end_here() {
    let all = "Connection: keep-alive, X-One\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
               X-One: 1\r\nX-Two: 2\r\nConnection: x-three\r\nX-Three: 3\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(fields(all), pairs(&[("x-two", "2")]));
}

#[test]
fn connection_cannot_hide_what_is_end_to_end() {
    let listing = "Connection: close, Host, Content-Length, Authorization, Cookie, X-Forwarded-For, x-fairlead-target\r\n\
                   Content-Length: 0\r\nAuthorization: b\r\nCookie: c\r\nX-Forwarded-For: d\r\nX-Fairlead-Target: e\r\n";
    let kept = [
        ("content-length", "0"),
        ("authorization", "b"),
        ("cookie", "c"),
        ("x-forwarded-for", "d"),
        ("x-fairlead-target", "e"),
    ];
    assert_eq!(fields(listing), pairs(&kept));
}

#[test]
fn te_says_trailers_or_nothing() {
    assert_eq!(fields("TE: trailers\r\n"), pairs(&[("te", "trailers")]));
    assert_eq!(fields("TE: gzip;q=0.5, Trailers\r\nConnection: TE\r\n"), pairs(&[("te", "trailers")]));
    assert_eq!(fields("TE: gzip\r\n"), pairs(&[]));
    assert_eq!(fields("Trailer: x\r\n"), pairs(&[("trailer", "x")]));
}

#[test]
fn an_upgrade_goes_on_when_it_was_asked_for_properly_and_is_not_http() {
    let asked = |upgrade: &str| fields(&format!("Connection: keep-alive, Upgrade\r\nUpgrade: {upgrade}\r\n"));
    assert_eq!(asked("websocket"), pairs(&[("upgrade", "websocket")]));
    assert_eq!(asked("h2c, websocket, HTTP/2.0"), pairs(&[("upgrade", "websocket")]));
    for http in ["h2c", "H2C", "h2", "HTTP/2.0", "h2c,h2"] {
        assert_eq!(asked(http), pairs(&[]), "{http}");
    }
    assert_eq!(fields("Upgrade: websocket\r\n"), pairs(&[]), "not listed in Connection");
    assert_eq!(fields("HTTP2-Settings: AAM\r\nConnection: HTTP2-Settings\r\n"), pairs(&[]));
    let with_body =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(listed(read(with_body).request.headers()), pairs(&[("content-length", "1")]));
    let old = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    assert_eq!(listed(read(old).request.headers()), pairs(&[]));
}

#[test]
fn an_upgrade_in_an_answer_means_something_in_two_cases() {
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(response_fields("101 Switching Protocols", upgrade), pairs(&[("upgrade", "websocket")]));
    assert_eq!(response_fields("426 Upgrade Required", upgrade), pairs(&[("upgrade", "websocket")]));
    assert_eq!(response_fields("200 OK", upgrade), pairs(&[]));
}

#[test]
fn order_and_duplicates_stay() {
    let sent = [("x-b", "1"), ("x-a", "2"), ("cookie", "a=1"), ("cookie", "b=2"), ("x-c", "3")];
    let text: String = sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    assert_eq!(fields(&text), pairs(&sent));
}

#[test]
fn keep_alive_by_version_and_connection() {
    let keep = |version: &str, connection: &str| {
        read(&format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n")).keep_alive
    };
    assert!(keep("1.1", ""));
    assert!(!keep("1.1", "Connection: foo, Close\r\n"));
    assert!(!keep("1.0", ""));
    assert!(keep("1.0", "Connection: Keep-Alive\r\n"));
    assert!(!keep("1.0", "Connection: keep-alive, close\r\n"));
    let keep = |head: &str| read_response(head).keep_alive;
    assert!(keep("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    assert!(!keep("HTTP/1.1 200 OK\r\n\r\n"), "until the end");
    assert!(!keep("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
}

#[test]
fn the_authority_of_an_absolute_target_wins_over_the_host() {
    let head = read("GET HTTP://b:81/c HTTP/1.1\r\nX: y\r\nHost: a\r\n\r\n");
    assert_eq!(head.request.uri(), "/c");
    assert_eq!(head.request.headers().get_all("host").iter().collect::<Vec<_>>(), ["b:81"]);
}

#[test]
fn what_is_no_uri_and_sent_all_the_same_is_escaped() {
    let uri =
        |target: &str| read(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).request.uri().to_string();
    assert_eq!(uri("/query?query=up{job=\"x\"}"), "/query?query=up%7Bjob=%22x%22%7D");
    assert_eq!(uri("/a<b>`"), "/a%3Cb%3E%60");
    assert_eq!(uri("http://a/?<"), "/?%3C");
    assert_eq!(uri("/%22?a=%22"), "/%22?a=%22", "what is a URI stays as it is");
}

#[test]
fn an_expectation_is_noticed_and_goes_on() {
    let head = read("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n");
    assert!(head.expects_continue && head.request.headers().contains_key("expect"));
    let head = read("PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    assert!(!head.expects_continue && !head.request.headers().contains_key("expect"));
}

#[test]
fn framing_of_answers() {
    let framing = |method: &Method, head: &str| {
        let mut buffer = BytesMut::from(head);
        response(&mut buffer, &mut Scan::default(), &Limits::default(), method).unwrap().unwrap().framing
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(framing(&Method::GET, chunked), Framing::Chunked);
    assert_eq!(framing(&Method::HEAD, chunked), Framing::None);
    assert_eq!(framing(&Method::GET, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"), Framing::None);
    assert_eq!(framing(&Method::GET, "HTTP/1.1 103 Early Hints\r\n\r\n"), Framing::None);
    assert_eq!(framing(&Method::GET, "HTTP/1.1 200 OK\r\n\r\n"), Framing::Close);
}

#[test]
fn connection_lists_only_so_much() {
    let list =
        |names: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "x,".repeat(names));
    read(&list(500));
    let refused = request(&mut BytesMut::from(&*list(600)), &mut Scan::default(), &Limits::default());
    assert_eq!(refused.unwrap_err(), Refusal::bad("Connection lists too much"));
}
