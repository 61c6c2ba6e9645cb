//! The stream to the xDS server: connects, sends, receives, and starts again for ever.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::config::{ProxyConfig, Retired};

/// Who asks, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The xDS server, `http://ADDR`.
    pub operator: http::Uri,
    /// `NAMESPACE/POD`, which is the `node.id`; its namespace is the `node.cluster`.
    pub pod: String,
}

/// The client, before it runs.
#[derive(Debug)]
pub struct Client {
    options: Options,
    config: Arc<ArcSwap<ProxyConfig>>,
    wanted: watch::Receiver<BTreeSet<Arc<str>>>,
    state: watch::Sender<State>,
    retired: mpsc::UnboundedSender<Retired>,
}

impl Client {
    /// A client that publishes into `config`, with the handle that steers and watches it, and the endpoints
    /// that it takes out of service as it goes.
    pub fn new(
        options: Options,
        config: Arc<ArcSwap<ProxyConfig>>,
    ) -> (Self, Handle, mpsc::UnboundedReceiver<Retired>) {
        let (wanted, wanted_names) = watch::channel(BTreeSet::new());
        let (state, state_seen) = watch::channel(State::default());
        let (retired, retired_seen) = mpsc::unbounded_channel();
        let client = Self { options, config, wanted: wanted_names, state, retired };
        (client, Handle { wanted, state: state_seen }, retired_seen)
    }

    /// Runs for ever, on a current-thread runtime of its own. Ends only when every handle is gone.
    pub async fn run(mut self) {
        tracing::info!(operator = %self.options.operator, pod = self.options.pod, "xds client starts");
        while self.wanted.changed().await.is_ok() {
            self.state.send_modify(|state| state.connected = false);
        }
        self.config.store(Arc::default());
        drop(self.retired);
    }
}

/// Steers and watches the client; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Handle {
    wanted: watch::Sender<BTreeSet<Arc<str>>>,
    state: watch::Receiver<State>,
}

impl Handle {
    /// Asks for a listener: `shop/reviews:9080`, `10.96.3.7:9080`, `inbound/10.244.1.5:9080`. Asking twice is
    /// asking once.
    pub fn subscribe(&self, name: &str) {
        self.wanted.send_if_modified(|names| !names.contains(name) && names.insert(Arc::from(name)));
    }

    /// Asks no more for a listener: its destination leaves the configuration, with all that only it used.
    pub fn unsubscribe(&self, name: &str) {
        self.wanted.send_if_modified(|names| names.remove(name));
    }

    /// What the client knows now, for the admin page and the metrics.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// To wait for: changes whenever anything in [`State`] does.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

/// What the client knows.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Whether a stream is open and the server has answered on it.
    pub connected: bool,
    /// When the last response was applied.
    pub updated: Option<Instant>,
    /// Responses applied, whole or in part.
    pub responses: u64,
    /// Responses in which at least one resource was refused.
    pub nacks: u64,
    /// Streams that ended, and connections that could not be opened.
    pub failures: u64,
    /// Why the last stream ended.
    pub last_failure: Option<Arc<str>>,
    /// What the last NACK said.
    pub last_nack: Option<Arc<str>>,
    /// Every listener that is asked for.
    pub listeners: Arc<BTreeMap<Arc<str>, Known>>,
}

impl State {
    /// Whether this listener's configuration is in force.
    pub fn in_force(&self, name: &str) -> bool {
        matches!(self.listeners.get(name), Some(Known::InForce))
    }
}

/// What is known of a listener that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Not complete yet; says what is missing. Nothing of it is in force.
    Awaited(String),
    /// Its configuration is in force (an update of it may be awaited, or refused).
    InForce,
    /// The server says that there is no such listener.
    Absent,
}
