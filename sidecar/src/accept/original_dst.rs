//! Where a redirected connection was meant to go.
//!
//! nftables' `redirect` rewrites the destination; the kernel's connection tracking remembers the original one and
//! tells it by `SO_ORIGINAL_DST`. This is the only place that asks, so that tests need neither root nor rules.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The original destination; None when the connection was not redirected but dialled here by its caller.
pub fn of(stream: &TcpStream) -> Option<SocketAddr> {
    let here = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    // An error means that the kernel tracks no such connection: nobody redirected it.
    let original = match here {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    original.ok()?.as_socket().filter(|original| *original != here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_that_nobody_redirected_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert_eq!(of(&accepted), None);
    }
}
