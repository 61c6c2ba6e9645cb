//! The callers and the backend: bytes that were made before, on sockets that never wait.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, ensure};
use clap::ValueEnum;

use crate::http2;

/// What make bench sends.
const REQUEST: &str = "GET /api/items/42 HTTP/1.1\r\nhost: items.default.svc\r\nuser-agent: bench/1\r\n\
    accept: application/json\r\nauthorization: Bearer 0123456789abcdef0123456789abcdef\r\n\r\n";

/// What make bench is answered, before the length of the content.
const HEAD: &str = "HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
    x-request-id: 7c2b1c0e-5a35-4e43-9d0b-3a1f0e6c9a11\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-length: ";

/// The content of every answer.
pub const CONTENT: &str = concat!(
    r#"{"id":"3f1c9a52","name":"widget","price":1999,"currency":"EUR","stock":42,"#,
    r#""tags":["a","b","c"],"updated":"2026-01-01T00:00:00Z"}"#
);

/// How an answer begins.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// The protocol of callers and backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Speak {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// All connections to the proxy and all from it.
pub struct Peers {
    speak: Speak,
    streams: usize,
    listener: TcpListener,
    callers: Vec<Peer>,
    backends: Vec<Peer>,
}

/// One end of a connection.
struct Peer {
    stream: TcpStream,
    read: Vec<u8>,
    /// Answers that a caller waits for.
    awaited: usize,
    http2: Option<http2::Peer>,
}

impl Peers {
    /// Connects the callers.
    pub fn new(
        speak: Speak,
        proxy: SocketAddr,
        listener: TcpListener,
        connections: usize,
        streams: usize,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let connect = |_| {
            let stream = TcpStream::connect(proxy)?;
            Peer::new(stream, (speak == Speak::Http2).then(http2::Peer::caller))
        };
        let callers =
            (0..connections).map(connect).collect::<Result<_, _>>().context("connecting a caller")?;
        Ok(Self { speak, streams, listener, callers, backends: Vec::new() })
    }

    /// Does all that can be done now; true: every caller has had its answers, and has sent its next requests.
    ///
    /// Callgrind does not count what happens in here: dev/cost knows it by its name.
    #[inline(never)]
    pub fn turn(&mut self) -> anyhow::Result<bool> {
        while let Some((stream, _)) = came(self.listener.accept())? {
            self.backends.push(Peer::new(stream, (self.speak == Speak::Http2).then(http2::Peer::backend))?);
        }
        for backend in &mut self.backends {
            backend.answer()?;
        }
        let mut waits = false;
        for caller in &mut self.callers {
            caller.hear()?;
            waits |= caller.awaited > 0;
        }
        if !waits {
            for caller in &mut self.callers {
                caller.ask(self.streams)?;
            }
        }
        Ok(!waits)
    }
}

impl Peer {
    fn new(stream: TcpStream, http2: Option<http2::Peer>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new(), awaited: 0, http2 })
    }

    /// A caller's requests.
    fn ask(&mut self, streams: usize) -> anyhow::Result<()> {
        self.awaited += streams;
        match &mut self.http2 {
            None => {
                ensure!(streams == 1, "an HTTP/1.1 caller has one request in flight");
                self.stream.write_all(REQUEST.as_bytes())?;
            }
            Some(http2) => self.stream.write_all(&http2.requests(streams))?,
        }
        Ok(())
    }

    /// What the caller waits for.
    fn hear(&mut self) -> anyhow::Result<()> {
        if self.awaited == 0 || !self.fill()? {
            return Ok(());
        }
        match &mut self.http2 {
            None if self.read.ends_with(CONTENT.as_bytes()) => {
                ensure!(self.read.starts_with(OK), "{}", String::from_utf8_lossy(&self.read));
                self.awaited -= 1;
                self.read.clear();
            }
            None => {}
            Some(http2) => {
                let (out, ended) = http2.take(&mut self.read)?;
                self.stream.write_all(&out)?;
                self.awaited -= ended;
            }
        }
        Ok(())
    }

    /// The backend's answer to what has come.
    fn answer(&mut self) -> anyhow::Result<()> {
        if !self.fill()? {
            return Ok(());
        }
        match &mut self.http2 {
            None if self.read.ends_with(b"\r\n\r\n") => {
                self.read.clear();
                let answer = format!("{HEAD}{}\r\n\r\n{CONTENT}", CONTENT.len());
                self.stream.write_all(answer.as_bytes())?;
            }
            None => {}
            Some(http2) => {
                let (out, _) = http2.take(&mut self.read)?;
                self.stream.write_all(&out)?;
            }
        }
        Ok(())
    }

    /// Reads what has come, if anything has.
    fn fill(&mut self) -> anyhow::Result<bool> {
        let mut piece = [0; 16 * 1024];
        let Some(length) = came(self.stream.read(&mut piece))? else { return Ok(false) };
        ensure!(length > 0, "the proxy closed a connection");
        self.read.extend(piece.iter().take(length));
        Ok(true)
    }
}

/// None: not yet.
fn came<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
