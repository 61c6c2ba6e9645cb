//! Callers whose bytes come back from an echo, or whose sum does: what arrives must be what was sent, to the last
//! byte.

use std::hash::Hasher;

use anyhow::{Context, ensure};
use fairlead_tests::client::Http1;
use fairlead_tests::load::there_and_back;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::serve::resolve;

/// To an echo of bytes.
pub async fn echoed(address: &str) -> anyhow::Result<()> {
    there_and_back(TcpStream::connect(resolve(address).await?).await?).await?;
    super::load::say("the same");
    Ok(())
}

/// To an echo behind `Upgrade`.
pub async fn upgraded(url: &str) -> anyhow::Result<()> {
    let url: http::Uri = url.parse()?;
    let authority = url.authority().context("the URL has no host")?;
    let mut stream = TcpStream::connect(resolve(authority.as_str()).await?).await?;
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {authority}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        url.path()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut stream = BufReader::new(stream);
    let mut status = String::new();
    stream.read_line(&mut status).await?;
    ensure!(status.starts_with("HTTP/1.1 101 "), "not switched: {status:?}");
    let mut line = status;
    while line.trim() != "" {
        line.clear();
        stream.read_line(&mut line).await?;
    }
    there_and_back(stream.into_inner()).await?;
    super::load::say("the same");
    Ok(())
}

/// Posts so many bytes to a server of ours, which answers with how many arrived and their sum.
pub async fn uploaded(url: &str, length: u64) -> anyhow::Result<()> {
    let url: http::Uri = url.parse()?;
    let authority = url.authority().context("the URL has no host")?;
    let mut connection = Http1::connect(resolve(authority.as_str()).await?).await?;
    let head =
        format!("POST {} HTTP/1.1\r\nhost: {authority}\r\ncontent-length: {length}\r\n\r\n", url.path());
    connection.send(head.as_bytes()).await?;
    let (mut sum, mut at) = (Sum::new(), 0);
    while at < length {
        let next = length.min(at + (1 << 16));
        let piece = pattern(at..next);
        sum.write(&piece);
        connection.send(&piece).await?;
        at = next;
    }
    let answer = connection.answer("POST").await?;
    let seen: serde_json::Value = serde_json::from_str(&answer.text()).context(answer.text())?;
    let number = |name| seen.get(name).and_then(serde_json::Value::as_u64);
    ensure!(
        number("length") == Some(length) && number("sum") == Some(sum.finish()),
        "{length} bytes became {seen}"
    );
    super::load::say("the same");
    Ok(())
}

/// The sum of the bytes of a body, in whatever pieces they come.
pub struct Sum(u64);

impl Sum {
    /// Of nothing.
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

/// FNV-1a: a byte that is lost, added, changed or moved makes another sum.
impl Hasher for Sum {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Bytes that do not repeat where a piece of a stream could be taken for another.
fn pattern(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()
}
