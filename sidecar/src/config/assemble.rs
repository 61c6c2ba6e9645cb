//! From resources to the configuration: what is complete is put in force, what is not keeps what was.
//!
//! ```text
//! listener --> routes --> clusters --> endpoints
//!     \----> cluster (bytes) -----^
//! ```
//!
//! The rules:
//!
//! * A cluster takes new settings when its endpoints are known; until then it stays as it was.
//! * A destination takes a new listener or new routes when every cluster that they lead to is known; until
//!   then the old listener and routes stay in force, with the endpoints that their clusters have *now*.
//! * Known is also what the server says does not exist. A cluster that does not exist answers its share
//!   with 500; one without endpoints answers 503; a listener whose routes do not exist answers 404. While
//!   a destination waits for its next configuration, a cluster that only the old one uses may go, and
//!   stays in force there: servers remove the old before we have the new.
//! * What counts lives on: clusters hand their live state to their successors of the same name, limiters
//!   their buckets.
//!
//! A change of endpoints builds one cluster and the destinations that lead to it; route tables are shared
//! by pointer with the configuration before. The cost of a change is a walk over the destinations that are
//! asked for (what this pod calls, not what the cluster has), comparing pointers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::built::{Built, eds_name, retired, same_clusters};
use super::held::{Held, Value, keep_exactly, take_in};
use super::pieces::{Kind, Listener, RouteSource, Update};
use super::{Destination, Inbound, Known, Protocol, ProxyConfig, Retired, Service};
use crate::cluster::{ClusterSettings, EndpointSettings, EndpointSource};
use crate::rate_limit::{InboundSettings, RateLimiter};
use crate::route::RouteTable;

/// Holds the pieces, and makes configurations of them.
#[derive(Debug, Default)]
pub struct Assembler {
    listeners: HashMap<Arc<str>, Held<Arc<Listener>>>,
    routes: HashMap<Arc<str>, Held<Arc<RouteTable>>>,
    clusters: HashMap<Arc<str>, Held<Arc<ClusterSettings>>>,
    endpoints: HashMap<Arc<str>, Held<Arc<[EndpointSettings]>>>,
    /// Clusters whose settings or endpoints changed since they were built.
    stale: HashSet<Arc<str>>,
    /// Whether what refers to what may have changed since it was followed last.
    references_changed: bool,
    /// Whether they were followed since [`references_followed`](Self::references_followed) was last asked.
    references_followed: bool,
    /// What the clusters have come to; none: it does not exist.
    built: HashMap<Arc<str>, Option<Built>>,
    in_force: HashMap<Arc<str>, InForce>,
}

/// A configuration, and what went out of service with it.
#[derive(Debug)]
pub struct Assembled {
    /// To be put in force.
    pub config: Arc<ProxyConfig>,
    /// What it no longer has.
    pub retired: Vec<Retired>,
}

/// What a name runs: complete when it was put in force.
#[derive(Debug)]
enum InForce {
    Unknown(Arc<Destination>),
    Outbound(Outbound),
    Inbound { listener: Arc<Listener>, address: SocketAddr, inbound: Arc<Inbound> },
}

#[derive(Debug)]
struct Outbound {
    listener: Arc<Listener>,
    routes: Option<Arc<RouteTable>>,
    /// By name; none: it does not exist.
    clusters: HashMap<Arc<str>, Option<Built>>,
    destination: Arc<Destination>,
}

impl Assembler {
    /// Sets the listeners that are asked for. Others leave the configuration at the next
    /// [`assemble`](Self::assemble).
    pub fn want(&mut self, names: &BTreeSet<Arc<str>>) {
        self.listeners.retain(|name, _| names.contains(name));
        for name in names {
            self.listeners.entry(Arc::clone(name)).or_default();
        }
        self.references_changed = true;
    }

    /// Takes in what has become known. What nothing refers to is ignored.
    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) {
        for Update { kind, name, news } in updates {
            self.references_changed |= kind != Kind::Endpoints;
            match kind {
                Kind::Listener => take_in(&mut self.listeners, &name, news),
                Kind::Route => take_in(&mut self.routes, &name, news),
                Kind::Cluster => {
                    take_in(&mut self.clusters, &name, news);
                    self.stale.insert(name);
                }
                Kind::Endpoints => {
                    take_in(&mut self.endpoints, &name, news);
                    self.endpoints_changed(&name);
                }
            }
        }
    }

    /// Puts in force what is complete. None: nothing has changed.
    pub fn assemble(&mut self) -> Option<Assembled> {
        self.follow_references();
        self.build_clusters();
        let before = self.clusters_in_force();
        let mut changed = self.drop_unwanted();
        let names: Vec<Arc<str>> = self.listeners.keys().cloned().collect();
        for name in names {
            changed |= self.put_in_force(&name);
        }
        self.references_changed |= changed;
        self.follow_references();
        changed.then(|| Assembled {
            config: Arc::new(self.configuration()),
            retired: retired(&before, &self.clusters_in_force()),
        })
    }

    /// The names of this kind that what is held refers to: what to be subscribed to.
    pub fn wanted(&self, kind: Kind) -> BTreeSet<Arc<str>> {
        match kind {
            Kind::Listener => self.listeners.keys().cloned().collect(),
            Kind::Route => self.routes.keys().cloned().collect(),
            Kind::Cluster => self.clusters.keys().cloned().collect(),
            Kind::Endpoints => self.endpoints.keys().cloned().collect(),
        }
    }

    /// Whether the names of [`wanted`](Self::wanted) may have changed since this was last asked.
    pub fn references_followed(&mut self) -> bool {
        std::mem::take(&mut self.references_followed)
    }

    /// What is known of each listener that is asked for.
    pub fn known(&self) -> BTreeMap<Arc<str>, Known> {
        let known = |name| match self.in_force.get(name) {
            Some(InForce::Unknown(_)) => Known::Absent,
            Some(InForce::Outbound(_) | InForce::Inbound { .. }) => Known::InForce,
            None => Known::Awaited(self.missing(name)),
        };
        self.listeners.keys().map(|name| (Arc::clone(name), known(name))).collect()
    }

    // -- What refers to what ---------------------------------------------------------------------------

    /// Asks for what the pieces refer to, and forgets what nothing refers to any more. The pieces that are
    /// in force count beside the ones that are to follow them.
    fn follow_references(&mut self) {
        if !std::mem::take(&mut self.references_changed) {
            return;
        }
        self.references_followed = true;
        let mut routes = HashSet::new();
        for held in self.listeners.values() {
            if let Value::Here(listener) = &held.value
                && let Listener::Outbound { routes: Some(RouteSource::Named(name)), .. } = listener.as_ref()
            {
                routes.insert(Arc::clone(name));
            }
        }
        keep_exactly(&mut self.routes, routes);

        let mut clusters = HashSet::new();
        for (name, held) in &self.listeners {
            if let Value::Here(listener) = &held.value
                && let Listener::Outbound { opaque, .. } = listener.as_ref()
            {
                clusters.extend(opaque.iter().cloned());
                let table = self.routes_of(listener).and_then(Result::ok).flatten();
                clusters.extend(table.iter().flat_map(|table| table.clusters.iter().cloned()));
            }
            if let Some(InForce::Outbound(outbound)) = self.in_force.get(name) {
                clusters.extend(outbound.clusters.keys().cloned());
            }
        }
        keep_exactly(&mut self.clusters, clusters);
        self.built.retain(|name, _| self.clusters.contains_key(name));

        let mut endpoints = HashSet::new();
        for (name, held) in &self.clusters {
            if let Value::Here(settings) = &held.value {
                endpoints.extend(eds_name(settings).cloned());
            }
            endpoints.extend(self.built_from(name).cloned());
        }
        keep_exactly(&mut self.endpoints, endpoints);
    }

    fn endpoints_changed(&mut self, name: &Arc<str>) {
        let users = self.clusters.iter().filter(|(cluster, held)| {
            let next = matches!(&held.value, Value::Here(settings) if eds_name(settings) == Some(name));
            next || self.built_from(cluster) == Some(name)
        });
        let users: Vec<_> = users.map(|(cluster, _)| Arc::clone(cluster)).collect();
        self.stale.extend(users);
    }

    /// The name of the endpoints that a cluster is built from now.
    fn built_from(&self, cluster: &str) -> Option<&Arc<str>> {
        self.built.get(cluster)?.as_ref()?.endpoints_name()
    }

    // -- Clusters --------------------------------------------------------------------------------------

    /// Builds the clusters whose settings or endpoints have changed and are both known.
    fn build_clusters(&mut self) {
        for name in std::mem::take(&mut self.stale) {
            let Some(held) = self.clusters.get(&name) else { continue };
            match &held.value {
                Value::Awaited => {}
                Value::Absent => {
                    self.built.insert(name, None);
                }
                Value::Here(settings) => {
                    let previous = self.previous(&name);
                    let next = self.endpoints_of(settings).map(|endpoints| (Arc::clone(settings), endpoints));
                    let kept = || {
                        let settings = Arc::clone(&previous.as_ref()?.cluster.settings);
                        let endpoints = self.endpoints_of(&settings)?;
                        Some((settings, endpoints))
                    };
                    if let Some((settings, endpoints)) = next.or_else(kept) {
                        let built = Built::new(settings, endpoints, previous.as_ref());
                        self.built.insert(name, Some(built));
                    }
                }
            }
        }
    }

    /// The live cluster of this name, to hand its state on.
    fn previous(&self, name: &str) -> Option<Built> {
        if let Some(Some(built)) = self.built.get(name) {
            return Some(built.clone());
        }
        self.in_force.values().find_map(|in_force| match in_force {
            InForce::Outbound(outbound) => outbound.clusters.get(name)?.clone(),
            InForce::Unknown(_) | InForce::Inbound { .. } => None,
        })
    }

    /// The endpoints of a cluster of these settings; none while they are awaited.
    fn endpoints_of(&self, settings: &ClusterSettings) -> Option<Arc<[EndpointSettings]>> {
        match &settings.endpoints {
            EndpointSource::Inline(endpoints) => Some(endpoints.as_slice().into()),
            EndpointSource::Eds(name) => match &self.endpoints.get(name)?.value {
                Value::Awaited => None,
                Value::Absent => Some(Arc::new([])),
                Value::Here(endpoints) => Some(Arc::clone(endpoints)),
            },
        }
    }

    // -- Destinations ----------------------------------------------------------------------------------

    /// Takes what is asked for no more out of the configuration.
    fn drop_unwanted(&mut self) -> bool {
        let before = self.in_force.len();
        self.in_force.retain(|name, _| self.listeners.contains_key(name));
        self.in_force.len() != before
    }

    /// Puts a listener in force, as far as it is complete. Says whether anything changed.
    fn put_in_force(&mut self, name: &Arc<str>) -> bool {
        let Some(held) = self.listeners.get(name) else { return false };
        let old = self.in_force.get(name);
        let new = match &held.value {
            Value::Awaited => None,
            Value::Absent if matches!(old, Some(InForce::Unknown(_))) => None,
            Value::Absent => Some(InForce::Unknown(Arc::new(Destination::Unknown))),
            Value::Here(listener) => match listener.as_ref() {
                Listener::Inbound { address, protocol, limits } => match old {
                    Some(InForce::Inbound { listener: old, .. }) if Arc::ptr_eq(old, listener) => None,
                    old => {
                        let protocol = spoken(*protocol, limits);
                        let inbound = Arc::new(Inbound { protocol, limits: limiter(limits, old) });
                        Some(InForce::Inbound { listener: Arc::clone(listener), address: *address, inbound })
                    }
                },
                Listener::Outbound { .. } => self.outbound(name, listener, old).map(InForce::Outbound),
            },
        };
        let changed = new.is_some();
        self.in_force.extend(new.map(|new| (Arc::clone(name), new)));
        changed
    }

    /// A destination with what it leads to now; none when it is as it was, or cannot be put in force yet.
    fn outbound(&self, name: &Arc<str>, next: &Arc<Listener>, old: Option<&InForce>) -> Option<Outbound> {
        let old = match old {
            Some(InForce::Outbound(outbound)) => Some(outbound),
            Some(InForce::Unknown(_) | InForce::Inbound { .. }) | None => None,
        };
        let complete = self.complete(next);
        let waits = complete.is_none();
        let (listener, routes) = match complete {
            Some(routes) => (next, routes),
            None => (&old?.listener, old?.routes.clone()),
        };
        let cluster = |name: &Arc<str>| {
            let kept = || old.and_then(|old| old.clusters.get(name)?.clone());
            match self.built.get(name) {
                Some(Some(built)) => Some(built.clone()),
                Some(None) if waits => kept(),
                Some(None) => None,
                None => kept(),
            }
        };
        let Listener::Outbound { protocol, opaque, .. } = listener.as_ref() else { return None };
        let names = routes.iter().flat_map(|table| table.clusters.iter()).chain(opaque);
        let clusters: HashMap<_, _> = names.map(|name| (Arc::clone(name), cluster(name))).collect();
        if let Some(old) = old
            && Arc::ptr_eq(&old.listener, listener)
            && old.routes.as_ref().map(Arc::as_ptr) == routes.as_ref().map(Arc::as_ptr)
            && same_clusters(&old.clusters, &clusters)
        {
            return None;
        }
        let find = |name: &Arc<str>| Some(Arc::clone(&clusters.get(name)?.as_ref()?.cluster));
        let destination = Arc::new(Destination::Known(Service {
            name: Arc::clone(name),
            protocol: *protocol,
            clusters: routes.iter().flat_map(|table| table.clusters.iter().map(find)).collect(),
            opaque: opaque.as_ref().and_then(find),
            routes: routes.clone(),
        }));
        Some(Outbound { listener: Arc::clone(listener), routes, clusters, destination })
    }

    /// The routes of a listener, when they and every cluster that they and it lead to are known.
    fn complete(&self, listener: &Listener) -> Option<Option<Arc<RouteTable>>> {
        let Listener::Outbound { opaque, .. } = listener else { return None };
        let routes = self.routes_of(listener)?.ok()?;
        let mut names = routes.iter().flat_map(|table| table.clusters.iter()).chain(opaque);
        names.all(|name| self.built.contains_key(name)).then_some(routes)
    }

    /// The routes of an outbound listener: `Err` is their name while they are awaited.
    fn routes_of(&self, listener: &Listener) -> Option<Result<Option<Arc<RouteTable>>, Arc<str>>> {
        let Listener::Outbound { routes, .. } = listener else { return None };
        Some(match routes {
            None => Ok(None),
            Some(RouteSource::Inline(table)) => Ok(Some(Arc::clone(table))),
            Some(RouteSource::Named(name)) => match self.routes.get(name).map(|held| &held.value) {
                None | Some(Value::Awaited | Value::Absent) => Err(Arc::clone(name)),
                Some(Value::Here(table)) => Ok(Some(Arc::clone(table))),
            },
        })
    }

    fn configuration(&self) -> ProxyConfig {
        let mut config = ProxyConfig::default();
        for (name, in_force) in &self.in_force {
            match in_force {
                InForce::Unknown(destination) | InForce::Outbound(Outbound { destination, .. }) => {
                    config.destinations.insert(Arc::clone(name), Arc::clone(destination));
                }
                InForce::Inbound { address, inbound, .. } => {
                    config.inbound.insert(*address, Arc::clone(inbound));
                }
            }
        }
        config
    }

    fn clusters_in_force(&self) -> HashMap<Arc<str>, Built> {
        let mut all = HashMap::new();
        for in_force in self.in_force.values() {
            if let InForce::Outbound(outbound) = in_force {
                let there =
                    outbound.clusters.iter().filter_map(|(name, built)| Some((name, built.as_ref()?)));
                all.extend(there.map(|(name, built)| (Arc::clone(name), built.clone())));
            }
        }
        all
    }

    // -- For people ------------------------------------------------------------------------------------

    /// What keeps a listener from being in force.
    fn missing(&self, name: &str) -> String {
        let Some(held) = self.listeners.get(name) else { return "it is not asked for".to_owned() };
        let listener = match &held.value {
            Value::Here(listener) => listener,
            Value::Awaited | Value::Absent => return lacks(Kind::Listener, name, held.refused.as_ref()),
        };
        let routes = match self.routes_of(listener) {
            Some(Ok(routes)) => routes,
            Some(Err(routes)) => {
                let refused = self.routes.get(&routes).and_then(|held| held.refused.as_ref());
                return lacks(Kind::Route, &routes, refused);
            }
            None => return "nothing".to_owned(),
        };
        let Listener::Outbound { opaque, .. } = listener.as_ref() else { return "nothing".to_owned() };
        let mut names = routes.iter().flat_map(|table| table.clusters.iter()).chain(opaque);
        let Some(name) = names.find(|name| !self.built.contains_key(*name)) else {
            return "nothing".to_owned();
        };
        match self.clusters.get(name) {
            Some(Held { value: Value::Here(settings), .. }) => {
                let name = eds_name(settings).unwrap_or(name);
                let refused = self.endpoints.get(name).and_then(|held| held.refused.as_ref());
                lacks(Kind::Endpoints, name, refused)
            }
            held => lacks(Kind::Cluster, name, held.and_then(|held| held.refused.as_ref())),
        }
    }
}

fn lacks(kind: Kind, name: &str, refused: Option<&Arc<str>>) -> String {
    match refused {
        Some(reason) => format!("the {kind} {name} was refused: {reason}"),
        None => format!("waits for the {kind} {name}"),
    }
}

/// Where limits are enforced and nothing is said about the protocol, HTTP is spoken: what began in a way that only
/// the application takes for HTTP would be carried as bytes, past the limits.
fn spoken(said: Protocol, limits: &InboundSettings) -> Protocol {
    if said == Protocol::Detect && limits.enforces() { Protocol::Http } else { said }
}

fn limiter(settings: &InboundSettings, previous: Option<&InForce>) -> Arc<RateLimiter> {
    let previous = match previous {
        Some(InForce::Inbound { inbound, .. }) => Some(inbound.limits.as_ref()),
        Some(InForce::Unknown(_) | InForce::Outbound(_)) | None => None,
    };
    Arc::new(RateLimiter::new(settings.clone(), previous))
}

#[cfg(test)]
mod tests;
