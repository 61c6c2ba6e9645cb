//! `fairlead-cost`: carries requests through the data path of `fairlead-proxy`, on one thread, for callgrind to count.
//!
//! ```text
//! operator --xDS, once--> configuration
//!
//! callers ==loopback==> accept::listen -> outbound | inbound ==loopback==> backend
//!    '------------------------- peers::Peers::turn ----------------------------'
//! ```
//!
//! It is what a worker runs, with the configuration that an operator serves, and only what a worker runs: no sweeper,
//! no page, no xDS client. The peers are moved by one function on the same thread, between two polls of the runtime, so
//! that every run does the same in the same order; what that function does is not counted (dev/cost).
//!
//! The sockets are real ones, of loopback. The proxy reads ahead, peeks, splices and asks the kernel about its sockets,
//! so a connection in memory would need another path through it. Callgrind counts the instructions of the program alone,
//! and loopback delivers within the call that writes: for the count the kernel is a memory.

mod http2;
mod peers;

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use clap::{Parser, ValueEnum};
use fairlead_proxy::accept::{self, Purpose};
use fairlead_proxy::cli::operator::Operator;
use fairlead_proxy::config::ProxyConfig;
use fairlead_proxy::drain::Drain;
use fairlead_proxy::heartbeat;
use fairlead_proxy::inbound::Endpoint;
use fairlead_proxy::metrics::Metrics;
use fairlead_proxy::outbound::Upstream;
use fairlead_proxy::proxy::Proxy;
use fairlead_proxy::spawn;
use fairlead_proxy::xds::client::{self, Client};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::peers::{Peers, Speak};

/// The same endpoints are picked in every run.
const SEED: u64 = 7;

/// How many requests of what kind.
#[derive(Debug, Parser)]
struct Flags {
    /// Where the configuration comes from
    #[arg(long)]
    operator: http::Uri,
    /// Which side of the sidecar
    #[arg(long)]
    side: Side,
    /// The Service port that is called
    #[arg(long, default_value = "bench/items:80")]
    service: Arc<str>,
    /// Where the proxy listens
    #[arg(long)]
    listen: SocketAddr,
    /// Where the endpoint, or the application, listens
    #[arg(long)]
    backend: SocketAddr,
    /// What callers and backend speak
    #[arg(long)]
    speak: Speak,
    /// Callers
    #[arg(long)]
    connections: usize,
    /// Requests that each caller has in flight
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// How often each caller sends so many
    #[arg(long)]
    rounds: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Side {
    Outbound,
    Inbound,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let config = configuration(&flags)?;
    fastrand::seed(SEED);
    runtime()?.block_on(carry(&flags, config))
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")
}

/// What the operator serves for this side; its client ends with that.
fn configuration(flags: &Flags) -> anyhow::Result<Arc<ArcSwap<ProxyConfig>>> {
    let name = match flags.side {
        Side::Outbound => flags.service.to_string(),
        Side::Inbound => format!("inbound/{}", flags.listen),
    };
    let config: Arc<ArcSwap<ProxyConfig>> = Arc::default();
    let operator = Operator { uri: flags.operator.clone(), ca: None, token: None };
    let options = client::Options { operator, pod: "bench/cost".to_owned() };
    let (client, handle, _retired) = Client::new(options, Arc::clone(&config));
    handle.subscribe(&name);
    let mut state = handle.watch();
    runtime()?.block_on(async {
        tokio::select! {
            () = client.run() => anyhow::bail!("the xDS client ended"),
            state = state.wait_for(|state| state.in_force(&name)) => state.map(drop).context("the xDS client ended"),
        }
    })?;
    Ok(config)
}

/// Every request there and back.
async fn carry(flags: &Flags, config: Arc<ArcSwap<ProxyConfig>>) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let proxy = Arc::new(Proxy::new(0, config, Arc::clone(&metrics), Drain::default()));
    let purpose = match flags.side {
        Side::Outbound => Purpose::Outbound(Arc::new(Upstream::new(Arc::clone(&flags.service), &metrics))),
        Side::Inbound => {
            let name = flags.listen.to_string().into();
            Purpose::Inbound(Arc::new(Endpoint::new(name, flags.listen, flags.backend, &metrics)))
        }
    };
    spawn::service("heartbeat", heartbeat::beat());
    let listener = accept::bind(flags.listen, 1)?.pop().context("nothing was bound")?;
    spawn::task(accept::listen(proxy, TcpListener::from_std(listener)?, purpose));

    let backend = StdListener::bind(flags.backend)?;
    let mut peers = Peers::new(flags.speak, flags.listen, backend, flags.connections, flags.streams)?;
    let mut rounds = 0;
    while rounds < flags.rounds {
        rounds += usize::from(peers.turn()?);
        tokio::task::yield_now().await; // The scheduler asks for what has come in meanwhile.
    }
    Ok(())
}
