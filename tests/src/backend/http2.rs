//! The backend's HTTP/2: the h2 crate's server, and a raw frame where it is too polite.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::net::TcpStream;

use super::{Behaviour, Seen, State};

/// Serves one connection until it ends or the behaviour ends it.
pub(super) async fn serve(stream: TcpStream, state: &State) {
    // For frames that h2 would not send. Nothing else is written meanwhile: there is one task.
    let Ok((stream, raw)) = twice(stream) else { return };
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let last = AtomicU32::new(u32::MAX);
    let mut exchanges = FuturesUnordered::new();
    loop {
        tokio::select! {
            next = connection.accept() => match next {
                Some(Ok((request, respond))) => exchanges.push(exchange(request, respond, state, &raw, &last)),
                Some(Err(_)) | None => return,
            },
            Some(goes_away) = exchanges.next(), if !exchanges.is_empty() => if goes_away {
                connection.graceful_shutdown();
            },
        }
    }
}

fn twice(stream: TcpStream) -> std::io::Result<(TcpStream, std::net::TcpStream)> {
    let stream = stream.into_std()?;
    let raw = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, raw))
}

/// One stream; true when the connection is to take no more.
async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: &State,
    raw: &std::net::TcpStream,
    last: &AtomicU32,
) -> bool {
    let id = u32::from(respond.stream_id());
    if id > last.load(Ordering::SeqCst) {
        return false; // Beyond what GOAWAY named: not taken on, whoever was accepted before it was sent.
    }
    let behaviour = state.next();
    match behaviour {
        Behaviour::RefuseStream => {
            state.count(&behaviour);
            respond.send_reset(Reason::REFUSED_STREAM);
            return false;
        }
        Behaviour::GoAway => {
            state.count(&behaviour);
            last.store(id.saturating_sub(2), Ordering::SeqCst);
            go_away(raw, id.saturating_sub(2));
            return false;
        }
        _ => {}
    }
    let Some(request) = read(request).await else { return false };
    if id > last.load(Ordering::SeqCst) {
        return false;
    }
    state.process(&request);
    if matches!(behaviour, Behaviour::ResetBeforeHead | Behaviour::ResetOnAccept) {
        state.count(&behaviour);
        respond.send_reset(Reason::INTERNAL_ERROR);
        return false;
    }
    let (status, body) = state.answer(&behaviour, &request).await;
    let grpc = status == 200
        && request.header("content-type").is_some_and(|kind| kind.starts_with("application/grpc"));
    let head = Response::builder()
        .status(status)
        .header("x-backend", &state.name)
        .header("content-type", if grpc { "application/grpc" } else { "application/json" })
        .body(())
        .unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return false };
    let body = if grpc { message(body.as_bytes()) } else { Bytes::from(body) };
    if matches!(behaviour, Behaviour::ResetAfterHead | Behaviour::ResetInBody | Behaviour::GoAwayAfter) {
        state.count(&behaviour);
    }
    match behaviour {
        Behaviour::ResetAfterHead => stream.send_reset(Reason::INTERNAL_ERROR),
        Behaviour::ResetInBody => {
            let _ = stream.send_data(body.slice(..body.len() / 2), false);
            // The reset would overtake what is still queued.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        _ if grpc => {
            let _ = stream.send_data(body, false);
            let _ = stream.send_trailers([("grpc-status", "0")].map(header).into_iter().collect());
        }
        _ => {
            let _ = stream.send_data(body, true);
        }
    }
    matches!(behaviour, Behaviour::GoAwayAfter)
}

/// One message as gRPC frames it: not compressed, its length, its bytes.
fn message(bytes: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(bytes.len()).expect("a test's answer is small"));
    framed.put_slice(bytes);
    framed.freeze()
}

fn header((name, value): (&'static str, &'static str)) -> (http::HeaderName, http::HeaderValue) {
    (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
}

async fn read(request: Request<RecvStream>) -> Option<Seen> {
    let (parts, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.ok()?;
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await.ok()?.unwrap_or_default();
    let headers = parts.headers.iter().chain(&trailers);
    let headers = headers
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    Some(Seen {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority: parts.uri.authority().map(ToString::to_string).unwrap_or_default(),
        headers: headers.collect(),
        body,
        version: "2",
    })
}

/// GOAWAY without an error: what is beyond `last` was not processed (RFC 9113, 6.8).
fn go_away(mut stream: &std::net::TcpStream, last: u32) {
    let mut frame = BytesMut::new();
    frame.put_uint(8, 3);
    frame.put_slice(&[7, 0, 0, 0, 0, 0]);
    frame.put_u32(last);
    frame.put_u32(0);
    // The kernel takes so little at once; a connection that is gone says it all the same.
    let _ = stream.write_all(&frame);
}
