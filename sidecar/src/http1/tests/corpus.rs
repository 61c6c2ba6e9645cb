//! The corpus: messages of RFC 9112, published smuggling variants, and our own, each cut at every byte.

use http::Method;

use crate::http1::Limits;
use crate::http1::fuzzing::{self, Event, Kind};

/// What is expected of a stream of bytes.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// These messages, each its start line and its content, and nothing else.
    Messages(&'static [(&'static str, &'static str)]),
    /// These messages and then the middle of another.
    Waits(&'static [(&'static str, &'static str)]),
    /// Refused with this status, after so many whole messages.
    Refused(u16, usize),
}

use Expected::{Messages, Refused, Waits};

/// One stream of bytes.
pub struct Case {
    pub name: &'static str,
    pub stream: &'static [u8],
    pub expected: Expected,
    /// Where hyper decides otherwise: what it does, and why we do not.
    pub hyper: Option<&'static str>,
}

const fn case(name: &'static str, stream: &'static [u8], expected: Expected) -> Case {
    Case { name, stream, expected, hyper: None }
}

const fn unlike(name: &'static str, stream: &'static [u8], expected: Expected, hyper: &'static str) -> Case {
    Case { name, stream, expected, hyper: Some(hyper) }
}

macro_rules! post {
    ($fields:literal, $rest:literal) => {
        concat!("POST / HTTP/1.1\r\nHost: a\r\n", $fields, "\r\n", $rest).as_bytes()
    };
}

macro_rules! chunked {
    ($body:literal) => {
        post!("Transfer-Encoding: chunked\r\n", $body)
    };
}

const LENIENT: &str =
    "accepts: lenient about line ends, as RFC 9112, 2.2 permits; a bare LF is where two readers disagree";

/// Requests.
#[rustfmt::skip]
pub const REQUESTS: &[Case] = &[
    // RFC 9112.
    case("2.1 example", b"GET /hello.txt HTTP/1.1\r\nUser-Agent: curl/7.64.1\r\nHost: www.example.com\r\nAccept-Language: en, mi\r\n\r\n", Messages(&[("GET /hello.txt", "")])),
    case("3.2.1 origin form", b"GET /where?q=now HTTP/1.1\r\nHost: www.example.org\r\n\r\n", Messages(&[("GET /where?q=now", "")])),
    unlike("3.2.2 absolute form", b"GET http://www.example.org/pub/WWW/TheProject.html HTTP/1.1\r\nHost: other\r\n\r\n", Messages(&[("GET /pub/WWW/TheProject.html", "")]), "gives the absolute form; we bring all into origin form"),
    unlike("3.2.2 absolute form without path", b"GET http://www.example.org?q HTTP/1.1\r\nHost: other\r\n\r\n", Messages(&[("GET /?q", "")]), "gives the absolute form"),
    unlike("3.2.4 absolute form of OPTIONS *", b"OPTIONS http://www.example.org:8001 HTTP/1.1\r\nHost: www.example.org:8001\r\n\r\n", Messages(&[("OPTIONS *", "")]), "gives the absolute form"),
    unlike("3.2.3 authority form", b"CONNECT www.example.com:80 HTTP/1.1\r\nHost: www.example.com\r\n\r\n", Refused(501, 0), "accepts: CONNECT makes a tunnel, and we are no forward proxy"),
    case("3.2.4 asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: www.example.org:8001\r\n\r\n", Messages(&[("OPTIONS *", "")])),
    case("9.3 pipelining", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nokGET /3 HTTP/1.1\r\nHost: a\r\n\r\n", Messages(&[("GET /1", ""), ("POST /2", "ok"), ("GET /3", "")])),
    case("2.2 an empty line before", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Messages(&[("GET /", "")])),
    case("2.2 an empty line between", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Messages(&[("POST /", "ok"), ("GET /", "")])),
    unlike("2.2 many empty lines before", b"\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0), "accepts: any number of empty lines"),
    case("1.0 without a Host", b"GET / HTTP/1.0\r\n\r\n", Messages(&[("GET /", "")])),
    case("incomplete head", b"GET / HTTP/1.1\r\nHost: a\r\n", Waits(&[])),
    case("incomplete body", post!("Content-Length: 5\r\n", "hell"), Waits(&[])),
    case("length 0", post!("Content-Length: 0\r\n", ""), Messages(&[("POST /", "")])),
    case("obs-text in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xe9\r\n\r\n", Messages(&[("GET /", "")])),
    case("empty value", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", Messages(&[("GET /", "")])),
    case("blanks around a value", b"GET / HTTP/1.1\r\nHost: \t a \t \r\n\r\n", Messages(&[("GET /", "")])),
    case("empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Messages(&[("GET /", "")])),

    // The request line.
    unlike("bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Refused(400, 0), LENIENT),
    unlike("bare LF after a field", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", Refused(400, 0), LENIENT),
    unlike("bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Refused(400, 0), LENIENT),
    unlike("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", Refused(400, 0), LENIENT),
    unlike("bare LF before the request line", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0), LENIENT),
    case("bare CR in the request line", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("bare CR before the request line", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("two blanks", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("a tab", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("blank before the method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("blank after the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("blank in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("no version (0.9)", b"GET /\r\n\r\n", Refused(400, 0)),
    case("version 2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refused(505, 0)),
    case("version 1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refused(505, 0)),
    case("version in lower case", b"GET / http/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("version 1.10", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused(505, 0)),
    case("method with a separator", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),
    case("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Refused(400, 0)),
    unlike("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0), "accepts: cuts the fragment off, and what was asked for is something else then"),
    unlike("asterisk for GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0), "accepts: leaves it to the service"),
    unlike("authority form for GET", b"GET example.com:80 HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0), "accepts: leaves it to the service"),
    case("relative target", b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),
    unlike("other scheme", b"GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0), "accepts: leaves it to the service"),
    unlike("user in the authority", b"GET http://u@a/b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0), "accepts: RFC 9110, 4.2.4 calls it an error"),
    case("absolute form without authority", b"GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400, 0)),

    // Fields.
    unlike("no Host", b"GET / HTTP/1.1\r\n\r\n", Refused(400, 0), "accepts: leaves Host to the service"),
    unlike("no Host, absolute form", b"GET http://a/ HTTP/1.1\r\n\r\n", Refused(400, 0), "accepts: leaves Host to the service"),
    unlike("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused(400, 0), "accepts: leaves Host to the service"),
    unlike("two equal Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refused(400, 0), "accepts: leaves Host to the service"),
    unlike("Host with a user", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refused(400, 0), "accepts: leaves Host to the service"),
    unlike("Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused(400, 0), "accepts: leaves Host to the service"),
    unlike("a list of Hosts", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused(400, 0), "accepts: leaves Host to the service"),
    case("blank before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Refused(400, 0)),
    case("tab before the colon", b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", Refused(400, 0)),
    case("obs-fold", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", Refused(400, 0)),
    case("obs-fold with a tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", Refused(400, 0)),
    case("obs-fold first", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refused(400, 0)),
    case("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", Refused(400, 0)),
    case("no name", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Refused(400, 0)),
    case("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Refused(400, 0)),
    case("NUL in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", Refused(400, 0)),
    case("control character in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", Refused(400, 0)),
    case("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", Refused(400, 0)),
    case("bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Refused(400, 0)),
    case("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Refused(400, 0)),
    case("non-ASCII name", b"GET / HTTP/1.1\r\nHost: a\r\n\xc3\xa9: a\r\n\r\n", Refused(400, 0)),

    // Content-Length.
    case("signed length", post!("Content-Length: +5\r\n", "hello"), Refused(400, 0)),
    case("negative length", post!("Content-Length: -5\r\n", "hello"), Refused(400, 0)),
    case("hexadecimal length", post!("Content-Length: 0x5\r\n", "hello"), Refused(400, 0)),
    case("length with a blank inside", post!("Content-Length: 5 5\r\n", "hello"), Refused(400, 0)),
    case("length with a dot", post!("Content-Length: 5.0\r\n", "hello"), Refused(400, 0)),
    case("empty length", post!("Content-Length:\r\n", "hello"), Refused(400, 0)),
    case("length with an underscore", post!("Content-Length: 1_0\r\n", "hello"), Refused(400, 0)),
    case("length over 64 bits", post!("Content-Length: 18446744073709551616\r\n", "hello"), Refused(400, 0)),
    case("two lengths", post!("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), Refused(400, 0)),
    unlike("two equal lengths", post!("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), Refused(400, 0), "accepts: RFC 9112, 6.3 permits to take them as one; whoever sends two is not to be trusted with any"),
    case("a list of lengths", post!("Content-Length: 5, 5\r\n", "hello"), Refused(400, 0)),
    case("leading zeros in the length", post!("Content-Length: 005\r\n", "hello"), Messages(&[("POST /", "hello")])),

    // CL.TE and TE.CL.
    unlike("CL.TE", post!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG"), Refused(400, 0), "accepts: Transfer-Encoding wins, as RFC 9112, 6.3 permits; the next reader may think otherwise"),
    unlike("TE.CL", post!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "5c\r\nGPOST / HTTP/1.1\r\n"), Refused(400, 0), "waits: as above, and the rest of the chunk is missing"),
    unlike("CL.0 with chunked", post!("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400, 0), "accepts: as above"),

    // TE.TE: what hides Transfer-Encoding from one of two readers.
    case("TE xchunked", post!("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE blank before the colon", post!("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE tab before the colon", post!("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE twice", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "0\r\n\r\n"), Refused(400, 0)),
    unlike("TE twice chunked", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400, 0), "accepts: the last coding is chunked"),
    unlike("TE identity, chunked", post!("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"), Refused(400, 0), "accepts: the last coding is chunked; it does not know the first either"),
    unlike("TE gzip, chunked", post!("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), Refused(400, 0), "accepts: the last coding is chunked; it does not know the first either"),
    unlike("TE chunked, chunked", post!("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), Refused(400, 0), "accepts: the last coding is chunked"),
    case("TE chunked, identity", post!("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE identity", post!("Transfer-Encoding: identity\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE empty", post!("Transfer-Encoding:\r\n", "0\r\n\r\n"), Refused(400, 0)),
    unlike("TE with a comma", post!("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n"), Refused(400, 0), "accepts: the last coding is chunked"),
    case("TE with a parameter", post!("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE quoted", post!("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE vertical tab", post!("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE form feed", post!("Transfer-Encoding: chunked\x0c\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE folded", post!("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), Refused(400, 0)),
    case("TE behind a bare CR", post!("X: a\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400, 0)),
    unlike("TE behind a bare LF", post!("X: a\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400, 0), LENIENT),
    case("TE in capitals", post!("TRANSFER-ENCODING: CHUNKED\r\n", "0\r\n\r\n"), Messages(&[("POST /", "")])),
    case("TE with blanks around", post!("Transfer-Encoding: \t chunked \t\r\n", "0\r\n\r\n"), Messages(&[("POST /", "")])),
    case("TE in 1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400, 0)),
    case("a name like it", post!("Transfer_Encoding: chunked\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Messages(&[("POST /", ""), ("GET /", "")])),

    // Chunks.
    case("chunks", chunked!("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), Messages(&[("POST /", "hello world")])),
    case("chunks, then a request", chunked!("2\r\nok\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Messages(&[("POST /", "ok"), ("GET /", "")])),
    case("capital digits", chunked!("A\r\n0123456789\r\n0\r\n\r\n"), Messages(&[("POST /", "0123456789")])),
    case("leading zeros", chunked!("0002\r\nok\r\n000\r\n\r\n"), Messages(&[("POST /", "ok")])),
    case("trailers", chunked!("2\r\nok\r\n0\r\nX-A: 1\r\nX-A: 2\r\n\r\n"), Messages(&[("POST /", "ok")])),
    case("extension", chunked!("2;a=b\r\nok\r\n0;c\r\n\r\n"), Messages(&[("POST /", "ok")])),
    case("quoted extension", chunked!("2;a=\"b;\\\"c\"\r\nok\r\n0\r\n\r\n"), Messages(&[("POST /", "ok")])),
    case("blanks around an extension", chunked!("2 ; a = b\r\nok\r\n0\r\n\r\n"), Messages(&[("POST /", "ok")])),
    unlike("extension without a name", chunked!("2;\r\nok\r\n0\r\n\r\n"), Refused(400, 0), "accepts: reads over extensions"),
    unlike("extension with a control character", chunked!("2;a=\x01\r\nok\r\n0\r\n\r\n"), Refused(400, 0), "accepts: reads over extensions"),
    unlike("extension with an open quote", chunked!("2;a=\"b\r\nok\r\n0\r\n\r\n"), Refused(400, 0), "accepts: reads over extensions"),
    case("extension with a bare LF", chunked!("2;a\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    case("extension with a bare CR", chunked!("2;a\rb\r\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    case("size with a bare LF", chunked!("2\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    unlike("blank after the size", chunked!("2 \r\nok\r\n0\r\n\r\n"), Refused(400, 0), "accepts: blanks that the grammar does not have"),
    case("blank before the size", chunked!(" 2\r\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    case("size with 0x", chunked!("0x2\r\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    case("negative size", chunked!("-2\r\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    case("signed size", chunked!("+2\r\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    case("empty size", chunked!("\r\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    case("size that is no number", chunked!("g\r\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    case("size over 64 bits", chunked!("10000000000000002\r\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    unlike("many leading zeros", chunked!("00000000000000002\r\nok\r\n0\r\n\r\n"), Refused(400, 0), "accepts: some readers cut the digits off after sixteen"),
    case("chunk longer than its size", chunked!("2\r\nokay\r\n0\r\n\r\n"), Refused(400, 0)),
    case("chunk shorter than its size", chunked!("5\r\nok\r\n0\r\n\r\n"), Refused(400, 0)),
    case("chunk ends in a bare LF", chunked!("2\r\nok\n0\r\n\r\n"), Refused(400, 0)),
    case("chunk ends in a bare CR", chunked!("2\r\nok\r0\r\n\r\n"), Refused(400, 0)),
    unlike("body ends in a bare LF", chunked!("2\r\nok\r\n0\r\n\n"), Refused(400, 0), "waits: takes the LF for the beginning of a trailer"),
    unlike("trailer with a bare LF", chunked!("2\r\nok\r\n0\r\nX: a\n\r\n"), Refused(400, 0), "waits: takes the LF for a part of the value"),
    case("trailer that is none", chunked!("2\r\nok\r\n0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Refused(400, 0)),
    case("no last chunk", chunked!("2\r\nok\r\n"), Waits(&[])),
    case("no end of the trailers", chunked!("2\r\nok\r\n0\r\n"), Waits(&[])),
];

/// Responses to GET.
#[rustfmt::skip]
pub const RESPONSES: &[Case] = &[
    case("length", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Messages(&[("200", "hello")])),
    case("chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Messages(&[("200", "hello")])),
    case("until the end", b"HTTP/1.1 200 OK\r\n\r\nhello", Messages(&[("200", "hello")])),
    case("1.0 until the end", b"HTTP/1.0 200 OK\r\n\r\nhello", Messages(&[("200", "hello")])),
    case("204", b"HTTP/1.1 204 No Content\r\n\r\n", Messages(&[("204", "")])),
    case("304 with a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Messages(&[("304", "")])),
    case("interim", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Messages(&[("100", ""), ("103", ""), ("204", "")])),
    case("no reason", b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", Messages(&[("200", "")])),
    case("no reason and no blank", b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Messages(&[("200", "")])),
    case("other reason", b"HTTP/1.1 200 Quite so\r\nContent-Length: 0\r\n\r\n", Messages(&[("200", "")])),
    case("status 999", b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", Messages(&[("999", "")])),
    case("status 099", b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n", Refused(502, 0)),
    case("status of two digits", b"HTTP/1.1 20 OK\r\n\r\n", Refused(502, 0)),
    case("status of four digits", b"HTTP/1.1 2000 OK\r\n\r\n", Refused(502, 0)),
    case("version 2.0", b"HTTP/2.0 200 OK\r\n\r\n", Refused(502, 0)),
    case("not HTTP", b"220 smtp.example.com ESMTP\r\n", Refused(502, 0)),
    unlike("an empty line before", b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Refused(502, 0), "accepts: bytes that no request asked for, we do not guess whose they are"),
    unlike("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", Refused(502, 0), LENIENT),
    case("obs-fold", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", Refused(502, 0)),
    case("blank before the colon", b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", Refused(502, 0)),
    case("bare CR in a value", b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n", Refused(502, 0)),
    unlike("length beside chunks", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(502, 0), "accepts: Transfer-Encoding wins"),
    case("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", Refused(502, 0)),
    unlike("two equal lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Refused(502, 0), "accepts: takes them as one"),
    unlike("a list of lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", Refused(502, 0), "accepts: takes them as one"),
    case("signed length", b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", Refused(502, 0)),
    unlike("gzip, chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused(502, 0), "accepts: the last coding is chunked"),
    unlike("identity", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello", Refused(502, 0), "accepts: reads until the end, as RFC 9112, 6.3 says; nobody sends it"),
    case("chunks in 1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(502, 0)),
    case("cut off", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Waits(&[])),
    case("chunks cut off", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Waits(&[])),
];

/// The events in the words of [`Expected`]: whole messages, a refusal, whether one was begun.
pub fn summary(events: &[Event]) -> (Vec<(String, String)>, Option<u16>, bool) {
    let (mut messages, mut refused, mut waits) = (Vec::new(), None, false);
    let mut current = (String::new(), String::new());
    for event in events {
        match event {
            Event::Head { start, .. } => current = (start.clone(), String::new()),
            Event::Data(data) => current.1 = String::from_utf8_lossy(data).into_owned(),
            Event::Trailers(_) => {}
            Event::End => messages.push(std::mem::take(&mut current)),
            Event::Refused(status, _) => refused = Some(*status),
            Event::Cut(within) => waits = *within,
        }
    }
    (messages, refused, waits)
}

fn check(kind: Kind<'_>, cases: &[Case]) {
    for Case { name, stream, expected, .. } in cases {
        let limits = Limits::default();
        let whole = fuzzing::read(kind, &limits, [*stream]);
        let (messages, refused, waits) = summary(&whole);
        let messages: Vec<_> = messages.iter().map(|(start, body)| (start.as_str(), body.as_str())).collect();
        match expected {
            Messages(wanted) => {
                assert_eq!((messages, refused, waits), (wanted.to_vec(), None, false), "{name}");
            }
            Waits(wanted) => assert_eq!((messages, refused, waits), (wanted.to_vec(), None, true), "{name}"),
            Refused(status, after) => {
                assert_eq!(
                    (messages.len(), refused, waits),
                    (*after, Some(*status), false),
                    "{name}: {whole:?}"
                );
            }
        }
        assert_eq!(fuzzing::read(kind, &limits, stream.chunks(1)), whole, "{name}: byte by byte");
        for at in 0..stream.len() {
            let (left, right) = stream.split_at(at);
            assert_eq!(fuzzing::read(kind, &limits, [left, right]), whole, "{name}: cut at {at}");
        }
    }
}

#[test]
fn every_request_is_read_the_same_however_it_is_cut() {
    check(Kind::Requests, REQUESTS);
}

#[test]
fn every_response_is_read_the_same_however_it_is_cut() {
    check(Kind::Responses(&Method::GET), RESPONSES);
}

#[test]
fn limits_are_the_same_however_a_head_is_cut() {
    let limits = Limits { head_bytes: 400, target_bytes: 50, ..Limits::default() };
    let fill = |length: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(length));
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(length));
    let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x:\r\n".repeat(count));
    let cases = [
        (fill(400 - fill(0).len()), None),
        (fill(401 - fill(0).len()), Some(431)),
        (fill(10_000), Some(431)),
        (target(49), None),
        (target(50), Some(414)),
        (target(200), Some(414)),
        (target(10_000), Some(414)),
        (many(80), None),
        (many(98), Some(431)),
    ];
    for (stream, expected) in &cases {
        let whole = fuzzing::read(Kind::Requests, &limits, [stream.as_bytes()]);
        assert_eq!(summary(&whole).1, *expected, "{stream:.60}");
        assert_eq!(
            fuzzing::read(Kind::Requests, &limits, stream.as_bytes().chunks(1)),
            whole,
            "{stream:.60}"
        );
        assert_eq!(
            fuzzing::read(Kind::Requests, &limits, stream.as_bytes().chunks(113)),
            whole,
            "{stream:.60}"
        );
    }
    let fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: 1\r\n".repeat(99));
    let limits = Limits::default();
    assert_eq!(summary(&fuzzing::read(Kind::Requests, &limits, [fields.as_bytes()])).1, None);
    let fields = fields.replace("Host: a\r\n", "Host: a\r\ny: 1\r\n");
    assert_eq!(summary(&fuzzing::read(Kind::Requests, &limits, [fields.as_bytes()])).1, Some(431));
}
