//! Connections to where no Service is known: carried to the address that the application dialled, as if we were
//! not there.
//!
//! Nothing is detected, so a server may speak first; each direction ends by itself; a reset is passed on. Only
//! one thing is different: the application's `connect` has succeeded before ours. When ours is refused, the
//! application's connection is reset, and when nobody answers, the kernel decides how long that takes.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::metrics::{Direction, Metrics};
use crate::opaque::{self, Side};

/// Stands for the Service in the metrics of bytes.
pub const SERVICE: &str = "passthrough";

/// Carries bytes between the application and `to` until both have ended.
pub async fn carry(caller: TcpStream, to: SocketAddr, metrics: &Metrics) {
    metrics.connection_is(Direction::Outbound, SERVICE);
    let upstream = match TcpStream::connect(to).await {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::debug!(%to, %error, "no connection to where the application wanted to go");
            return opaque::reset(&caller);
        }
    };
    let _ = upstream.set_nodelay(true); // Fails only on a socket that is gone already.
    let counters = metrics.opaque_bytes(Direction::Outbound, &SERVICE.into());
    let side = |stream| Side { stream, first: Bytes::new() };
    opaque::carry(side(caller), side(upstream), &counters).await;
}
