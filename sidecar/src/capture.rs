//! What must hold before a pod's traffic may be trusted to us: the rules that redirect it, and a first
//! configuration.
//!
//! ```text
//! outbound   we dial 127.0.0.1:15002 and [::1]:15002, where nothing listens; the rules send us to 15001,
//!            where our own connection must arrive
//! inbound    whoever asks for /ready must have come through 15006
//! config     the operator has answered what it was asked first, or START_WITHOUT is over
//! ```
//!
//! What once held is not looked at again: a pod that is ready does not become unready because the operator is
//! gone.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use crate::config::Known;
use crate::ports::{CHECK_PORT, OUTBOUND_PORT};
use crate::xds::client::{Handle, State};

/// A pod starts without a configuration after so long: it may be restarted while the operator is away.
pub const START_WITHOUT: Duration = Duration::from_secs(10);

/// Loopback answers at once, if at all.
const ARRIVAL: Duration = Duration::from_secs(1);

/// Between two checks. The rules are there before we are, so the first one tells.
const AGAIN: Duration = Duration::from_millis(500);

/// What has been found out; shared by the data path, the pages and the checks.
#[derive(Debug, Default)]
pub struct Capture {
    /// Checks of the outbound rules that have not succeeded, and why.
    unverified: Mutex<BTreeMap<SocketAddr, String>>,
    /// Our own connections, by their source, that are to arrive at the outbound listener.
    dialled: Mutex<HashMap<SocketAddr, oneshot::Sender<()>>>,
    inbound: AtomicBool,
    configured: AtomicBool,
    without_config: AtomicBool,
}

impl Capture {
    /// Checks at these addresses; see [`checked`].
    pub fn new(checks: &[SocketAddr]) -> Self {
        let unverified = checks.iter().map(|check| (*check, "not checked yet".to_owned())).collect();
        Self { unverified: Mutex::new(unverified), ..Self::default() }
    }

    /// What keeps the pod from being ready, a line each; whether the asker came through 15006 is its own affair.
    pub fn missing(&self, state: &State, first: &[Arc<str>]) -> Vec<String> {
        let unverified = lock(&self.unverified);
        let mut missing: Vec<String> = unverified
            .iter()
            .map(|(check, why)| {
                format!("outbound capture does not hold: {check} did not lead to {OUTBOUND_PORT}: {why}\n")
            })
            .collect();
        if !self.configured.load(Ordering::Relaxed) && !self.without_config.load(Ordering::Relaxed) {
            missing.push(match (state.connected, &state.last_failure) {
                (true, _) => format!("first configuration: awaited: {}\n", awaited(state, first).join(", ")),
                (false, Some(why)) => format!("first configuration: no stream to the operator: {why}\n"),
                (false, None) => "first configuration: no stream to the operator yet\n".to_owned(),
            });
        }
        missing
    }

    /// Whether every check of the outbound rules has succeeded.
    pub fn outbound_verified(&self) -> bool {
        lock(&self.unverified).is_empty()
    }

    /// Whether somebody has come through the inbound listener to ask whether we are ready.
    pub fn inbound_verified(&self) -> bool {
        self.inbound.load(Ordering::Relaxed)
    }

    /// Somebody has.
    pub fn came_through_inbound(&self) {
        self.inbound.store(true, Ordering::Relaxed);
    }

    /// Whether the pod went to work before it had heard from the operator.
    pub fn started_without_config(&self) -> bool {
        self.without_config.load(Ordering::Relaxed)
    }

    /// A connection from `source` has arrived at the outbound listener on its way to a check's address.
    pub fn arrived(&self, source: SocketAddr) {
        if let Some(dialled) = lock(&self.dialled).remove(&source) {
            let _ = dialled.send(()); // The check may have given up.
        }
    }

    /// Waits for the answers to `first`, but not for ever.
    pub async fn first_config(&self, xds: &Handle, first: &[Arc<str>]) {
        let mut state = xds.watch();
        let answered = state.wait_for(|state| state.connected && awaited(state, first).is_empty());
        if tokio::time::timeout(START_WITHOUT, answered).await.is_ok() {
            return self.configured.store(true, Ordering::Relaxed);
        }
        tracing::warn!(waited = ?START_WITHOUT, "no configuration from the operator: calls are passed through");
        self.without_config.store(true, Ordering::Relaxed);
        xds.started_without_config();
    }

    /// Checks the rules until each check has succeeded.
    pub async fn verify(&self) {
        loop {
            let checks: Vec<SocketAddr> = lock(&self.unverified).keys().copied().collect();
            if checks.is_empty() {
                return tracing::info!("outbound traffic is redirected");
            }
            for check in checks {
                let checked = self.check(check).await;
                let mut unverified = lock(&self.unverified);
                match checked {
                    Ok(()) => _ = unverified.remove(&check),
                    Err(why) => _ = unverified.insert(check, why),
                }
            }
            if !self.outbound_verified() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    async fn check(&self, check: SocketAddr) -> Result<(), String> {
        let in_words = |error: io::Error| error.to_string();
        let (socket, nowhere) = match check {
            SocketAddr::V4(_) => (TcpSocket::new_v4(), IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SocketAddr::V6(_) => (TcpSocket::new_v6(), IpAddr::V6(Ipv6Addr::LOCALHOST)),
        };
        let socket = socket.map_err(in_words)?;
        // Bound before it is connected: it may arrive before `connect` returns.
        socket.bind(SocketAddr::new(nowhere, 0)).map_err(in_words)?;
        let source = socket.local_addr().map_err(in_words)?;
        let (arrived, arrival) = oneshot::channel();
        lock(&self.dialled).insert(source, arrived);
        let dial = async {
            let _open = socket.connect(check).await.map_err(in_words)?;
            arrival.await.map_err(|_| "nobody waits".to_owned())
        };
        let ended = tokio::time::timeout(ARRIVAL, dial).await;
        lock(&self.dialled).remove(&source);
        ended.unwrap_or_else(|_| Err(format!("the connection did not arrive within {ARRIVAL:?}")))
    }
}

/// The addresses that the capture check dials.
pub fn checked(ipv6: bool) -> Vec<SocketAddr> {
    let mut all = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), CHECK_PORT)];
    if ipv6 {
        all.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), CHECK_PORT));
    }
    all
}

/// Whether a connection to this address is a capture check.
pub fn is_check(address: SocketAddr) -> bool {
    address.ip().is_loopback() && address.port() == CHECK_PORT
}

/// The names that the operator has said nothing about.
fn awaited(state: &State, first: &[Arc<str>]) -> Vec<String> {
    let unknown = |name: &&Arc<str>| matches!(state.listeners.get(*name), None | Some(Known::Awaited(_)));
    first.iter().filter(unknown).map(ToString::to_string).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;

    /// A check that is answered at `listener` instead of at 15001.
    async fn accept_one(listener: tokio::net::TcpListener, capture: &Capture, tell: bool) {
        let (_stream, source) = listener.accept().await.unwrap();
        if tell {
            capture.arrived(source);
        }
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn holds_when_our_own_connection_arrives() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let capture = Capture::new(&[listener.local_addr().unwrap()]);
        capture.arrived("127.0.0.1:9".parse().unwrap()); // A stranger.
        assert!(!capture.outbound_verified());
        tokio::select! {
            () = capture.verify() => {}
            () = accept_one(listener, &capture, true) => {}
        }
        assert!(capture.outbound_verified());
        assert!(lock(&capture.dialled).is_empty());
    }

    #[tokio::test]
    async fn does_not_hold_when_nobody_listens_or_somebody_else_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let capture = Capture::new(&[address]);
        let said = tokio::select! {
            said = capture.check(address) => said,
            () = accept_one(listener, &capture, false) => Ok(()),
        };
        assert_eq!(said.unwrap_err(), "the connection did not arrive within 1s");
        let said = capture.check(address).await.unwrap_err();
        assert!(said.contains("refused"), "{said}");
        assert!(lock(&capture.dialled).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn starts_without_a_configuration_after_ten_seconds() {
        let (state, seen) = watch::channel(State::default());
        let xds = Handle::new(watch::Sender::default(), seen);
        let first: Vec<Arc<str>> = vec!["inbound/10.0.0.1:8080".into()];
        let capture = Capture::new(&[]);
        let said = capture.missing(&state.borrow(), &first);
        assert_eq!(said, ["first configuration: no stream to the operator yet\n"]);
        capture.first_config(&xds, &first).await;
        assert!(capture.started_without_config());
        assert!(capture.missing(&state.borrow(), &first).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_there_is_none_is_a_configuration() {
        let (state, seen) = watch::channel(State { connected: true, ..State::default() });
        let xds = Handle::new(watch::Sender::default(), seen);
        let first: Vec<Arc<str>> = vec!["inbound/10.0.0.1:8080".into()];
        let capture = Capture::new(&[]);
        let said = capture.missing(&state.borrow(), &first);
        assert_eq!(said, ["first configuration: awaited: inbound/10.0.0.1:8080\n"]);
        let answer = || {
            let listeners = BTreeMap::from([(Arc::clone(&first[0]), Known::Absent)]);
            state.send_modify(|state| state.listeners = Arc::new(listeners));
        };
        tokio::join!(capture.first_config(&xds, &first), async { answer() });
        assert!(!capture.started_without_config());
        assert!(capture.missing(&state.borrow(), &first).is_empty());
    }
}
