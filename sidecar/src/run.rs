//! All threads, tasks and channels of the proxy in one picture.
//!
//! ```text
//! main thread: admin, metrics, ready; the xDS client; the clock that closes idle connections; signals
//!    |  config (ArcSwap)  |  drain (watch)  |  metrics (atomics)
//!    v                    v                 v
//! worker 0 .. N-1: one current-thread runtime each, with listeners of its own for every --upstream and
//!                  --inbound, and for captured traffic (SO_REUSEPORT); a connection stays with the worker
//!                  that accepted it, but for visitors of /ready and /metrics, who go to the main thread
//! access-log: writes lines (only if switched on)
//! ```
//!
//! The workers wait for nobody: they read what the main thread publishes. Connections to endpoints belong to
//! nobody in particular; a worker prefers those that it opened.

mod capture;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::accept::captured::{self, Captured};
use crate::accept::{self, Purpose};
use crate::access_log::AccessLog;
use crate::admin::{self, Admin};
use crate::cli::{AccessLogTo, Options};
use crate::config::{Destination, ProxyConfig, Retired};
use crate::drain::{Drain, Phase};
use crate::files;
use crate::heartbeat;
use crate::inbound::Endpoint;
use crate::metrics::{Direction, Metrics};
use crate::outbound::Upstream;
use crate::proxy::Proxy;
use crate::run::capture::Doors;
use crate::spawn;
use crate::xds::client::{self, Client, Handle};

/// How often idle connections are looked at. Those to applications are kept for a second.
const SWEEP: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT, and then until what is in flight has ended.
pub fn run(options: &Options) -> anyhow::Result<()> {
    spawn::panics_end_the_process();
    let access_log = open_access_log(options.access_log.as_ref())?;
    let most_callers = files::for_callers();
    let bound = Bound::all(options)?;

    let metrics = Arc::new(Metrics::default());
    let config: Arc<ArcSwap<ProxyConfig>> = Arc::default();
    let drain = Drain::default();
    let hops = Arc::default();
    let xds = client::Options { operator: options.operator.clone(), pod: options.pod.clone() };
    let (client, xds, retired) = Client::new(xds, Arc::clone(&config));
    let Bound { admin, metrics: metrics_page, ready, upstreams, inbounds, doors } = bound;

    let mut listeners = Vec::new();
    let mut wanted = Vec::new();
    for (upstream, bound) in options.upstreams.iter().zip(upstreams) {
        wanted.push((format!("upstream {upstream}"), Arc::clone(&upstream.service)));
        let purpose = Purpose::Outbound(Arc::new(Upstream::new(Arc::clone(&upstream.service), &metrics)));
        listeners.push((Role::For(purpose), bound));
    }
    let mut endpoints = Vec::new();
    for (inbound, bound) in options.inbounds.iter().zip(inbounds) {
        let listen = address(&bound)?;
        wanted.push((format!("inbound {listen}"), Arc::from(format!("inbound/{listen}"))));
        let endpoint = Endpoint::new(listen.to_string().into(), listen, inbound.application, &metrics);
        let endpoint = Arc::new(endpoint);
        endpoints.push(Arc::clone(&endpoint));
        listeners.push((Role::For(Purpose::Inbound(endpoint)), bound));
    }
    for (_, name) in &wanted {
        xds.subscribe(name);
    }
    let parts = capture::parts(options, doors.as_ref(), (&xds, &config), &metrics);
    let (captured, pod) = parts.map(|parts| (parts.captured, parts.pod)).unzip();
    if let (Some(captured), Some(doors)) = (&captured, doors) {
        for (direction, bound) in doors.bound {
            listeners.push((Role::Captured(direction, Arc::clone(captured)), bound));
        }
    }
    let flags = options.capture.as_ref();
    let probes = flags.map(|capture| Arc::clone(&capture.probes)).unwrap_or_default();
    let pod_ips: &'static [IpAddr] = flags.map(|capture| capture.pod_ips.clone()).unwrap_or_default().leak();

    let mut by_worker: Vec<Vec<(Role, StdListener)>> = (0..options.workers).map(|_| Vec::new()).collect();
    for (role, bound) in listeners {
        for (worker, listener) in by_worker.iter_mut().zip(bound) {
            worker.push((role.clone(), listener));
        }
    }
    for (number, listeners) in by_worker.into_iter().enumerate() {
        let proxy = Proxy::new(number, Arc::clone(&config), Arc::clone(&metrics), drain.clone());
        let proxy = Arc::new(Proxy {
            access_log: access_log.clone(),
            hops: Arc::clone(&hops),
            probes: Arc::clone(&probes),
            most_callers,
            pod: pod_ips,
            ..proxy
        });
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || work(proxy, listeners))
            .context("starting a worker thread")?;
    }

    let admin_page =
        Admin::new(wanted, Arc::clone(&config), xds.clone(), &metrics, drain.clone(), pod.as_ref());
    runtime()?.block_on(async move {
        if let Some(pod) = &pod {
            capture::watch(&pod.capture, &xds, &pod.first);
        }
        let pages = admin::Pages { admin, metrics: metrics_page, ready, pod };
        pages.serve(&Arc::new(admin_page))?;
        let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            () = client.run() => anyhow::bail!("the xDS client ended"),
            () = sweep(&config, &endpoints, captured.as_deref()) => anyhow::bail!("the sweeper ended"),
            () = retire(retired, xds) => anyhow::bail!("nobody retires endpoints any more"),
            () = end(signals, &drain, options.shutdown_timeout) => {}
        }
        if let Some(log) = access_log {
            log.flush(Duration::from_secs(1));
        }
        Ok(())
    })
}

/// What a listener does with its connections.
#[derive(Clone)]
enum Role {
    /// All are for the same.
    For(Purpose),
    /// Each was meant for something.
    Captured(Direction, Arc<Captured>),
}

/// Everything that is bound, before anything is served.
struct Bound {
    admin: StdListener,
    metrics: Vec<StdListener>,
    ready: Vec<StdListener>,
    /// For captured traffic.
    doors: Option<Doors>,
    /// One a worker for each `--upstream`, in their order.
    upstreams: Vec<Vec<StdListener>>,
    /// The same for each `--inbound`.
    inbounds: Vec<Vec<StdListener>>,
}

impl Bound {
    fn all(options: &Options) -> anyhow::Result<Self> {
        let bind = |flag: &str, address: SocketAddr, workers: usize| {
            accept::bind(address, workers).with_context(|| {
                format!("{flag}: cannot listen at {address}; end what has it, or write another")
            })
        };
        let bind_one = |flag: &str, address: SocketAddr| {
            bind(flag, address, 1)?.pop().with_context(|| format!("{flag}: nothing was bound"))
        };
        let mut lines = Vec::new();
        let mut upstreams = Vec::new();
        for upstream in &options.upstreams {
            let bound = bind("--upstream", upstream.listen, options.workers)?;
            lines.push(format!("listening upstream {} {}", upstream.service, address(&bound)?));
            upstreams.push(bound);
        }
        let mut inbounds = Vec::new();
        for inbound in &options.inbounds {
            let bound = bind("--inbound", inbound.listen, options.workers)?;
            lines.push(format!("listening inbound {} {}", inbound.name, address(&bound)?));
            inbounds.push(bound);
        }
        let admin = bind_one("--admin-listen", options.admin)?;
        let mut metrics = vec![bind_one("--metrics-listen", options.metrics)?];
        let mut ready = vec![bind_one("--ready-listen", options.ready)?];
        let mut doors = None;
        if options.capture.is_some() {
            // Pods have addresses of both families, and are asked at either.
            for (address, page) in [(options.metrics, &mut metrics), (options.ready, &mut ready)] {
                if address.ip() == Ipv4Addr::UNSPECIFIED {
                    let twin = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
                    page.extend(capture::bind_v6(twin, 1)?.into_iter().flatten());
                }
            }
            let bound = Doors::bind(options.workers)?;
            lines.extend(bound.lines()?);
            doors = Some(bound);
        }
        lines.push(format!("listening admin - {}", admin.local_addr()?));
        for (name, page) in [("metrics", &metrics), ("ready", &ready)] {
            for listener in page {
                lines.push(format!("listening {name} - {}", listener.local_addr()?));
            }
        }
        // Scripts read these; who closed the pipe does not want them.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", lines.join("\n"));
        let _ = out.flush();
        Ok(Self { admin, metrics, ready, upstreams, inbounds, doors })
    }
}

fn address(bound: &[StdListener]) -> anyhow::Result<SocketAddr> {
    Ok(bound.first().context("nothing was bound")?.local_addr()?)
}

fn open_access_log(to: Option<&AccessLogTo>) -> anyhow::Result<Option<AccessLog>> {
    Ok(match to {
        None => None,
        Some(AccessLogTo::Stderr) => Some(AccessLog::stderr()?),
        Some(AccessLogTo::File(path)) => {
            let log = AccessLog::file(path);
            Some(log.with_context(|| format!("--access-log: cannot open {}", path.display()))?)
        }
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")
}

/// A worker: its listeners, and the connections that they accept, until the last of all has ended.
#[expect(clippy::needless_pass_by_value, reason = "it is all the thread has")]
fn work(proxy: Arc<Proxy>, listeners: Vec<(Role, StdListener)>) {
    let served = runtime().and_then(|runtime| {
        runtime.block_on(async {
            spawn::service("heartbeat", heartbeat::beat());
            for (role, listener) in listeners {
                let listener = TcpListener::from_std(listener)?;
                let proxy = Arc::clone(&proxy);
                match role {
                    Role::For(purpose) => spawn::task(accept::listen(proxy, listener, purpose)),
                    Role::Captured(direction, captured) => {
                        spawn::task(captured::listen(proxy, listener, direction, captured));
                    }
                }
            }
            proxy.drain.reached(Phase::Closing).await;
            proxy.drain.empty().await;
            anyhow::Ok(())
        })
    });
    if let Err(error) = served {
        tracing::error!(%error, worker = proxy.worker, "a worker ended; so does the proxy");
        std::process::exit(spawn::DIED);
    }
}

/// Closes idle connections that are too old, or that the other side has closed.
async fn sweep(config: &ArcSwap<ProxyConfig>, endpoints: &[Arc<Endpoint>], captured: Option<&Captured>) {
    let mut clock = tokio::time::interval(SWEEP);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        for destination in config.load().destinations.values() {
            if let Destination::Known(service) = &**destination {
                for cluster in service.clusters.iter().flatten().chain(&service.opaque) {
                    cluster.live.pool.expire(cluster.settings.pool.idle_timeout);
                }
            }
        }
        for endpoint in endpoints {
            endpoint.expire();
        }
        if let Some(captured) = captured {
            captured.expire();
        }
    }
}

/// Closes the idle connections to endpoints that are none any more. Keeps `_xds`, without which the client
/// would end.
async fn retire(mut retired: UnboundedReceiver<Retired>, _xds: Handle) {
    while let Some(Retired { cluster, addresses }) = retired.recv().await {
        cluster.live.pool.retire(&addresses);
    }
}

/// Waits for a signal, and then for what is in flight. A second signal waits for nothing.
async fn end((mut terminate, mut interrupt): (Signal, Signal), drain: &Drain, limit: Duration) {
    let mut signalled = async || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };
    signalled().await;
    tracing::info!(connections = drain.guests(), "closing");
    drain.advance(Phase::Closing);
    tokio::select! {
        () = drain.empty() => tracing::info!("closed"),
        () = tokio::time::sleep(limit) => {
            tracing::warn!(connections = drain.guests(), ?limit, "not all connections have ended in time");
        }
        () = signalled() => tracing::warn!(connections = drain.guests(), "second signal"),
    }
}
