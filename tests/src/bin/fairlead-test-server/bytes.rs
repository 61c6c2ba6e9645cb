//! Callers whose bytes come back from an echo: what arrives must be what was sent, to the last byte.

use anyhow::{Context, ensure};
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
