//! Bytes that are carried without looking: TCP services, and what follows an `Upgrade`.
//!
//! The connection is the call: it is balanced, limited and counted as one. Each direction ends by itself
//! (half-close), and a connection that one side resets is reset on the other, so that nobody takes what was
//! cut off for complete.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prometheus_client::metrics::counter::Counter;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::buffers::{self, Blocked, Piece};
use crate::cluster::{Cluster, Outcome, Picked};
use crate::failure::{Failure, Kind};
use crate::pool::admission::Want;
use crate::pool::{Lease, Slot};
use crate::proxy::{Proxy, now};

/// A connect is tried at so many endpoints: nothing was sent, so it is always safe.
const ATTEMPTS: usize = 3;

/// A connection to an endpoint, for bytes.
#[derive(Debug)]
pub struct Dialled {
    /// It.
    pub stream: TcpStream,
    /// Its place in the pool.
    pub slot: Slot,
    /// Where it leads.
    pub picked: Picked,
}

/// Opens a connection to an endpoint of `cluster`, to another one when that fails.
pub async fn dial(proxy: &Proxy, cluster: &Arc<Cluster>) -> Result<Dialled, Failure> {
    let settings = &cluster.settings.pool;
    let mut tried: Vec<SocketAddr> = Vec::new();
    loop {
        let mut picked = cluster.pick(now(), &tried).ok_or_else(|| {
            Failure::local(Kind::NoEndpoint, format!("{} has no endpoint", cluster.settings.name))
        })?;
        let address = picked.endpoint().address();
        let ask = proxy.asker().ask(address, Want::Fresh);
        let Lease::Slot(slot) = cluster.live.pool.admit(settings, ask).await? else { continue };
        match cluster.live.pool.open_bytes(settings, slot, ask).await {
            Ok((stream, slot)) => {
                picked.record(now(), Outcome::Success);
                return Ok(Dialled { stream, slot, picked });
            }
            Err(failure) => {
                picked.record(now(), Outcome::of(&failure));
                tried.push(address);
                if tried.len() >= ATTEMPTS {
                    return Err(failure);
                }
            }
        }
    }
}

/// One side of a connection that is carried.
#[derive(Debug)]
pub struct Side {
    /// It.
    pub stream: TcpStream,
    /// What was read from it already.
    pub first: Bytes,
}

/// Carries bytes both ways until both directions have ended, or one broke.
pub async fn carry(mut caller: Side, mut upstream: Side, counters: &(Counter, Counter)) {
    let (caller_reads, caller_writes) = caller.stream.split();
    let (upstream_reads, upstream_writes) = upstream.stream.split();
    let up = copy(caller_reads, upstream_writes, std::mem::take(&mut caller.first), &counters.0);
    let down = copy(upstream_reads, caller_writes, std::mem::take(&mut upstream.first), &counters.1);
    if let Err(error) = futures::future::try_join(up, down).await {
        tracing::debug!(%error, "a carried connection broke");
        reset(&caller.stream);
        reset(&upstream.stream);
    }
}

/// The next close of this connection is seen as a reset.
pub fn reset(stream: &TcpStream) {
    // Fails only on a socket that is gone, and then the other side knows.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// One direction. Holds no buffer while there is nothing to read.
async fn copy(from: ReadHalf<'_>, mut to: WriteHalf<'_>, first: Bytes, counter: &Counter) -> io::Result<()> {
    if !first.is_empty() {
        to.write_all(&first).await?;
        counter.inc_by(first.len() as u64);
    }
    drop(first);
    let mut piece = Piece::default();
    loop {
        from.readable().await?;
        let mut buffer = BytesMut::new();
        loop {
            buffers::make_room(&mut buffer, u64::MAX, piece);
            let offered = buffer.capacity();
            let read = match from.try_read_buf(&mut buffer) {
                Ok(0) => return to.shutdown().await,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            piece.read(read, offered);
            let written = match to.try_write(&buffer) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                written => written.unwrap_or(0),
            };
            if written < read {
                piece.shrink();
                let rest = buffer.get(written..).unwrap_or_default();
                let _blocked = Blocked::new(buffer.capacity());
                to.write_all(rest).await?;
            }
            counter.inc_by(read as u64);
            buffer.clear();
            if read < offered {
                break; // Most likely that was all: the buffer is not held while we wait.
            }
        }
        buffers::give(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    async fn carried() -> (TcpStream, TcpStream, (Counter, Counter)) {
        let (caller, ours) = pair().await;
        let (theirs, upstream) = pair().await;
        let counters = (Counter::default(), Counter::default());
        let counted = counters.clone();
        crate::spawn::task(async move {
            let ours = Side { stream: ours, first: Bytes::from_static(b"first ") };
            let theirs = Side { stream: theirs, first: Bytes::new() };
            carry(ours, theirs, &counted).await;
        });
        (caller, upstream, counters)
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (mut caller, mut upstream, counters) = carried().await;
        caller.write_all(b"question").await.unwrap();
        caller.shutdown().await.unwrap();
        let mut heard = String::new();
        upstream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "first question");
        let long = vec![b'x'; 300_007];
        upstream.write_all(&long).await.unwrap();
        drop(upstream);
        let mut answer = Vec::new();
        caller.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, long);
        assert_eq!((counters.0.get(), counters.1.get()), (14, long.len() as u64));
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_as_one() {
        let (mut caller, mut upstream, _) = carried().await;
        let mut first = [0; 6];
        upstream.read_exact(&mut first).await.unwrap();
        reset(&upstream);
        drop(upstream);
        let error = caller.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
