//! A backend that behaves as a test wants: answers, resets at a chosen moment, stalls, refuses, lies.
//!
//! It counts what it *processed*: a request whose head and body it has read and taken on, whatever becomes
//! of the answer. A request that it refused, or reset before reading it, is not counted. HTTP/1.1 is written
//! by hand here, HTTP/2 is the h2 crate's; the first bytes of a connection tell which.
//!
//! A request's identity is its header `x-id` (what a load sends), the backend's own its header `x-backend`
//! and its JSON body, which also says what arrived: method, path, headers, body.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

mod http1;
mod http2;

/// What a backend does with a request.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// 200 and JSON that says what arrived.
    Ok,
    /// 200 and this body.
    Text(String),
    /// This status.
    Status(u16),
    /// 200 after this time.
    Slow(Duration),
    /// Processes it and does not answer until [`Backend::release`].
    Stall,
    /// Resets a connection as soon as it is accepted: nothing is processed. Met on a connection that is open
    /// already, the request is answered and the next connection is reset.
    ResetOnAccept,
    /// Processes the request, then resets before the first byte of the answer.
    ResetBeforeHead,
    /// Processes it, sends the answer's head, resets.
    ResetAfterHead,
    /// Processes it, sends the head and half of the body, resets.
    ResetInBody,
    /// The first request of a connection is answered; when the next one arrives the connection is reset
    /// without a byte of it being read.
    CloseReused,
    /// HTTP/2: REFUSED_STREAM, nothing is processed.
    RefuseStream,
    /// HTTP/2: GOAWAY with a last stream below this request's: it is not processed, nor what comes after it.
    GoAway,
    /// HTTP/2: answers, then GOAWAY: the connection takes no more.
    GoAwayAfter,
    /// These in turn, again and again.
    Cycle(Vec<Behaviour>),
    /// These in turn, then the last one for ever.
    Then(Vec<Behaviour>),
}

/// A backend; dropped, it stops listening and closes its connections.
#[derive(Debug)]
pub struct Backend {
    /// What it calls itself.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    stopping: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// A request as it was processed.
#[derive(Debug, Clone)]
pub struct Seen {
    /// GET.
    pub method: String,
    /// With the query.
    pub path: String,
    /// `Host` or `:authority`.
    pub authority: String,
    /// Lower case; in the order received.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// 1.1 or 2.
    pub version: &'static str,
}

impl Seen {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
struct State {
    name: String,
    behaviour: Mutex<VecDeque<Behaviour>>,
    cycles: Mutex<bool>,
    processed: Mutex<HashMap<String, usize>>,
    seen: Mutex<Vec<Seen>>,
    total: AtomicUsize,
    accepted: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    released: watch::Sender<u64>,
    /// Connections to come that are reset when they are accepted.
    resets_due: AtomicUsize,
    happened: Mutex<BTreeMap<&'static str, usize>>,
}

impl Backend {
    /// Listens at `address` (port 0 is allowed) and behaves so.
    pub async fn start(name: &str, address: SocketAddr, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            name: name.to_owned(),
            behaviour: Mutex::default(),
            cycles: Mutex::default(),
            processed: Mutex::default(),
            seen: Mutex::default(),
            total: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            released: watch::Sender::new(0),
            resets_due: AtomicUsize::new(0),
            happened: Mutex::default(),
        });
        state.set(behaviour);
        let stopping = watch::Sender::new(false);
        let serving = tokio::spawn(serve(listener, Arc::clone(&state), stopping.subscribe()));
        Self { name: name.to_owned(), address, state, stopping, serving }
    }

    /// Behaves differently from the next request on.
    pub fn set(&self, behaviour: Behaviour) {
        self.state.set(behaviour);
    }

    /// Lets every request that stalls now go on.
    pub fn release(&self) {
        self.state.released.send_modify(|times| *times += 1);
    }

    /// How often the request with this `x-id` was processed.
    pub fn processed(&self, id: &str) -> usize {
        self.state.processed.lock().unwrap().get(id).copied().unwrap_or(0)
    }

    /// How often each misbehaviour really took place, by its name.
    pub fn happened(&self) -> BTreeMap<&'static str, usize> {
        self.state.happened.lock().unwrap().clone()
    }

    /// All ids with the number of times that they were processed.
    pub fn processed_ids(&self) -> HashMap<String, usize> {
        self.state.processed.lock().unwrap().clone()
    }

    /// Requests processed in all, with or without an id.
    pub fn total(&self) -> usize {
        self.state.total.load(Ordering::SeqCst)
    }

    /// The requests processed, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Connections accepted in all.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// The most connections that were ever open at once.
    pub fn most_open(&self) -> usize {
        self.state.most_open.load(Ordering::SeqCst)
    }

    /// Stops listening and closes every connection, as the end of a process does; returns when all of it is done.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl State {
    fn set(&self, behaviour: Behaviour) {
        let (list, cycles) = match behaviour {
            Behaviour::Cycle(list) => (list, true),
            Behaviour::Then(list) => (list, false),
            one => (vec![one], false),
        };
        *self.behaviour.lock().unwrap() = list.into();
        *self.cycles.lock().unwrap() = cycles;
    }

    /// What comes next, left in its place.
    fn peek(&self) -> Behaviour {
        self.behaviour.lock().unwrap().front().cloned().unwrap_or(Behaviour::Ok)
    }

    /// What comes next, used up.
    fn next(&self) -> Behaviour {
        let mut list = self.behaviour.lock().unwrap();
        let Some(first) = list.front().cloned() else { return Behaviour::Ok };
        if *self.cycles.lock().unwrap() {
            list.rotate_left(1);
        } else if list.len() > 1 {
            list.pop_front();
        }
        first
    }

    /// A misbehaviour took place.
    fn count(&self, behaviour: &Behaviour) {
        let name = match behaviour {
            Behaviour::Status(_) => "Status",
            Behaviour::Stall => "Stall",
            Behaviour::ResetOnAccept => "ResetOnAccept",
            Behaviour::ResetBeforeHead => "ResetBeforeHead",
            Behaviour::ResetAfterHead => "ResetAfterHead",
            Behaviour::ResetInBody => "ResetInBody",
            Behaviour::CloseReused => "CloseReused",
            Behaviour::RefuseStream => "RefuseStream",
            Behaviour::GoAway => "GoAway",
            Behaviour::GoAwayAfter => "GoAwayAfter",
            Behaviour::Ok
            | Behaviour::Text(_)
            | Behaviour::Slow(_)
            | Behaviour::Cycle(_)
            | Behaviour::Then(_) => return,
        };
        *self.happened.lock().unwrap().entry(name).or_default() += 1;
    }

    fn process(&self, request: &Seen) {
        if let Some(id) = request.header("x-id") {
            *self.processed.lock().unwrap().entry(id.to_owned()).or_default() += 1;
        }
        self.seen.lock().unwrap().push(request.clone());
        self.total.fetch_add(1, Ordering::SeqCst);
    }

    /// Status and body; waits as long as the behaviour says.
    async fn answer(&self, behaviour: &Behaviour, request: &Seen) -> (u16, String) {
        match behaviour {
            Behaviour::Status(status) => {
                self.count(behaviour);
                return (*status, format!("{status} from {}\n", self.name));
            }
            Behaviour::Text(text) => return (200, text.clone()),
            Behaviour::Slow(time) => tokio::time::sleep(*time).await,
            Behaviour::Stall => {
                self.count(behaviour);
                let _ = self.released.subscribe().changed().await;
            }
            _ => {}
        }
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| json!([name, value])).collect();
        let body = json!({
            "backend": self.name, "method": request.method, "path": request.path, "authority": request.authority,
            "headers": headers, "body": String::from_utf8_lossy(&request.body), "version": request.version,
        });
        (200, body.to_string())
    }
}

async fn serve(listener: TcpListener, state: Arc<State>, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let Ok((stream, _)) = accepted else { continue };
        while connections.try_join_next().is_some() {}
        state.accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(connection(stream, Arc::clone(&state)));
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    struct Open(Arc<State>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
    state.most_open.fetch_max(open, Ordering::SeqCst);
    let _open = Open(Arc::clone(&state));

    let _ = stream.set_nodelay(true);
    let due =
        state.resets_due.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |due| due.checked_sub(1)).is_ok();
    if due || matches!(state.peek(), Behaviour::ResetOnAccept) {
        if !due {
            state.next();
        }
        state.count(&Behaviour::ResetOnAccept);
        let _ = stream.set_zero_linger();
        return;
    }
    let mut first = [0; 4];
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return,
            Ok(4) => break,
            Ok(_) => tokio::task::yield_now().await,
        }
    }
    if &first == b"PRI " { http2::serve(stream, &state).await } else { http1::serve(stream, &state).await }
}
