//! Who gets a connection to a Service port, who waits, and who is refused: a plain state machine.
//!
//! One of these stands for one Service port of one sidecar, whatever number of workers use it, so its limits
//! are exact. It opens nothing and wakes nobody: it is told what happens and says what follows.
//!
//! ```text
//!            ask ---------> Reuse | Share     a connection is there
//!             |-----------> Open              a slot is free (or an idle connection elsewhere gives its own up)
//!             |-----------> Join              somebody is opening one that can be shared
//!             |-----------> Wait              at the limit: first in, first out
//!             '-----------> Full              and the queue is full, too
//!
//!  put_back, stream_done, closed -> the first who waits gets the connection, or the slot
//! ```
//!
//! A *slot* is the right to hold one open connection; it is counted from before the connect until after the
//! close, and every slot that was given ends with one call of [`Admission::closed`]. Who waits takes the first connection that comes free, to whichever endpoint: opening another one
//! instead would close and open connections for nothing.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use foldhash::HashMap;

/// Endpoints that are remembered to be none any more. Pods come and go for as long as we live; beyond these all are
/// forgotten, and what then comes back from one of them is closed for being idle.
const MOST_RETIRED: usize = 1024;

/// What the state machine must know of a connection that several requests share.
pub trait Shareable: Clone {
    /// How many streams the other side allows now.
    fn capacity(&self) -> u32;
    /// False once it takes no more requests.
    fn is_open(&self) -> bool;
}

/// The limits of a Service port; `u32::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, and those being opened.
    pub connections: u32,
    /// Who waits for one; 0 never queues.
    pub pending: u32,
    /// Requests that one connection carries in its life.
    pub requests_per_connection: u32,
    /// How long a connection may have been idle and still be used; what is older is closed by the next
    /// [`Admission::expire`].
    pub idle: Duration,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self {
        connections: u32::MAX,
        pending: u32::MAX,
        requests_per_connection: u32::MAX,
        idle: Duration::MAX,
    };
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A connection to itself: HTTP/1.1.
    Exclusive,
    /// A stream on a connection: HTTP/2.
    Shared,
    /// A new connection: bytes, or an upgrade.
    Fresh,
}

/// Who waits; given back by [`Admission::leave`] and the grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Names one shared connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SharedId(u64);

/// What follows from a question.
#[derive(Debug)]
pub enum Answer<C, S> {
    /// This connection, kept from an earlier request.
    Reuse(C),
    /// A stream on this connection; end it with [`Admission::stream_done`].
    Share(SharedId, S),
    /// Open one; the slot is counted. What is in `evicted` must be closed first: it makes the room.
    Open {
        /// An idle connection to another endpoint.
        evicted: Option<C>,
    },
    /// Somebody opens a connection that this one will share. Not pending: it would be there without limits.
    Join(Ticket),
    /// Wait. What is in `evicted` must be let go: its slot will come.
    Wait {
        /// Where in the queue.
        ticket: Ticket,
        /// An idle shared connection to another endpoint.
        evicted: Option<S>,
    },
    /// No connection, no place in the queue.
    Full,
}

/// What somebody who waited gets.
#[derive(Debug)]
pub enum Grant<C, S> {
    /// A connection, to `0`.
    Reuse(SocketAddr, C),
    /// A stream on a connection to `0`.
    Share(SocketAddr, SharedId, S),
    /// The right to open one.
    Slot,
    /// The one who opened the connection gave up: ask again.
    AskAgain,
    /// The one who opened the connection failed, and says why.
    Failed(String),
}

/// The state. `C` is an exclusive connection, `S` a handle of a shared one, `W` what wakes who waits.
#[derive(Debug)]
pub struct Admission<C, S, W> {
    limits: Limits,
    open: u32,
    hosts: HashMap<SocketAddr, Host<C, S, W>>,
    waiting: VecDeque<Waiter<W>>,
    /// Endpoints that are none any more: what comes back from them is closed.
    retired: HashSet<SocketAddr>,
    last: u64,
}

#[derive(Debug)]
struct Host<C, S, W> {
    /// By worker, the newest last.
    idle: Vec<VecDeque<Idle<C>>>,
    shared: Vec<Shared<S>>,
    opening: Vec<Opening<W>>,
}

impl<C, S, W> Default for Host<C, S, W> {
    fn default() -> Self {
        Self { idle: Vec::new(), shared: Vec::new(), opening: Vec::new() }
    }
}

impl<C, S, W> Host<C, S, W> {
    fn is_empty(&self) -> bool {
        self.idle.iter().all(VecDeque::is_empty) && self.shared.is_empty() && self.opening.is_empty()
    }
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    since: Instant,
}

#[derive(Debug)]
struct Shared<S> {
    id: SharedId,
    handle: S,
    worker: usize,
    streams: u32,
    uses: u32,
    idle_since: Instant,
}

#[derive(Debug)]
struct Opening<W> {
    worker: usize,
    joined: Vec<(Ticket, W)>,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: Ticket,
    want: Want,
    waker: W,
}

/// What becomes of a connection that is free again.
#[derive(Debug)]
pub enum Returned<C, S, W> {
    /// It is idle now.
    Kept,
    /// It must be closed.
    Close(C),
    /// Somebody waited for it.
    Grant(W, Grant<C, S>),
}

/// Grants to carry out, outside of any lock.
pub type Grants<C, S, W> = Vec<(W, Grant<C, S>)>;

impl<C, S: Shareable, W> Default for Admission<C, S, W> {
    fn default() -> Self {
        Self {
            limits: Limits::NONE,
            open: 0,
            hosts: HashMap::default(),
            waiting: VecDeque::new(),
            retired: HashSet::new(),
            last: 0,
        }
    }
}

impl<C, S: Shareable, W> Admission<C, S, W> {
    /// The limits in force from now on. Raised ones let in who waits: the grants must be carried out.
    pub fn set_limits(&mut self, limits: Limits) -> Grants<C, S, W> {
        let mut grants = Vec::new();
        if self.limits != limits {
            self.limits = limits;
            while self.open < limits.connections {
                let Some(waiter) = self.waiting.pop_front() else { break };
                self.open += 1;
                grants.push((waiter.waker, Grant::Slot));
            }
        }
        grants
    }

    /// A request to `address`, on `worker`, needs a connection.
    pub fn ask(
        &mut self,
        address: SocketAddr,
        worker: usize,
        want: Want,
        now: Instant,
        waker: impl FnOnce() -> W,
    ) -> Answer<C, S> {
        if !self.retired.is_empty() {
            self.retired.remove(&address); // It is back.
        }
        let found = match want {
            Want::Exclusive => self.take_idle(address, worker, now).map(Answer::Reuse),
            Want::Shared => {
                self.share(address, Some(worker), now).map(|(id, handle)| Answer::Share(id, handle))
            }
            Want::Fresh => None,
        };
        if let Some(answer) = found {
            return answer;
        }
        if want == Want::Shared && self.is_opening(address, Some(worker)) {
            return Answer::Join(self.join(address, Some(worker), waker()));
        }
        if self.open < self.limits.connections {
            self.open += 1;
            self.note_opening(address, worker, want);
            return Answer::Open { evicted: None };
        }
        if want == Want::Shared {
            if let Some((id, handle)) = self.share(address, None, now) {
                return Answer::Share(id, handle);
            }
            if self.is_opening(address, None) {
                return Answer::Join(self.join(address, None, waker()));
            }
        }
        if self.open == self.limits.connections
            && let Some(evicted) = self.evict_idle()
        {
            // One more than the limit until `closed` is told of the evicted one.
            self.open += 1;
            self.note_opening(address, worker, want);
            return Answer::Open { evicted: Some(evicted) };
        }
        if self.waiting.len() >= self.limits.pending as usize {
            // A shared connection that nobody uses gives way even when nothing may queue: its slot is as
            // good as free, but it comes only when the close is through.
            let Some(evicted) = self.evict_shared(address, want) else { return Answer::Full };
            return Answer::Wait { ticket: self.enqueue(want, waker()), evicted: Some(evicted) };
        }
        let evicted = self.evict_shared(address, want);
        Answer::Wait { ticket: self.enqueue(want, waker()), evicted }
    }

    /// An exclusive connection is free again.
    pub fn put_back(
        &mut self,
        address: SocketAddr,
        worker: usize,
        connection: C,
        now: Instant,
    ) -> Returned<C, S, W> {
        if self.open > self.limits.connections || self.retired.contains(&address) {
            return Returned::Close(connection); // The limit was lowered, or the endpoint is none any more.
        }
        match self.waiting.front().map(|waiter| waiter.want) {
            Some(Want::Exclusive) => {
                let Some(waiter) = self.waiting.pop_front() else { return Returned::Close(connection) };
                return Returned::Grant(waiter.waker, Grant::Reuse(address, connection));
            }
            Some(Want::Shared | Want::Fresh) => return Returned::Close(connection),
            None => {}
        }
        let idle = &mut self.hosts.entry(address).or_default().idle;
        if idle.len() <= worker {
            idle.resize_with(worker + 1, VecDeque::new);
        }
        match idle.get_mut(worker) {
            Some(list) => list.push_back(Idle { connection, since: now }),
            None => return Returned::Close(connection),
        }
        Returned::Kept
    }

    /// The opener of a shared connection has it: it uses one stream itself. Who joined gets one, too.
    pub fn opened(
        &mut self,
        address: SocketAddr,
        worker: usize,
        handle: S,
        now: Instant,
    ) -> (SharedId, Grants<C, S, W>) {
        self.last += 1;
        let id = SharedId(self.last);
        let joined = self.take_opening(address, worker);
        let mut grants = Vec::new();
        let mut streams = 1;
        for (_, waker) in joined {
            if streams < self.limits.requests_per_connection && streams < handle.capacity() {
                streams += 1;
                grants.push((waker, Grant::Share(address, id, handle.clone())));
            } else {
                grants.push((waker, Grant::AskAgain));
            }
        }
        let shared = Shared { id, handle, worker, streams, uses: streams, idle_since: now };
        self.hosts.entry(address).or_default().shared.push(shared);
        (id, grants)
    }

    /// The opener of a shared connection failed (`why`) or gave up. Its slot is given back by [`Self::closed`].
    pub fn not_opened(&mut self, address: SocketAddr, worker: usize, why: Option<&str>) -> Grants<C, S, W> {
        let joined = self.take_opening(address, worker);
        let grant = |()| why.map_or(Grant::AskAgain, |why| Grant::Failed(why.to_owned()));
        joined.into_iter().map(|(_, waker)| (waker, grant(()))).collect()
    }

    /// A stream has ended.
    pub fn stream_done(
        &mut self,
        address: SocketAddr,
        id: SharedId,
        now: Instant,
    ) -> Option<(W, Grant<C, S>)> {
        let limit = self.limits.requests_per_connection;
        let host = self.hosts.get_mut(&address)?;
        let at = host.shared.iter().position(|shared| shared.id == id)?;
        let shared = host.shared.get_mut(at)?;
        shared.streams = shared.streams.saturating_sub(1);
        shared.idle_since = now;
        if !shared.handle.is_open() || shared.uses >= limit {
            host.shared.swap_remove(at);
            return None;
        }
        match self.waiting.front()?.want {
            Want::Shared if shared.streams < shared.handle.capacity() => {
                shared.streams += 1;
                shared.uses += 1;
                let grant = Grant::Share(address, id, shared.handle.clone());
                self.waiting.pop_front().map(|waiter| (waiter.waker, grant))
            }
            Want::Shared => None,
            Want::Exclusive | Want::Fresh => {
                if shared.streams == 0 {
                    // Nobody holds it any more: it closes, and the slot comes through `closed`.
                    host.shared.swap_remove(at);
                }
                None
            }
        }
    }

    /// A connection was closed, or never came about: its slot goes to the first who waits.
    pub fn closed(&mut self) -> Option<(W, Grant<C, S>)> {
        if self.open <= self.limits.connections
            && let Some(waiter) = self.waiting.pop_front()
        {
            return Some((waiter.waker, Grant::Slot));
        }
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.retired.clear(); // None of theirs can come back.
        }
        None
    }

    /// Somebody who waited does so no longer. False: the grant is on its way already.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        if let Some(at) = self.waiting.iter().position(|waiter| waiter.ticket == ticket) {
            self.waiting.remove(at);
            return true;
        }
        for host in self.hosts.values_mut() {
            for opening in &mut host.opening {
                if let Some(at) = opening.joined.iter().position(|(joined, _)| *joined == ticket) {
                    opening.joined.swap_remove(at);
                    return true;
                }
            }
        }
        false
    }

    /// Takes out the idle connections that are too old, or no longer `alive`. They must be closed.
    pub fn expire(
        &mut self,
        now: Instant,
        idle_timeout: Option<Duration>,
        alive: impl Fn(&C) -> bool,
    ) -> (Vec<C>, Vec<S>) {
        let (mut exclusive, mut shared) = (Vec::new(), Vec::new());
        let old =
            |since: Instant| idle_timeout.is_some_and(|limit| now.saturating_duration_since(since) >= limit);
        self.hosts.retain(|_, host| {
            for list in &mut host.idle {
                // The oldest stand in front.
                while list.front().is_some_and(|idle| old(idle.since)) {
                    exclusive.extend(list.pop_front().map(|idle| idle.connection));
                }
                let mut at = 0;
                while let Some(idle) = list.get(at) {
                    if alive(&idle.connection) {
                        at += 1;
                    } else {
                        exclusive.extend(list.remove(at).map(|idle| idle.connection));
                    }
                }
            }
            let mut at = 0;
            while let Some(candidate) = host.shared.get(at) {
                if !candidate.handle.is_open() || candidate.streams == 0 && old(candidate.idle_since) {
                    shared.push(host.shared.swap_remove(at).handle);
                } else {
                    at += 1;
                }
            }
            !host.is_empty()
        });
        (exclusive, shared)
    }

    /// These are endpoints no more: takes out their idle connections, which must be closed; those in use are
    /// closed when they come back. A request for one of them makes it an endpoint again.
    pub fn retire(&mut self, addresses: &[SocketAddr]) -> (Vec<C>, Vec<S>) {
        let (mut exclusive, mut shared) = (Vec::new(), Vec::new());
        if self.retired.len() + addresses.len() > MOST_RETIRED {
            self.retired.clear();
        }
        for address in addresses {
            self.retired.insert(*address);
            if let Some(host) = self.hosts.get_mut(address) {
                exclusive.extend(host.idle.drain(..).flatten().map(|idle| idle.connection));
                shared.extend(host.shared.drain(..).map(|shared| shared.handle));
                if host.is_empty() {
                    self.hosts.remove(address);
                }
            }
        }
        (exclusive, shared)
    }

    /// Everything that is idle, for the end.
    pub fn drain(&mut self) -> (Vec<C>, Vec<S>) {
        let mut exclusive = Vec::new();
        let mut shared = Vec::new();
        for (_, host) in self.hosts.drain() {
            exclusive.extend(host.idle.into_iter().flatten().map(|idle| idle.connection));
            shared.extend(host.shared.into_iter().map(|shared| shared.handle));
        }
        (exclusive, shared)
    }

    /// Connections open or being opened.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Requests that wait.
    pub fn pending(&self) -> usize {
        self.waiting.len()
    }

    /// Connections that carry nothing now.
    pub fn idle(&self) -> usize {
        self.hosts
            .values()
            .map(|host| {
                host.idle.iter().map(VecDeque::len).sum::<usize>()
                    + host.shared.iter().filter(|shared| shared.streams == 0).count()
            })
            .sum()
    }

    /// The newest idle connection, of this worker if it has one.
    fn take_idle(&mut self, address: SocketAddr, worker: usize, now: Instant) -> Option<C> {
        let limit = self.limits.idle;
        let young = |list: &VecDeque<Idle<C>>| {
            list.back().is_some_and(|idle| now.saturating_duration_since(idle.since) < limit)
        };
        let idle = &mut self.hosts.get_mut(&address)?.idle;
        let own = idle.get(worker).filter(|list| young(list)).map(|_| worker);
        let at = own.or_else(|| idle.iter().position(young))?;
        idle.get_mut(at)?.pop_back().map(|idle| idle.connection)
    }

    fn share(&mut self, address: SocketAddr, worker: Option<usize>, now: Instant) -> Option<(SharedId, S)> {
        let limit = self.limits.requests_per_connection;
        let host = self.hosts.get_mut(&address)?;
        host.shared.retain(|shared| shared.handle.is_open() && shared.uses < limit);
        let shared = host
            .shared
            .iter_mut()
            .filter(|shared| worker.is_none_or(|worker| shared.worker == worker))
            .filter(|shared| shared.streams < shared.handle.capacity())
            .min_by_key(|shared| shared.streams)?;
        shared.streams += 1;
        shared.uses += 1;
        shared.idle_since = now;
        Some((shared.id, shared.handle.clone()))
    }

    fn is_opening(&self, address: SocketAddr, worker: Option<usize>) -> bool {
        self.hosts.get(&address).is_some_and(|host| {
            host.opening.iter().any(|one| worker.is_none_or(|worker| one.worker == worker))
        })
    }

    fn note_opening(&mut self, address: SocketAddr, worker: usize, want: Want) {
        if want == Want::Shared {
            let opening = Opening { worker, joined: Vec::new() };
            self.hosts.entry(address).or_default().opening.push(opening);
        }
    }

    fn join(&mut self, address: SocketAddr, worker: Option<usize>, waker: W) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        let opening = self.hosts.get_mut(&address).and_then(|host| {
            host.opening.iter_mut().find(|one| worker.is_none_or(|worker| one.worker == worker))
        });
        if let Some(opening) = opening {
            opening.joined.push((ticket, waker));
        }
        ticket
    }

    fn take_opening(&mut self, address: SocketAddr, worker: usize) -> Vec<(Ticket, W)> {
        let Some(host) = self.hosts.get_mut(&address) else { return Vec::new() };
        let Some(at) = host.opening.iter().position(|one| one.worker == worker) else { return Vec::new() };
        host.opening.swap_remove(at).joined
    }

    fn enqueue(&mut self, want: Want, waker: W) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.waiting.push_back(Waiter { ticket, want, waker });
        ticket
    }

    /// An idle connection to any endpoint: the one that has been idle for longest.
    fn evict_idle(&mut self) -> Option<C> {
        let list = self
            .hosts
            .values_mut()
            .flat_map(|host| host.idle.iter_mut())
            .filter(|list| !list.is_empty())
            .min_by_key(|list| list.front().map(|idle| idle.since))?;
        list.pop_front().map(|idle| idle.connection)
    }

    /// A shared connection that carries nothing and is of no use to who asks.
    fn evict_shared(&mut self, address: SocketAddr, want: Want) -> Option<S> {
        for (other, host) in &mut self.hosts {
            if (*other != address || want != Want::Shared)
                && let Some(at) = host.shared.iter().position(|shared| shared.streams == 0)
            {
                return Some(host.shared.swap_remove(at).handle);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
