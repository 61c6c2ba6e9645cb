//! The backend's HTTP/2: the h2 crate's server, and raw frames where it is too polite.

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Behaviour, Seen, State};

/// Serves one connection until it ends or the behaviour ends it.
pub(super) async fn serve(stream: TcpStream, state: &State) {
    if matches!(state.peek(), Behaviour::GoAway) {
        state.next();
        go_away(stream).await;
        return;
    }
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut exchanges = FuturesUnordered::new();
    loop {
        tokio::select! {
            next = connection.accept() => match next {
                Some(Ok((request, respond))) => exchanges.push(exchange(request, respond, state)),
                Some(Err(_)) | None => return,
            },
            Some(goes_away) = exchanges.next(), if !exchanges.is_empty() => if goes_away {
                connection.graceful_shutdown();
            },
        }
    }
}

/// One stream; true when the connection is to take no more.
async fn exchange(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, state: &State) -> bool {
    let behaviour = state.next();
    if matches!(behaviour, Behaviour::RefuseStream) {
        respond.send_reset(Reason::REFUSED_STREAM);
        return false;
    }
    let Some(request) = read(request).await else { return false };
    state.process(&request);
    if matches!(behaviour, Behaviour::ResetBeforeHead | Behaviour::ResetOnAccept) {
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

/// SETTINGS; at the first HEADERS, GOAWAY with last stream 0 and the end: no stream was processed.
async fn go_away(mut stream: TcpStream) {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let frame = |kind: u8, payload: &[u8]| {
        let mut bytes = BytesMut::new();
        bytes.put_uint(payload.len() as u64, 3);
        bytes.put_slice(&[kind, 0, 0, 0, 0, 0]);
        bytes.put_slice(payload);
        bytes
    };
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).await.is_err()
        || stream.write_all(&frame(SETTINGS, &[])).await.is_err()
    {
        return;
    }
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        if head[3] == HEADERS {
            break;
        }
    }
    let _ = stream.write_all(&frame(GOAWAY, &[0; 8])).await;
    let _ = stream.shutdown().await;
    // Until the other side has seen it: a close now would reset the connection under the frame.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}
