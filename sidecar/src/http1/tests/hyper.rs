//! hyper as a second opinion: on every message of the corpus it must decide as we do, unless the corpus says
//! what it does instead and why we do not.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::corpus::{Case, REQUESTS, RESPONSES, summary};
use super::harness::{PATIENCE, spawn};
use crate::http1::Limits;
use crate::http1::fuzzing::{self, Kind};

/// Whole messages, whether something was refused, whether more was awaited.
type Verdict = (Vec<(String, String)>, bool, bool);

#[tokio::test]
async fn requests_are_read_as_hyper_reads_them_but_for_a_list() {
    let mut wrong = Vec::new();
    for case in REQUESTS {
        let theirs =
            tokio::time::timeout(PATIENCE, hyper_server(case.stream)).await.expect("an opinion in time");
        compare(case, &ours(Kind::Requests, case.stream), &theirs, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn responses_are_read_as_hyper_reads_them_but_for_a_list() {
    let mut wrong = Vec::new();
    for case in RESPONSES {
        let theirs =
            tokio::time::timeout(PATIENCE, hyper_client(case.stream)).await.expect("an opinion in time");
        let (mut messages, refused, waits) = ours(Kind::Responses(&Method::GET), case.stream);
        messages.retain(|(status, _)| !status.starts_with('1')); // It keeps interim answers to itself.
        compare(case, &(messages, refused, waits), &theirs, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compare(case: &Case, ours: &Verdict, theirs: &Verdict, wrong: &mut Vec<String>) {
    match (ours == theirs, case.hyper) {
        (true, None) => {}
        (false, Some(reason)) if is_what(reason, theirs) => {}
        (false, Some(reason)) => wrong.push(format!("{}: said {reason:?}, hyper {theirs:?}", case.name)),
        (true, Some(_)) => wrong.push(format!("{}: hyper agrees: {theirs:?}", case.name)),
        (false, None) => wrong.push(format!("{}: ours {ours:?}, hyper {theirs:?}", case.name)),
    }
}

/// Whether hyper does what the first word of the reason says.
fn is_what(reason: &str, (messages, refused, waits): &Verdict) -> bool {
    match reason.split([' ', ':']).next() {
        Some("accepts" | "gives") => !messages.is_empty() && !refused,
        Some("refuses") => *refused,
        Some("waits") => *waits && !refused,
        _ => false,
    }
}

fn ours(kind: Kind<'_>, stream: &[u8]) -> Verdict {
    let (messages, refused, waits) = summary(&fuzzing::read(kind, &Limits::default(), [stream]));
    (messages, refused.is_some(), waits)
}

async fn hyper_server(stream: &'static [u8]) -> Verdict {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    near.write_all(stream).await.unwrap();
    near.shutdown().await.unwrap();
    let seen = Arc::new(Mutex::new((Vec::new(), None)));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let start = format!("{} {}", request.method(), request.uri());
            match request.into_body().collect().await {
                Ok(body) => {
                    let content = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                    seen.lock().unwrap().0.push((start, content));
                }
                Err(error) => seen.lock().unwrap().1 = Some(cut_off(&error)),
            }
            Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let ended = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(far), service)
        .await;
    let (messages, in_body) = std::mem::take(&mut *seen.lock().unwrap());
    let incomplete = in_body.or(ended.err().map(|error| cut_off(&error)));
    (messages, incomplete == Some(false), incomplete == Some(true))
}

async fn hyper_client(stream: &'static [u8]) -> Verdict {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(far)).await.unwrap();
    spawn(async move {
        let _ = connection.await;
    });
    let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request);
    let feed = async {
        // Only an asked-for answer is read as one.
        let mut byte = [0; 4];
        tokio::io::AsyncReadExt::read_exact(&mut near, &mut byte).await.unwrap();
        near.write_all(stream).await.unwrap();
        near.shutdown().await.unwrap();
    };
    let (answer, ()) = tokio::join!(answer, feed);
    let response = match answer {
        Ok(response) => response,
        Err(error) => return (Vec::new(), !cut_off(&error), cut_off(&error)),
    };
    let status = response.status().as_str().to_owned();
    match response.into_body().collect().await {
        Ok(body) => (vec![(status, String::from_utf8_lossy(&body.to_bytes()).into_owned())], false, false),
        Err(error) => (Vec::new(), !cut_off(&error), cut_off(&error)),
    }
}

/// Whether the stream just ended too early.
fn cut_off(error: &hyper::Error) -> bool {
    let unexpected_end = || {
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let ended = cause.downcast_ref::<std::io::Error>();
            if ended.is_some_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof) {
                return true;
            }
            source = cause.source();
        }
        false
    };
    error.is_incomplete_message() || unexpected_end()
}
