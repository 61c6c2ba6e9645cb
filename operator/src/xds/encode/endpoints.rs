//! `ClusterLoadAssignment`: the endpoints of a Service port, by zone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Locality};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use prost::Message;

use super::{count, socket};
use crate::model::endpoints::Endpoints;
use crate::model::mesh::Port;

/// The endpoints of `port`.
pub fn encode(port: &Port) -> Vec<u8> {
    assignment(&port.name, &port.endpoints).encode_to_vec()
}

/// One endpoint, in a cluster of its own.
pub fn pinned(name: &str, address: SocketAddr) -> ClusterLoadAssignment {
    let endpoints = LocalityLbEndpoints {
        locality: Some(Locality::default()),
        lb_endpoints: vec![endpoint(address)],
        load_balancing_weight: Some(count(1)),
        ..Default::default()
    };
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: vec![endpoints], ..Default::default() }
}

/// Every locality and endpoint has a weight (gRPC leaves out those without), and there is one priority.
fn assignment(name: &str, endpoints: &Endpoints) -> ClusterLoadAssignment {
    let mut zones: BTreeMap<&str, Vec<LbEndpoint>> = BTreeMap::new();
    for one in endpoints.called() {
        zones.entry(&one.zone).or_default().push(endpoint(one.address));
    }
    let localities = zones.into_iter().map(|(zone, lb_endpoints)| LocalityLbEndpoints {
        locality: Some(Locality { zone: zone.to_owned(), ..Default::default() }),
        load_balancing_weight: Some(count(u32::try_from(lb_endpoints.len()).unwrap_or(u32::MAX))),
        lb_endpoints,
        ..Default::default()
    });
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: localities.collect(),
        ..Default::default()
    }
}

fn endpoint(address: SocketAddr) -> LbEndpoint {
    LbEndpoint {
        health_status: HealthStatus::Healthy.into(),
        load_balancing_weight: Some(count(1)),
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(socket(address)),
            ..Default::default()
        })),
        ..Default::default()
    }
}
