//! Clients that send exactly what a test wants and read exactly what comes back.
//!
//! [`Http1`] is one connection of raw HTTP/1.1: bytes out, answers in, one by one, so that pipelining,
//! half requests and nonsense can be sent. [`Http2`] is one connection of the h2 crate. [`call`] opens an
//! HTTP/1.1 connection for one [`Call`].

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A request.
#[derive(Debug, Clone)]
pub struct Call {
    /// GET.
    pub method: String,
    /// With the query.
    pub path: String,
    /// Sent as `Host` or `:authority`.
    pub authority: String,
    /// In this order, as written.
    pub headers: Vec<(String, String)>,
    /// Sent with Content-Length when it is not empty or the method is not GET.
    pub body: Bytes,
    /// After the body; then it is sent chunked.
    pub trailers: Vec<(String, String)>,
}

impl Call {
    /// `method` of `path`, without a body.
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            authority: "reviews".to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            trailers: Vec::new(),
        }
    }

    /// GET `path`.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// POST `body` to `path`.
    pub fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new("POST", path) }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// For this `Host`.
    pub fn authority(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// With a trailer: the body goes chunked.
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As bytes of HTTP/1.1.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", self.method, self.path, self.authority);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let chunked = !self.trailers.is_empty();
        if chunked {
            head += "transfer-encoding: chunked\r\n";
        } else if !self.body.is_empty() || !matches!(self.method.as_str(), "GET" | "HEAD" | "DELETE") {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        let mut bytes = (head + "\r\n").into_bytes();
        if chunked && !self.body.is_empty() {
            bytes.extend_from_slice(format!("{:x}\r\n", self.body.len()).as_bytes());
        }
        bytes.extend_from_slice(&self.body);
        if chunked {
            let trailers: String =
                self.trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let end = if self.body.is_empty() { "0\r\n" } else { "\r\n0\r\n" };
            bytes.extend_from_slice(format!("{end}{trailers}\r\n").as_bytes());
        }
        bytes
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// 200.
    pub status: u16,
    /// Lower case; in the order received.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Lower case.
    pub trailers: Vec<(String, String)>,
    /// Statuses of the 1xx answers before it.
    pub informational: Vec<u16>,
}

impl Answer {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A header that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON: what a backend says it received.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{} is no JSON: {error}: {}", self.status, self.text()))
    }

    /// The backend that answered.
    pub fn backend(&self) -> &str {
        self.header("x-backend").unwrap_or("")
    }
}

/// One call over a connection of its own.
pub async fn call(address: SocketAddr, call: &Call) -> Result<Answer> {
    Http1::connect(address).await?.call(call).await
}

/// GET `path` over a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    call(address, &Call::get(path)).await
}

/// One HTTP/1.1 connection.
#[derive(Debug)]
pub struct Http1 {
    stream: BufReader<TcpStream>,
}

impl Http1 {
    /// Opens it.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// Sends a call and reads its answer.
    pub async fn call(&mut self, call: &Call) -> Result<Answer> {
        // An answer may come, and the connection close, before all is sent.
        let sent = self.send(&call.bytes()).await;
        let answer = self.answer(&call.method).await;
        if answer.is_err() {
            sent?;
        }
        answer
    }

    /// Reads the next answer; `method` is of the request that it answers.
    pub async fn answer(&mut self, method: &str) -> Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let first = self.line().await?;
            let mut words = first.split(' ');
            if !matches!(words.next(), Some("HTTP/1.1" | "HTTP/1.0")) {
                bail!("no status line: {first:?}");
            }
            answer.status = words.next().context("no status")?.parse()?;
            answer.headers = self.fields().await?;
            if answer.status >= 200 || answer.status == 101 {
                break;
            }
            answer.informational.push(answer.status);
        }
        if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            loop {
                let size = self.line().await?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)?;
                if size == 0 {
                    break;
                }
                let start = answer.body.len();
                answer.body.resize(start + size, 0);
                self.stream.read_exact(&mut answer.body[start..]).await?;
                self.line().await?;
            }
            answer.trailers = self.fields().await?;
        } else if let Some(length) = answer.header("content-length") {
            answer.body.resize(length.parse()?, 0);
            self.stream.read_exact(&mut answer.body).await.context("the body is cut short")?;
        } else {
            self.stream.read_to_end(&mut answer.body).await?;
        }
        Ok(answer)
    }

    /// Waits for the other side to close; an error when it sends something instead.
    pub async fn closed(&mut self) -> Result<()> {
        let mut byte = [0];
        match self.stream.read(&mut byte).await {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => bail!("a byte instead of the end: {byte:?}"),
        }
    }

    /// Reads bytes as they come; empty at the end.
    pub async fn bytes(&mut self) -> Result<Vec<u8>> {
        let bytes = self.stream.fill_buf().await?.to_vec();
        self.stream.consume(bytes.len());
        Ok(bytes)
    }

    async fn fields(&mut self) -> Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').with_context(|| format!("no field: {line:?}"))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        let Some(text) = line.strip_suffix(b"\r\n") else { bail!("the connection ended") };
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

/// One HTTP/2 connection with prior knowledge; calls may be made side by side through clones.
#[derive(Debug, Clone)]
pub struct Http2 {
    send: h2::client::SendRequest<Bytes>,
}

impl Http2 {
    /// Opens it; the connection lives in a task until the last clone is gone.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        let (send, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self { send })
    }

    /// Sends a call and reads its answer, with trailers.
    pub async fn call(&self, call: &Call) -> Result<Answer> {
        let mut send = self.send.clone().ready().await?;
        let uri = format!("http://{}{}", call.authority, call.path);
        let mut request =
            http::Request::builder().method(call.method.as_str()).uri(uri).version(http::Version::HTTP_2);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let ends = call.body.is_empty() && call.trailers.is_empty();
        let (answer, mut stream) = send.send_request(request.body(())?, ends)?;
        if !ends {
            stream.send_data(call.body.clone(), call.trailers.is_empty())?;
            if !call.trailers.is_empty() {
                let mut trailers = http::HeaderMap::new();
                for (name, value) in &call.trailers {
                    trailers.append(http::HeaderName::try_from(name)?, value.parse()?);
                }
                stream.send_trailers(trailers)?;
            }
        }
        let (parts, mut stream) = answer.await?.into_parts();
        let mut body = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            let _ = stream.flow_control().release_capacity(data.len());
            body.extend_from_slice(&data);
        }
        let trailers = stream.trailers().await?.unwrap_or_default();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: fields(&parts.headers),
            body,
            trailers: fields(&trailers),
            informational: Vec::new(),
        })
    }
}

fn fields(map: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
