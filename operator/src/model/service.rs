//! A Service, as far as the mesh needs it.
//!
//! Narrow on purpose: with 10,000 Services in a cluster the API's own type would cost tens of megabytes, and
//! two narrow values that are equal mean that nothing has to be compiled again.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

use super::object::ObjectKey;

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// When it was made; absent in a directory.
    pub created: Option<Timestamp>,
    /// What its name stands for.
    pub kind: ServiceKind,
    /// TCP ports in the order written; others carry no calls that the mesh knows.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy: Local`: only endpoints of the caller's node may be used.
    pub local_traffic_only: bool,
    /// `sessionAffinity: ClientIP`.
    pub client_ip_affinity: bool,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// One address of each family.
    ClusterIp(Vec<IpAddr>),
    /// The addresses of its endpoints.
    Headless,
    /// Another name; the mesh has no part in it.
    ExternalName,
}

/// A TCP port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty for the only port of a Service.
    pub name: Arc<str>,
    /// Its number.
    pub number: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
}

/// What is spoken on a port, as far as it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP; HTTP/1.1 to the endpoints.
    Http,
    /// HTTP/2 with prior knowledge, gRPC.
    Http2,
    /// Bytes.
    Opaque,
    /// Not declared: the first bytes decide.
    Detect,
}

impl Service {
    /// The narrow part of an API object; none when it has no name.
    pub fn from_api(service: &core::Service) -> Option<Self> {
        let metadata = &service.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let key = ObjectKey::new(namespace, metadata.name.as_deref()?);
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let spec = service.spec.clone().unwrap_or_default();
        Some(Self {
            key,
            created,
            kind: ServiceKind::from_api(&spec),
            ports: spec.ports.iter().flatten().filter_map(ServicePort::from_api).collect(),
            local_traffic_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            client_ip_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
        })
    }

    /// The addresses that stand for the Service itself.
    pub fn cluster_ips(&self) -> &[IpAddr] {
        match &self.kind {
            ServiceKind::ClusterIp(addresses) => addresses,
            ServiceKind::Headless | ServiceKind::ExternalName => &[],
        }
    }

    /// Whether kube-proxy does something for it that the mesh does not: then it is left to kube-proxy, unless
    /// a route names it. The text says what.
    pub fn left_to_kube_proxy(&self) -> Option<&'static str> {
        if self.client_ip_affinity {
            Some("sessionAffinity: ClientIP")
        } else if self.local_traffic_only {
            Some("internalTrafficPolicy: Local")
        } else {
            None
        }
    }
}

impl ServiceKind {
    fn from_api(spec: &core::ServiceSpec) -> Self {
        if spec.type_.as_deref() == Some("ExternalName") {
            return Self::ExternalName;
        }
        let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        if all.clone().any(|address| address == "None") {
            return Self::Headless;
        }
        let mut addresses = Vec::new();
        for address in all.filter_map(|address| address.parse().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Self::ClusterIp(addresses)
    }
}

impl ServicePort {
    fn from_api(port: &core::ServicePort) -> Option<Self> {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            return None;
        }
        let name = port.name.as_deref().unwrap_or_default();
        Some(Self {
            name: name.into(),
            number: u16::try_from(port.port).ok().filter(|number| *number > 0)?,
            protocol: Protocol::of(port.app_protocol.as_deref(), name),
        })
    }
}

impl Protocol {
    /// `appProtocol` first, then the port's name up to its first hyphen, as Istio reads it. An `appProtocol`
    /// that says nothing to us leaves the decision to the name.
    pub fn of(app_protocol: Option<&str>, port_name: &str) -> Self {
        app_protocol
            .and_then(Self::from_word)
            .or_else(|| Self::from_word(port_name.split('-').next().unwrap_or_default()))
            .unwrap_or(Self::Detect)
    }

    fn from_word(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "http" | "http1" | "ws" | "kubernetes.io/ws" | "grpcweb" => Some(Self::Http),
            "http2" | "h2c" | "grpc" | "kubernetes.io/h2c" => Some(Self::Http2),
            "tcp" | "tls" | "https" | "wss" | "kubernetes.io/wss" | "mysql" | "redis" | "mongo"
            | "mongodb" | "postgres" | "postgresql" | "amqp" | "kafka" | "smtp" | "ldap" | "ssh" | "ftp" => {
                Some(Self::Opaque)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_is_the_app_protocol_then_the_name() {
        let table = [
            (Some("http"), "tcp", Protocol::Http),
            (Some("HTTP"), "", Protocol::Http),
            (Some("kubernetes.io/h2c"), "http", Protocol::Http2),
            (Some("kubernetes.io/ws"), "", Protocol::Http),
            (Some("kubernetes.io/wss"), "", Protocol::Opaque),
            (Some("mysql"), "http", Protocol::Opaque),
            (Some("example.com/unheard-of"), "grpc-api", Protocol::Http2),
            (Some("example.com/unheard-of"), "web", Protocol::Detect),
            (None, "http", Protocol::Http),
            (None, "http-metrics", Protocol::Http),
            (None, "http2", Protocol::Http2),
            (None, "grpc", Protocol::Http2),
            (None, "https-admin", Protocol::Opaque),
            (None, "tls", Protocol::Opaque),
            (None, "redis-cache", Protocol::Opaque),
            (None, "httpbin", Protocol::Detect),
            (None, "", Protocol::Detect),
        ];
        for (app_protocol, name, expected) in table {
            assert_eq!(Protocol::of(app_protocol, name), expected, "{app_protocol:?} {name:?}");
        }
    }

    #[test]
    fn headless_external_and_two_families() {
        let kind = |spec: serde_json::Value| {
            let service =
                serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}, "spec": spec}));
            Service::from_api(&service.unwrap()).unwrap().kind
        };
        assert_eq!(kind(serde_json::json!({"clusterIP": "None"})), ServiceKind::Headless);
        assert_eq!(kind(serde_json::json!({"type": "ExternalName"})), ServiceKind::ExternalName);
        assert_eq!(
            kind(serde_json::json!({"clusterIP": "10.96.3.7", "clusterIPs": ["10.96.3.7", "fd79::7"]})),
            ServiceKind::ClusterIp(vec!["10.96.3.7".parse().unwrap(), "fd79::7".parse().unwrap()])
        );
        assert_eq!(kind(serde_json::json!({})), ServiceKind::ClusterIp(vec![]));
    }
}
