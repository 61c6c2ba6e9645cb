//! What a caller speaks, told by its first bytes.
//!
//! ```text
//! "PRI * HTTP/2.0"            HTTP/2 with prior knowledge
//! METHOD SP target SP HTTP/1  HTTP/1
//! anything else               bytes
//! ```
//!
//! As little as possible is read: one byte that neither can begin with decides.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

/// How HTTP/2 begins (RFC 9113, 3.4). The first line is enough: no method is called PRI.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// No request line that we would take is longer; see the limit of the target in the HTTP/1.1 codec.
const LONGEST_LINE: usize = 40 * 1024;

/// The longest registered method has 17 letters.
const LONGEST_METHOD: usize = 32;

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Opaque,
}

/// Reads until it knows.
#[derive(Debug)]
pub struct Detector {
    read: BytesMut,
    http_only: bool,
}

impl Detector {
    /// For a port where HTTP is spoken: what is not HTTP/2 is HTTP/1, or broken.
    pub fn http() -> Self {
        Self { read: BytesMut::new(), http_only: true }
    }

    /// For a port of which nothing is known.
    pub fn any() -> Self {
        Self { read: BytesMut::new(), http_only: false }
    }

    /// Reads until it is clear, or the caller has ended. Cancel safe: what was read is kept.
    pub async fn read(&mut self, stream: &TcpStream) -> io::Result<Detected> {
        loop {
            if let Some(detected) = self.decide() {
                return Ok(detected);
            }
            if let Some(ended) = self.read_more(stream).await? {
                return Ok(ended);
            }
        }
    }

    /// Waits for bytes, and reads them; or says what it is, for the caller has ended.
    async fn read_more(&mut self, stream: &TcpStream) -> io::Result<Option<Detected>> {
        loop {
            stream.readable().await?;
            match stream.try_read_buf(&mut self.read) {
                Ok(0) if self.read.is_empty() && self.http_only => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                // A caller that only listens: whatever it is, it is not a request.
                Ok(0) if self.http_only => return Ok(Some(Detected::Http1)),
                Ok(0) => return Ok(Some(Detected::Opaque)),
                Ok(_) => return Ok(None),
                // A socket may seem to be readable, and a new one always does.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.read.is_empty() {
                        self.read = BytesMut::new(); // A silent caller holds no buffer.
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The same for a caller that must go on once it has begun. A silent one may stay.
    pub async fn read_in_time(&mut self, stream: &TcpStream, limit: Duration) -> io::Result<Detected> {
        if self.read.is_empty()
            && let Some(ended) = self.read_more(stream).await?
        {
            return Ok(ended);
        }
        tokio::time::timeout(limit, self.read(stream)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// What was read, to be read again by whoever takes over.
    pub fn into_bytes(self) -> Bytes {
        self.read.freeze()
    }

    fn decide(&self) -> Option<Detected> {
        let seen = self.read.as_ref();
        let compared = seen.len().min(PREFACE.len());
        if seen.get(..compared) == PREFACE.get(..compared) {
            return (compared == PREFACE.len()).then_some(Detected::Http2);
        }
        if self.http_only { Some(Detected::Http1) } else { http1(seen) }
    }
}

/// Whether this begins as an HTTP/1 request line; None: it may.
fn http1(seen: &[u8]) -> Option<Detected> {
    let line_end = memchr::memchr(b'\n', seen);
    let line = seen.get(..line_end.unwrap_or(seen.len())).unwrap_or(seen);
    let method_end = line.iter().position(|byte| !byte.is_ascii_uppercase() && !matches!(byte, b'-' | b'_'));
    match method_end {
        None if line_end.is_none() && line.len() <= LONGEST_METHOD => return None,
        Some(1..=LONGEST_METHOD) if line.get(method_end?) == Some(&b' ') => {}
        _ => return Some(Detected::Opaque),
    }
    match line_end {
        None if seen.len() < LONGEST_LINE => None,
        None => Some(Detected::Opaque),
        Some(_) => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            Some(if version.starts_with(b"HTTP/1.") { Detected::Http1 } else { Detected::Opaque })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(text: &str) -> Option<Detected> {
        Detector { read: text.as_bytes().into(), http_only: false }.decide()
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_has_begun_must_go_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap());
        let (caller, accepted) = tokio::join!(connected, listener.accept());
        let (_caller, stream, limit) = (caller.unwrap(), accepted.unwrap().0, Duration::from_secs(10));
        for mut detector in [Detector::http(), Detector::any()] {
            let silent =
                tokio::time::timeout(Duration::from_secs(3600), detector.read_in_time(&stream, limit));
            assert!(silent.await.is_err(), "a silent caller may stay");
            assert_eq!(detector.read.capacity(), 0);
        }
        for mut detector in [Detector::http(), Detector::any()] {
            detector.read.extend_from_slice(b"PRI");
            let half = detector.read_in_time(&stream, limit).await.unwrap_err();
            assert_eq!(half.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[test]
    fn each_prefix_agrees_with_the_whole() {
        for (text, wanted) in [
            ("GET /path?x HTTP/1.1\r\n", Detected::Http1),
            ("M-SEARCH * HTTP/1.1\r\n", Detected::Http1),
            ("PROPFIND / HTTP/1.0\n", Detected::Http1),
            ("PRI * HTTP/2.0\r\n", Detected::Http2),
            ("SSH-2.0-OpenSSH_9.2\r\n", Detected::Opaque),
            ("PING\r\n", Detected::Opaque),
            ("\u{16}\u{3}\u{1}", Detected::Opaque),
            ("GET key\r\n", Detected::Opaque),
            ("hello", Detected::Opaque),
            (" GET / HTTP/1.1\r\n", Detected::Opaque),
        ] {
            assert_eq!(decide(text), Some(wanted), "{text:?}");
            let first = (0..text.len()).find_map(|length| decide(&text[..length]));
            assert!(first.is_none_or(|detected| detected == wanted), "{text:?}: {first:?}");
        }
        assert_eq!(decide(""), None);
        assert_eq!(decide("P"), None);
        assert_eq!(decide("GET /"), None);
        assert_eq!(decide(&"A".repeat(33)), Some(Detected::Opaque));
    }
}
