//! A small mesh for one test: a folder of YAML, an operator on it, sidecars, backends on loopback.
//!
//! Each world has a network 127.A.B.0/24 of its own, so that endpoints can have different addresses and
//! one port, and tests can run side by side. Everything ends with the world.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::backend::{Backend, Behaviour};
use crate::client;
use crate::manifest::{self, Endpoint};
use crate::operator::Operator;
use crate::program;
pub use crate::sidecar::{Sidecar, SidecarFlags};
use crate::until::{eventually, holds};

/// A small mesh.
#[derive(Debug)]
pub struct World {
    /// The folder that the operator reads.
    pub source: PathBuf,
    /// Where the programs' logs are.
    pub logs: PathBuf,
    /// The operator, once started.
    pub operator: Option<Operator>,
    network: [u8; 2],
    services: HashMap<String, Service>,
    hosts: u8,
    folder: TempDir,
    _reserved: TcpListener,
}

/// A Service that the world knows.
#[derive(Debug, Clone)]
struct Service {
    port: u16,
    protocol: String,
    target_port: u16,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty one.
    pub fn new() -> Self {
        let (network, reserved) = reserve_network();
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        Self {
            source,
            logs: program::logs(),
            operator: None,
            network,
            services: HashMap::new(),
            hosts: 0,
            folder,
            _reserved: reserved,
        }
    }

    /// An address of this world's network that nobody has yet.
    pub fn host(&mut self) -> IpAddr {
        self.hosts += 1;
        let [a, b] = self.network;
        Ipv4Addr::new(127, a, b, self.hosts).into()
    }

    /// A folder of this test's own, beside the source.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file of the source whole: the operator never sees half of it.
    pub fn apply(&self, file: &str, yaml: &str) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, yaml).unwrap();
        fs::rename(draft, self.source.join(format!("{file}.yaml"))).unwrap();
    }

    /// Removes a file of the source.
    pub fn remove(&self, file: &str) {
        fs::remove_file(self.source.join(format!("{file}.yaml"))).unwrap();
    }

    /// Adds the Service `shop/reviews` with a port of this protocol (`http`, `h2c`, `grpc`, `tcp`); its
    /// endpoints listen on `port` too.
    pub fn service(&mut self, service: &str, port: u16, protocol: &str) {
        let number = u8::try_from(self.services.len() + 1).expect("a world is small");
        let (namespace, name) = service.split_once('/').expect("NAMESPACE/NAME");
        let cluster_ip = format!("10.{}.{}.{number}", self.network[0], self.network[1]);
        self.apply(
            &format!("{namespace}.{name}.service"),
            &manifest::service(namespace, name, &cluster_ip, port, protocol),
        );
        let known = Service { port, protocol: protocol.to_owned(), target_port: port };
        self.services.insert(service.to_owned(), known);
    }

    /// Writes the Service's EndpointSlice.
    pub fn endpoints(&self, service: &str, endpoints: &[Endpoint]) {
        let (namespace, name) = service.split_once('/').expect("NAMESPACE/NAME");
        let Service { target_port, protocol, .. } = &self.services[service];
        self.apply(
            &format!("{namespace}.{name}.endpoints"),
            &manifest::slice(namespace, name, *target_port, protocol, endpoints),
        );
    }

    /// The same, all of them ready.
    pub fn ready_endpoints(&self, service: &str, addresses: &[IpAddr]) {
        self.endpoints(service, &addresses.iter().copied().map(Endpoint::ready).collect::<Vec<_>>());
    }

    /// Starts one backend of a Service at an address of its own, without listing it as an endpoint.
    pub async fn backend(&mut self, service: &str, behaviour: Behaviour) -> Backend {
        let address = SocketAddr::new(self.host(), self.services[service].port);
        let name = format!("{}-{}", service.replace('/', "-"), self.hosts);
        Backend::start(&name, address, behaviour).await
    }

    /// Adds a Service with `count` backends that answer 200, and their endpoints.
    pub async fn backends(&mut self, service: &str, port: u16, protocol: &str, count: usize) -> Vec<Backend> {
        self.service(service, port, protocol);
        let mut backends = Vec::new();
        for _ in 0..count {
            backends.push(self.backend(service, Behaviour::Ok).await);
        }
        self.ready_endpoints(service, &backends.iter().map(|one| one.address.ip()).collect::<Vec<_>>());
        backends
    }

    /// Starts the operator, or starts it again at the addresses that it had, and waits until it is ready.
    pub async fn start_operator(&mut self) -> &Operator {
        let addresses = match self.operator.take() {
            Some(mut old) => {
                old.program.kill();
                [old.xds, old.admin, old.metrics]
            }
            // Of the world's own network: while it is down, no call of another test leaves from its port.
            None => [SocketAddr::new(self.host(), 0); 3],
        };
        let operator = Operator::start(Some(&self.source), addresses, &self.logs).await;
        self.operator.insert(operator)
    }

    /// The operator.
    pub fn operator(&self) -> &Operator {
        self.operator.as_ref().expect("the test has started the operator")
    }

    /// Starts a sidecar and waits until all that it listens for is in force.
    pub async fn sidecar(&self, flags: &SidecarFlags) -> Sidecar {
        Sidecar::start(flags, flags.operator.unwrap_or_else(|| self.operator().xds), &self.logs).await
    }

    /// Starts a sidecar and waits only until it listens.
    pub async fn sidecar_unready(&self, flags: &SidecarFlags) -> Sidecar {
        Sidecar::start_unready(flags, flags.operator.unwrap_or_else(|| self.operator().xds), &self.logs).await
    }

    /// The operator's list of objects with their status.
    pub async fn objects(&self) -> Vec<Value> {
        let answer = client::get(self.operator().admin, "/objects").await.unwrap();
        answer.json()["items"].as_array().cloned().expect("/objects is a List")
    }

    /// One object with its status, if the operator knows it.
    pub async fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects().await.into_iter().find(|object| {
            object["kind"] == kind
                && object["metadata"]["namespace"] == namespace
                && object["metadata"]["name"] == name
        })
    }

    /// Waits until the object's condition has this status; returns the condition and the time it took.
    pub async fn condition(&self, object: (&str, &str, &str), kind: &str, status: &str) -> (Value, Duration) {
        let (object_kind, namespace, name) = object;
        eventually(&format!("{object_kind} {namespace}/{name} has {kind}={status}"), || async {
            let object = self.object(object_kind, namespace, name).await?;
            let conditions = object["status"]["conditions"].as_array()?;
            conditions.iter().find(|one| one["type"] == kind && one["status"] == status).cloned()
        })
        .await
    }

    /// Waits until every sidecar that it concerns runs the object's newest generation.
    pub async fn programmed(&self, kind: &str, namespace: &str, name: &str) -> Duration {
        holds(&format!("{kind} {namespace}/{name} is programmed"), || async {
            let Some(object) = self.object(kind, namespace, name).await else { return false };
            let generation = &object["metadata"]["generation"];
            let rollout = &object["status"]["rollout"];
            rollout["generation"] == *generation
                && rollout["subscribed"].as_u64().is_some_and(|count| count > 0)
                && rollout["acked"] == rollout["subscribed"]
        })
        .await
    }
}

/// A network 127.A.B.0/24 that no other world on this machine has, as long as the listener lives, and none of this
/// process had: a test's backends may still be closing when its next world begins.
fn reserve_network() -> ([u8; 2], TcpListener) {
    static WORLDS: AtomicU32 = AtomicU32::new(0);
    let world = WORLDS.fetch_add(1, Ordering::Relaxed);
    let start = std::process::id().wrapping_mul(2_654_435_761).wrapping_add(world);
    (0..)
        .map(|step: u32| start.wrapping_add(step).to_be_bytes())
        .map(|[_, _, a, b]| [a % 250 + 2, b])
        .find_map(|[a, b]| {
            let lock = SocketAddr::from(([127, a, b, 254], 7));
            TcpListener::bind(lock).ok().map(|listener| ([a, b], listener))
        })
        .expect("some network is free")
}
