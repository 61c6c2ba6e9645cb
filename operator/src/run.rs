//! The picture: every task and every channel of the operator.
//!
//! ```text
//! directory | kubernetes ──events──> publisher ──> hub <── xDS server (streams) <── certificates, identities
//!                                        │          │            └─ reports of other replicas ─> desk
//!                                   published    moves                                            │
//!                                        └────> status keeper <───────────────────────────────────┘
//!                                                 │      └─> board ──> status writer (Kubernetes)
//!                                                 │            └─────> admin
//!                                                 └─ said ──> reporter ──> the holder of the lease
//! certificates (Secret | folder) ──bundle──> trust (ConfigMaps, webhook) ──carried──> certificates
//! publisher ──pods──> missed pods ──> events (Kubernetes);  webhook: stands alone
//! lease ──role──> keeper, writer, reporter, certificates, trust, missed pods
//! shutdown ──> all of them;  readiness ──> /readyz
//! ```
//!
//! A task that ends before the shutdown ends the process: half an operator is worse than none.

use std::future::Future;
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::admin::{self, Readiness, Sight};
use crate::certificates::folder::Folder;
use crate::certificates::keeper::SecretKeeper;
use crate::certificates::peers::Peers;
use crate::certificates::rotation::Terms;
use crate::certificates::{self, distribute};
use crate::cli::{Certificates, Injection, LogFormat, Settings, Source};
use crate::identity::Identities;
use crate::identity::review::ApiServer;
use crate::inject;
use crate::leader::{self, Candidate, Role};
use crate::metrics::Metrics;
use crate::missed::{self, Surroundings};
use crate::publish::Publisher;
use crate::publish::presence::Presence;
use crate::status::desk::Desk;
use crate::status::exchange::{self, server::Gate, server::Reports};
use crate::status::said::Said;
use crate::status::{self, Board, Keeper};
use crate::watch::directory::Directory;
use crate::watch::{Event, Fault, kubernetes};
use crate::webhook;
use crate::xds::hub::Hub;
use crate::xds::server::{self, Guard};

/// Batches of changes that wait for the publisher; a source that is faster waits itself.
const EVENTS: usize = 256;
/// The Lease of a replica that died runs out in this time, and the next holder writes the roots at once.
const TRUST: Duration = Duration::from_secs(30);

/// Connections have so long to end when the process does.
const FAREWELL: Duration = Duration::from_secs(5);

/// Runs the operator until `stop` is over; `say` hears the address of each port that is bound.
pub async fn run(
    settings: Settings,
    say: impl Fn(&'static str, SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let mut stop = pin!(stop);
    let metrics = Arc::new(Metrics::default());
    let mut tasks = Tasks::default();
    let (end, ending) = watch::channel(false);
    let (say_ready, readiness) = watch::channel(Readiness::Reading(Vec::new()));
    let (show, sight) = watch::channel(None);
    let (tell, mut events) = mpsc::channel(EVENTS);

    // What can fail at once fails before a port is bound.
    let kubernetes = source(&settings.source, tell, metrics.clone(), &mut tasks).await?;
    // A directory has no Lease: its operator is alone.
    let alone = if kubernetes.is_some() { Role::Follower(None) } else { Role::Holder };
    let (take_role, role) = watch::channel(alone);
    let secured = match (&settings.certificates, &kubernetes) {
        (Some(certificates), Some(client)) => {
            let (namespace, role) = (&settings.namespace, role.clone());
            Some(secure(certificates, client, namespace, role, &metrics, &mut tasks).await?)
        }
        _ => None,
    };

    let (admin, address) = bind("admin", settings.admin).await?;
    say("admin", address);
    tasks.spawn("admin", admin::serve_admin(admin, sight, ending.clone()));
    let (page, address) = bind("metrics", settings.metrics).await?;
    say("metrics", address);
    tasks.spawn("metrics", admin::serve_metrics(page, metrics.clone(), readiness, ending.clone()));

    let mut trusted = None;
    // Before the first list is complete: whoever is asked about a pod needs no object.
    if let (Some(injection), Some(secured)) = (&settings.injection, &secured) {
        let (webhook, address) = bind("webhook", injection.listen).await?;
        say("webhook", address);
        let tls = secured.certificates.serving.config(&["http/1.1"]);
        let settings = injected(injection, &settings.namespace);
        trusted = Some(secured.trusted.clone());
        tasks.spawn("webhook", webhook::serve(webhook, tls, settings, metrics.clone(), ending.clone()));
    }

    let presence = Arc::new(Presence::new(&settings.namespace));
    let mut publisher = Publisher::new(metrics.clone(), presence.clone());
    let pods = settings.injection.is_some().then(|| {
        let (tell, pods) = mpsc::unbounded_channel();
        publisher.tell(tell);
        pods
    });
    let reading = |faults: &[Fault]| drop(say_ready.send_replace(Readiness::Reading(faults.to_vec())));
    let first = tokio::select! {
        first = publisher.first(&mut events, reading) => first?,
        died = tasks.first_to_end() => return Err(died),
        () = &mut stop => return Ok(()),
    };

    let hub = Arc::new(Hub::new(first.snapshot.clone()));
    let board = Arc::new(Board::default());
    let desk = Arc::new(Desk::new(&settings.replica, presence, hub.clone()));
    let (publish, published) = watch::channel(first);
    let (change, changed) = watch::channel(());
    let (say_said, said) = watch::channel(Said::default());
    let keeper = Keeper::new(hub.clone(), board.clone(), desk.clone(), role.clone(), metrics.clone());
    tasks.spawn("status", done(keeper.run(published.clone(), change, say_said)));
    let replica = desk.own().clone();
    let sight = Sight {
        hub: hub.clone(),
        published: published.clone(),
        board: board.clone(),
        replica: replica.clone(),
        role: role.clone(),
    };
    show.send_replace(Some(sight));

    // Only now: a client that came before the first snapshot would hear that everything is gone.
    let (xds, address) = bind("xds", settings.xds).await?;
    let (guard, peers) = secured.map(|secured| secured.for_xds(&settings)).unzip();
    let gate = guard.as_ref().map(|guard: &Guard| Gate::new(guard.identities.clone(), &settings.namespace));
    let reports = Routes::new(Reports::new(desk.clone(), role.clone(), gate, ending.clone()));
    tasks.spawn("xds", server::serve(xds, hub.clone(), metrics.clone(), reports, guard, ending.clone()));
    // Only now: who holds the Lease has to be reached.
    if let Some(client) = kubernetes {
        if let (Some(injection), Some(pods)) = (&settings.injection, pods) {
            let surroundings = Surroundings {
                image: injection.image.clone(),
                namespace: settings.namespace.clone(),
                replica: settings.replica.clone(),
                leading: Box::new({
                    let role = role.clone();
                    move || role.borrow().holds()
                }),
                connected: Box::new({
                    let desk = desk.clone();
                    move || desk.connected()
                }),
            };
            let missed = missed::run(client.clone(), pods, surroundings, metrics.clone());
            tasks.spawn("missed pods", done(missed));
        }
        let candidate = Candidate {
            namespace: settings.namespace,
            replica: settings.replica,
            address: reached(settings.advertise, address),
        };
        tasks.spawn("reporter", done(exchange::client::run(replica, role.clone(), said, peers)));
        let writer = status::write::run(client.clone(), board, published, role, changed, metrics);
        tasks.spawn("status writer", done(writer));
        tasks.spawn("lease", done(leader::run(client, candidate, take_role, ending)));
    } else {
        tasks.spawn("status log", done(status::aloud::run(board, changed)));
    }
    tasks.spawn("publisher", done(publisher.run(events, hub, publish)));
    say("xds", address);
    let ready = async {
        if let Some(trusted) = trusted {
            say_ready.send_replace(Readiness::Untrusted);
            verifiable(trusted).await;
        }
        say_ready.send_replace(Readiness::Ready);
        std::future::pending::<()>().await;
    };

    tokio::select! {
        died = tasks.first_to_end() => return Err(died),
        () = &mut stop => {}
        () = ready => {}
    }
    tracing::info!("stopping");
    say_ready.send_replace(Readiness::Stopping);
    end.send_replace(true);
    tasks.end_within(FAREWELL).await;
    Ok(())
}

/// Waits until the API server can verify our webhook, for its calls fail before; but not for ever, for sidecars
/// need us in any case.
async fn verifiable(mut trusted: watch::Receiver<bool>) {
    let carried = tokio::time::timeout(TRUST, trusted.wait_for(|trusted| *trusted)).await;
    if carried.is_err() {
        tracing::warn!(
            waited = ?TRUST,
            "the webhook configuration does not carry our roots: new pods of labelled namespaces are refused"
        );
    }
}

/// Starts to read the source; gives the client where there is an API server.
async fn source(
    source: &Source,
    events: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
    tasks: &mut Tasks,
) -> Result<Option<kube::Client>> {
    match source {
        Source::Directory(path) => {
            let directory = Directory::open(path)?;
            tracing::info!(path = %path.display(), "reading objects from a directory");
            tasks.spawn("directory", directory.run(events));
            Ok(None)
        }
        Source::Kubernetes => {
            let client = kubernetes::client().await?;
            tracing::info!("reading objects from the Kubernetes API");
            tasks.spawn("kubernetes", done(kubernetes::run(client.clone(), events, metrics)));
            Ok(Some(client))
        }
    }
}

/// What TLS ports, and calls between replicas, need.
struct Secured {
    certificates: certificates::Certificates,
    identities: Arc<Identities>,
    trusted: watch::Receiver<bool>,
}

impl Secured {
    /// What stands before the xDS port, and how other replicas are called at theirs.
    fn for_xds(self, settings: &Settings) -> (Guard, Peers) {
        let guard = Guard { tls: self.certificates.serving.config(&["h2"]), identities: self.identities };
        let peers = Peers::new(self.certificates.bundle, &settings.namespace, settings.token.clone());
        (guard, peers)
    }
}

/// What the webhook injects.
fn injected(injection: &Injection, namespace: &str) -> inject::Settings {
    inject::Settings {
        image: injection.image.clone(),
        pull_policy: injection.pull_policy.map(|policy| policy.as_str().to_owned()),
        operator: inject::operator_address(namespace),
        proxy_uid: injection.uid,
    }
}

/// Opens the certificates and keeps them, and whoever must trust them, up to date.
async fn secure(
    certificates: &Certificates,
    client: &kube::Client,
    namespace: &str,
    role: watch::Receiver<Role>,
    metrics: &Arc<Metrics>,
    tasks: &mut Tasks,
) -> Result<Secured> {
    let (carry, carried) = watch::channel(None);
    let (trust, trusted) = watch::channel(false);
    let certificates = match certificates {
        Certificates::Own { trust_delay } => {
            let terms = Terms::new(*trust_delay);
            let (keeper, certificates) =
                SecretKeeper::open(client.clone(), namespace, terms, metrics.clone()).await?;
            tasks.spawn("certificates", done(keeper.run(role.clone(), carried)));
            certificates
        }
        Certificates::Folder(path) => {
            let (folder, certificates) = Folder::open(path, metrics.clone()).await?;
            tasks.spawn("certificates", done(folder.run()));
            certificates
        }
    };
    let bundle = certificates.bundle.clone();
    let distributed = distribute::run(client.clone(), bundle, role, carry, trust, metrics.clone());
    tasks.spawn("trust", done(distributed));
    let reviewer = Box::new(ApiServer::new(client.clone()));
    let identities = Arc::new(Identities::new(reviewer, metrics.clone()));
    Ok(Secured { certificates, identities, trusted })
}

/// Binds a port; `[::]` for IPv4 as well, and for IPv4 alone on a machine that has no IPv6.
async fn bind(name: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    let listener = bound.with_context(|| {
        format!(
            "--{name}-listen {address} cannot be bound; write another address, or port 0 for any free one"
        )
    })?;
    let bound = listener.local_addr().context("a bound port has an address")?;
    Ok((listener, bound))
}

/// Where other replicas reach what was bound there.
fn reached(advertise: SocketAddr, bound: SocketAddr) -> SocketAddr {
    SocketAddr::new(advertise.ip(), if advertise.port() == 0 { bound.port() } else { advertise.port() })
}

/// The line on standard output that scripts wait for.
fn print(name: &'static str, bound: SocketAddr) {
    let mut out = std::io::stdout().lock();
    // A closed standard output is no reason not to serve.
    let _ = writeln!(out, "listening {name} - {bound}").and_then(|()| out.flush());
}

/// Starts logging to standard error.
pub fn log(settings: &Settings) {
    let filter = tracing_subscriber::EnvFilter::new(&settings.log);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

async fn done(task: impl Future<Output = ()>) -> Result<()> {
    task.await;
    Ok(())
}

/// The tasks, each with its name. This is the one spawner.
#[derive(Default)]
struct Tasks {
    names: Vec<&'static str>,
    set: JoinSet<(&'static str, Result<()>)>,
}

impl Tasks {
    fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<anyhow::Error> + Send + 'static,
    {
        self.names.push(name);
        self.set.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// Waits for a task that ends though it should not.
    async fn first_to_end(&mut self) -> anyhow::Error {
        match self.set.join_next().await {
            Some(Ok((name, Ok(())))) => anyhow::anyhow!("the task {name} ended"),
            Some(Ok((name, Err(error)))) => error.context(format!("the task {name} failed")),
            Some(Err(error)) => anyhow::Error::new(error).context("a task panicked"),
            None => anyhow::anyhow!("nothing runs"),
        }
    }

    /// Waits for the servers to say goodbye, and for the Lease to be released; the rest is dropped.
    async fn end_within(&mut self, time: Duration) {
        let servers = async {
            const FAREWELLS: [&str; 5] = ["admin", "metrics", "webhook", "xds", "lease"];
            let mut left = self.names.iter().filter(|name| FAREWELLS.contains(name)).count();
            while left > 0 {
                match self.set.join_next().await {
                    Some(Ok((name, _))) if FAREWELLS.contains(&name) => left -= 1,
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if tokio::time::timeout(time, servers).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }
}

/// Is over at SIGTERM or SIGINT. Listens from the call on: a signal during the start counts.
fn signals() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Runs what the command line says; the exit code says how it went.
#[must_use]
pub fn main(cli: crate::cli::Cli) -> std::process::ExitCode {
    match start(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Also before logging was started, and readable without it.
            let _ = writeln!(std::io::stderr(), "fairlead-operator: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn start(cli: crate::cli::Cli) -> Result<()> {
    let settings = cli.interpret()?;
    log(&settings);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let result = runtime.block_on(async { run(settings, print, signals()?).await });
    // Reading a large file does not delay the end.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests;
