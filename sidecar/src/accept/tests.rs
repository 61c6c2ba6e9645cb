//! The whole way of a call over real sockets, with a configuration made by hand.

mod world;

mod captured;
mod http1;
mod http2;
mod inbound;
mod limits;
mod opaque;
mod retries;
