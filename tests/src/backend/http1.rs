//! The backend's HTTP/1.1, by hand, so that it can stop at any byte.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Behaviour, Seen, State};

/// Serves one connection until it ends or the behaviour ends it.
pub(super) async fn serve(stream: TcpStream, state: &State) {
    let mut stream = BufReader::new(stream);
    let mut served = 0;
    loop {
        if served > 0 {
            let Ok([_, ..]) = stream.fill_buf().await else { return };
            if matches!(state.peek(), Behaviour::CloseReused) {
                state.count(&state.next());
                reset(&stream);
                return;
            }
        }
        let Some(request) = read(&mut stream).await else { return };
        served += 1;
        let behaviour = state.next();
        state.process(&request);
        if matches!(behaviour, Behaviour::ResetBeforeHead) {
            state.count(&behaviour);
            reset(&stream);
            return;
        }
        let closes = matches!(behaviour, Behaviour::ResetOnAccept);
        if closes {
            state.resets_due.fetch_add(1, Ordering::SeqCst);
        }
        let (status, body) = state.answer(&behaviour, &request).await;
        let mut answer = format!("HTTP/1.1 {status} Status\r\nx-backend: {}\r\n", state.name);
        let without_body = matches!(status, 204 | 304);
        if !without_body {
            answer += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        if closes {
            answer += "connection: close\r\n";
        }
        answer += "\r\n";
        let head = answer.len();
        if !without_body && request.method != "HEAD" {
            answer += &body;
        }
        let end = match behaviour {
            Behaviour::ResetAfterHead => head,
            Behaviour::ResetInBody => head + body.len() / 2,
            _ => answer.len(),
        };
        if stream.write_all(&answer.as_bytes()[..end]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        if end < answer.len() {
            state.count(&behaviour);
            // Give the bytes a chance to be read before RST throws them away.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            reset(&stream);
            return;
        }
        if closes || request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

/// When it is dropped, RST instead of FIN.
fn reset(stream: &BufReader<TcpStream>) {
    let _ = stream.get_ref().set_zero_linger();
}

/// One request, head and body; none when the connection ends or what arrives is no request.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let first = line(stream).await?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let next = line(stream).await?;
        if next.is_empty() {
            break;
        }
        let (name, value) = next.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request =
        Seen { method, path, authority: String::new(), headers, body: Vec::new(), version: "1.1" };
    request.authority = request.header("host").unwrap_or_default().to_owned();
    if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    if request.header("transfer-encoding").is_some() {
        loop {
            let size = line(stream).await?;
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            let start = request.body.len();
            request.body.resize(start + size, 0);
            stream.read_exact(&mut request.body[start..]).await.ok()?;
            line(stream).await?;
        }
        loop {
            let trailer = line(stream).await?;
            if trailer.is_empty() {
                break;
            }
            let (name, value) = trailer.split_once(':')?;
            request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    } else if let Some(length) = request.header("content-length") {
        request.body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut request.body).await.ok()?;
    }
    Some(request)
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok()?;
    let text = String::from_utf8(line).ok()?;
    Some(text.strip_suffix("\r\n")?.to_owned())
}
