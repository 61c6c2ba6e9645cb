//! The YAML of Services and EndpointSlices, as `kubectl apply` takes it.

use std::fmt::Write;
use std::net::IpAddr;

/// A Service with one port, named so that its protocol is known: `http`, `h2c`, `grpc`, `tcp-redis`.
pub fn service(namespace: &str, name: &str, cluster_ip: &str, port: u16, port_name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  clusterIP: {cluster_ip}
  ports: [{{name: {port_name}, port: {port}, protocol: TCP}}]
"
    )
}

/// One endpoint of a slice.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where it listens.
    pub address: IpAddr,
    /// Gets traffic.
    pub ready: bool,
    /// Still answers while it ends.
    pub serving: bool,
    /// Ends.
    pub terminating: bool,
    /// Its zone; empty: none.
    pub zone: String,
}

impl Endpoint {
    /// One that is ready.
    pub fn ready(address: IpAddr) -> Self {
        Self { address, ready: true, serving: true, terminating: false, zone: String::new() }
    }

    /// One that ends but still answers.
    pub fn terminating(address: IpAddr) -> Self {
        Self { address, ready: false, serving: true, terminating: true, zone: String::new() }
    }
}

/// The EndpointSlice of a Service's port.
pub fn slice(namespace: &str, service: &str, port: u16, port_name: &str, endpoints: &[Endpoint]) -> String {
    let family = if endpoints.iter().any(|one| one.address.is_ipv6()) { "IPv6" } else { "IPv4" };
    let mut yaml = format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {family}
ports: [{{name: {port_name}, port: {port}, protocol: TCP}}]
"
    );
    yaml += if endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" };
    for Endpoint { address, ready, serving, terminating, zone } in endpoints {
        let zone = if zone.is_empty() { String::new() } else { format!(", zone: {zone}") };
        let conditions = format!("{{ready: {ready}, serving: {serving}, terminating: {terminating}}}");
        writeln!(yaml, "- {{addresses: [\"{address}\"], conditions: {conditions}{zone}}}")
            .expect("a string grows");
    }
    yaml
}
