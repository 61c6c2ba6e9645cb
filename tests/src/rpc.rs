//! A gRPC application and its client, on the h2 crate, so that a test sees each byte and each frame:
//! messages with their 5-byte prefix, trailers, answers that are trailers only, flow control.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::until::LIMIT;

/// An application with the methods of `shop.Product`:
///
/// | method | what it does |
/// |---|---|
/// | `Get` | the message back; trailers with status 0 and `x-end` |
/// | `Fail` | no message; trailers with status 5 |
/// | `Refuse` | trailers only, status 7 |
/// | `Watch` | the message, `COUNT SIZE`, asks for so many messages of so many bytes |
/// | `Chat` | each message back as it comes |
/// | `Hang` | no answer, until the caller gives up |
///
/// Asked for its health (`grpc.health.v1.Health/Check`) it says SERVING.
#[derive(Debug)]
pub struct Application {
    /// What it calls itself, in the header `x-backend`.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

/// A call as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// `/shop.Product/Get`.
    pub path: String,
    /// Its header block.
    pub headers: HeaderMap,
    /// Its first message, with the prefix.
    pub bytes: Bytes,
}

#[derive(Debug, Default)]
struct State {
    name: String,
    received: Mutex<Vec<Received>>,
    accepted: AtomicUsize,
    sent: AtomicUsize,
    hanging: AtomicUsize,
    cancelled: AtomicUsize,
}

impl Application {
    /// Listens at this address.
    pub async fn start(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { name: name.to_owned(), ..State::default() });
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { name: name.to_owned(), address, state, serving }
    }

    /// The calls so far.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Connections accepted in all.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Bytes of messages that HTTP/2 has taken from `Watch`.
    pub fn sent(&self) -> usize {
        self.state.sent.load(Ordering::SeqCst)
    }

    /// Calls of `Hang` so far.
    pub fn hanging(&self) -> usize {
        self.state.hanging.load(Ordering::SeqCst)
    }

    /// Those whose caller has given up.
    pub fn cancelled(&self) -> usize {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// Stops listening and closes every connection; returns when the port is free.
    pub async fn stop(mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        state.accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(connection(stream, Arc::clone(&state)));
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(answer(request, respond, Arc::clone(&state)));
    }
}

/// An error: the caller is gone.
async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: Arc<State>,
) -> Result<()> {
    let (parts, stream) = request.into_parts();
    let mut messages = Messages { stream, read: BytesMut::new() };
    let path = parts.uri.path().to_owned();
    let first = messages.next_bytes().await?.unwrap_or_default();
    let received = Received { path: path.clone(), headers: parts.headers, bytes: first.clone() };
    state.received.lock().unwrap().push(received);
    let head =
        Response::builder().header("content-type", "application/grpc+proto").header("x-backend", &state.name);
    let status = |status: u32| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        trailers.insert("grpc-message", http::HeaderValue::from_static("said%20so"));
        trailers.insert("x-end", http::HeaderValue::from_str(&state.name).expect("a name is a value"));
        trailers
    };
    match path.as_str() {
        "/shop.Product/Refuse" => {
            let mut head = head.body(())?;
            head.headers_mut().extend(status(7));
            respond.send_response(head, true)?;
        }
        "/shop.Product/Fail" => {
            respond.send_response(head.body(())?, false)?.send_trailers(status(5))?;
        }
        "/shop.Product/Hang" => {
            state.hanging.fetch_add(1, Ordering::SeqCst);
            poll_fn(|context| respond.poll_reset(context)).await?;
            state.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        "/shop.Product/Watch" => {
            let text = String::from_utf8_lossy(&first[5..]).into_owned();
            let (count, size) = text.split_once(' ').context("COUNT SIZE")?;
            let message = prefixed(&vec![b'w'; size.parse()?]);
            let mut stream = respond.send_response(head.body(())?, false)?;
            for _ in 0..count.parse()? {
                send(&mut stream, message.clone(), |sent| _ = state.sent.fetch_add(sent, Ordering::SeqCst))
                    .await?;
            }
            stream.send_trailers(status(0))?;
        }
        "/shop.Product/Chat" => {
            let mut stream = respond.send_response(head.body(())?, false)?;
            let mut next = (!first.is_empty()).then_some(first);
            while let Some(message) = next {
                send(&mut stream, message, |_| {}).await?;
                next = messages.next_bytes().await?;
            }
            stream.send_trailers(status(0))?;
        }
        path => {
            let serving = [8, 1]; // Field 1, an enum: SERVING.
            let reply = if path.ends_with(".Health/Check") { prefixed(&serving) } else { first };
            let mut stream = respond.send_response(head.body(())?, false)?;
            send(&mut stream, reply, |_| {}).await?;
            stream.send_trailers(status(0))?;
        }
    }
    Ok(())
}

/// A message as it is sent: not compressed, its length, itself.
pub fn prefixed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("a message is small"));
    bytes.put_slice(message);
    bytes.freeze()
}

/// Sends as the other side takes it.
async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes, mut sent: impl FnMut(usize)) -> Result<()> {
    while bytes.has_remaining() {
        stream.reserve_capacity(bytes.len());
        let capacity =
            poll_fn(|context| stream.poll_capacity(context)).await.context("the stream is over")??;
        let piece = bytes.split_to(capacity.min(bytes.len()));
        sent(piece.len());
        stream.send_data(piece, false)?;
    }
    Ok(())
}

/// The messages of one side of a stream.
#[derive(Debug)]
struct Messages {
    stream: RecvStream,
    read: BytesMut,
}

impl Messages {
    /// The next one with its prefix; none at the end.
    async fn next_bytes(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let [_, a, b, c, d, ..] = self.read[..] {
                let length = 5 + usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
                if self.read.len() >= length {
                    return Ok(Some(self.read.split_to(length).freeze()));
                }
            }
            let data = tokio::time::timeout(LIMIT, self.stream.data());
            match data.await.context("nothing came")? {
                Some(data) => {
                    let data = data?;
                    self.stream.flow_control().release_capacity(data.len())?;
                    self.read.extend_from_slice(&data);
                }
                None if self.read.is_empty() => return Ok(None),
                None => bail!("the stream ends within a message"),
            }
        }
    }
}

/// A client: one connection, whose calls may run side by side.
#[derive(Debug, Clone)]
pub struct Client {
    send: h2::client::SendRequest<Bytes>,
}

/// A call that runs.
#[derive(Debug)]
pub struct Call {
    answer: Option<h2::client::ResponseFuture>,
    upload: SendStream<Bytes>,
    /// Once the head has come.
    head: Option<http::response::Parts>,
    messages: Option<Messages>,
    trailers_only: bool,
}

/// A call that has ended.
#[derive(Debug)]
pub struct Reply {
    /// 200.
    pub status: u16,
    /// The header block.
    pub headers: HeaderMap,
    /// The messages, with their prefixes.
    pub messages: Vec<Bytes>,
    /// The trailers; where the answer was trailers only, the header block.
    pub trailers: HeaderMap,
    /// The header block ended the stream.
    pub trailers_only: bool,
}

impl Reply {
    /// `grpc-status`.
    pub fn code(&self) -> Option<u32> {
        self.trailers.get("grpc-status")?.to_str().ok()?.parse().ok()
    }

    /// Who answered.
    pub fn backend(&self) -> String {
        self.headers.get("x-backend").map_or(String::new(), |name| name.to_str().unwrap().to_owned())
    }
}

impl Client {
    /// Opens the connection.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // The connection takes more than one stream that nobody reads.
        let mut builder = h2::client::Builder::new();
        let (send, connection) = builder.initial_connection_window_size(1 << 20).handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self { send })
    }

    /// Begins a call of `shop.Product`; `timeout` is a `grpc-timeout`, empty: none.
    pub async fn begin(&self, method: &str, timeout: &str) -> Result<Call> {
        let mut send = self.send.clone().ready().await?;
        let mut request = Request::post(format!("http://product/shop.Product/{method}"))
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers");
        if !timeout.is_empty() {
            request = request.header("grpc-timeout", timeout);
        }
        let (answer, upload) = send.send_request(request.body(())?, false)?;
        Ok(Call { answer: Some(answer), upload, head: None, messages: None, trailers_only: false })
    }

    /// A call with one message, to its end.
    pub async fn call(&self, method: &str, timeout: &str, message: &[u8]) -> Result<Reply> {
        let mut call = self.begin(method, timeout).await?;
        // Who wants no more of a request resets its rest, and has answered.
        let sent = call.send(message).await.and_then(|()| call.finish());
        let reply = call.end().await;
        if reply.is_err() {
            sent?;
        }
        reply
    }
}

impl Call {
    /// Sends a message.
    pub async fn send(&mut self, message: &[u8]) -> Result<()> {
        send(&mut self.upload, prefixed(message), |_| {}).await
    }

    /// Says that no further message comes.
    pub fn finish(&mut self) -> Result<()> {
        Ok(self.upload.send_data(Bytes::new(), true)?)
    }

    /// Waits for the header block.
    pub async fn head(&mut self) -> Result<()> {
        if let Some(answer) = self.answer.take() {
            let answer = tokio::time::timeout(LIMIT, answer).await.context("no head came")?;
            let (head, stream) = answer?.into_parts();
            self.trailers_only = stream.is_end_stream();
            self.head = Some(head);
            self.messages = Some(Messages { stream, read: BytesMut::new() });
        }
        Ok(())
    }

    /// The next message, with its prefix; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.head().await?;
        self.messages.as_mut().context("the head has come")?.next_bytes().await
    }

    /// Reads all that is left.
    pub async fn end(mut self) -> Result<Reply> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await? {
            messages.push(message);
        }
        let (Some(head), Some(mut rest)) = (self.head, self.messages) else { bail!("the head has come") };
        let trailers = rest.stream.trailers().await?.unwrap_or_default();
        let trailers = if self.trailers_only { head.headers.clone() } else { trailers };
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            messages,
            trailers,
            trailers_only: self.trailers_only,
        })
    }

    /// Gives up, as a client whose deadline is over.
    pub fn cancel(mut self) {
        self.upload.send_reset(h2::Reason::CANCEL);
    }
}
