//! Connections that the workers accepted and hand over because they are for a page.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use axum::serve::Listener;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::accept::captured::Visitor;
use crate::ports::INBOUND_PORT;

/// Stands where a page's own listener would.
pub(super) struct Visitors(pub mpsc::Receiver<Visitor>);

impl Listener for Visitors {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            // The workers have gone: so has the process, soon.
            let Some(Visitor { stream, peer }) = self.0.recv().await else { std::future::pending().await };
            match TcpStream::from_std(stream) {
                Ok(stream) => return (stream, peer),
                Err(error) => tracing::warn!(%error, "taking over a connection"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::UNSPECIFIED, INBOUND_PORT).into())
    }
}
