//! Who asks for our pages: few at a time, and none for long.
//!
//! The pages are open to all who reach the pod, and a page takes a moment. Who connects and says nothing, or does
//! not read, must not take up files that calls need.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Connections to one page; one more is closed at once. Kubelet, a scraper and a person have one each.
const MOST: usize = 64;

/// How long a connection may stay, whatever it does: longer than scrapers wait for a page.
const STAY: Duration = Duration::from_secs(60);

/// A listener that takes in few.
pub(super) struct Few<L> {
    listener: L,
    /// Counts the connections.
    open: Arc<()>,
}

impl<L> Few<L> {
    pub(super) fn of(listener: L) -> Self {
        Self { listener, open: Arc::default() }
    }
}

impl<L: Listener<Io = TcpStream, Addr = SocketAddr>> Listener for Few<L> {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        loop {
            let (stream, peer) = self.listener.accept().await;
            if Arc::strong_count(&self.open) <= MOST {
                let over = Box::pin(tokio::time::sleep(STAY));
                return (Visit { stream, over, _open: Arc::clone(&self.open) }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

impl<L: Listener<Io = TcpStream, Addr = SocketAddr>> Connected<IncomingStream<'_, Few<L>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Few<L>>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// A connection, until its time is over.
pub(super) struct Visit {
    stream: TcpStream,
    over: Pin<Box<Sleep>>,
    _open: Arc<()>,
}

impl Visit {
    fn or_over<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.or_over(polled, context)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.or_over(polled, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.or_over(polled, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test(start_paused = true)]
    async fn one_too_many_is_closed_and_nobody_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Listener::local_addr(&listener).unwrap();
        let mut few = Few::of(listener);
        let mut visits = Vec::new();
        for _ in 0..MOST {
            let caller = TcpStream::connect(address).await.unwrap();
            visits.push((few.accept().await.0, caller));
        }
        let mut surplus = TcpStream::connect(address).await.unwrap();
        let mut byte = [0];
        tokio::select! {
            biased;
            read = surplus.read(&mut byte) => assert_eq!(read.unwrap_or(0), 0),
            _ = few.accept() => panic!("one too many was taken in"),
        }
        let (mut visit, _caller) = visits.pop().unwrap();
        let over = visit.read(&mut [0]).await.unwrap_err();
        assert_eq!(over.kind(), io::ErrorKind::TimedOut);
        drop(visit);
        let _caller = TcpStream::connect(address).await.unwrap();
        assert!(few.accept().map(|_| true).await);
    }
}
