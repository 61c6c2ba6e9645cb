//! `ClusterLoadAssignment`: the endpoints of a cluster.
//!
//! Ignored: `overprovisioning_factor` and the weights of localities (there is one priority, and endpoints
//! are weighed one by one), `endpoint_stale_after` (the last good list is kept), `hostname`,
//! `health_check_config` and `additional_addresses` of an endpoint, its metadata. `DEGRADED` is healthy.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::address::Address as AnyAddress;
use envoy_types::pb::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol};
use envoy_types::pb::envoy::config::core::v3::{Address, HealthStatus, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};

use super::Rejection;
use crate::cluster::EndpointSettings;

/// Of one cluster. EndpointSlices of Kubernetes are known to reach a tenth of it.
const MAX_ENDPOINTS: usize = 100_000;

/// Decodes the endpoints of a cluster, in the order received. An address that stands twice counts once.
pub(super) fn decode(assignment: ClusterLoadAssignment) -> Result<Vec<EndpointSettings>, Rejection> {
    if let Some(policy) = assignment.policy
        && !policy.drop_overloads.is_empty()
    {
        return Err(Rejection::unsupported("policy.drop_overloads", "limits are the target's"));
    }
    let count: usize = assignment.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum();
    if count > MAX_ENDPOINTS {
        return Err(Rejection::new(format!("it has {count} endpoints, more than {MAX_ENDPOINTS}")));
    }
    let mut seen = HashSet::with_capacity(count);
    let mut all = Vec::with_capacity(count);
    for (index, locality) in assignment.endpoints.into_iter().enumerate() {
        let zone = zone_of(&locality).map_err(|error| error.within(format_args!("endpoints[{index}]")))?;
        for (at, endpoint) in locality.lb_endpoints.into_iter().enumerate() {
            let endpoint = decode_one(endpoint, &zone)
                .map_err(|error| error.within(format_args!("endpoints[{index}].lb_endpoints[{at}]")))?;
            if seen.insert(endpoint.address) {
                all.push(endpoint);
            }
        }
    }
    Ok(all)
}

fn zone_of(locality: &LocalityLbEndpoints) -> Result<Arc<str>, Rejection> {
    if locality.lb_config.is_some() {
        return Err(Rejection::unsupported("lb_config", "endpoints must be in `lb_endpoints`"));
    }
    if locality.priority > 0 && !locality.lb_endpoints.is_empty() {
        return Err(Rejection::unsupported("priority above 0", "there is one priority"));
    }
    Ok(locality.locality.as_ref().map_or_else(|| Arc::from(""), |locality| locality.zone.as_str().into()))
}

fn decode_one(endpoint: LbEndpoint, zone: &Arc<str>) -> Result<EndpointSettings, Rejection> {
    let weight = endpoint.load_balancing_weight.map_or(1, |weight| weight.value);
    if weight == 0 {
        return Err(Rejection::new("load_balancing_weight must be at least 1"));
    }
    let healthy = match HealthStatus::try_from(endpoint.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded) => true,
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) => false,
        Err(_) => return Err(Rejection::new(format!("health_status {} is unknown", endpoint.health_status))),
    };
    let address = match endpoint.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => address(endpoint.address)?,
        Some(HostIdentifier::EndpointName(_)) => {
            return Err(Rejection::unsupported("endpoint_name", "endpoints must be written out"));
        }
        None => return Err(Rejection::new("there is no endpoint")),
    };
    Ok(EndpointSettings { address, weight, zone: Arc::clone(zone), healthy })
}

fn address(address: Option<Address>) -> Result<SocketAddr, Rejection> {
    match address.and_then(|address| address.address) {
        Some(AnyAddress::SocketAddress(address)) => socket_address(&address),
        Some(AnyAddress::Pipe(_) | AnyAddress::EnvoyInternalAddress(_)) => {
            Err(Rejection::unsupported("this kind of address", "it must be a `socket_address`"))
        }
        None => Err(Rejection::new("there is no address")),
    }
}

fn socket_address(address: &SocketAddress) -> Result<SocketAddr, Rejection> {
    if address.protocol != Protocol::Tcp as i32 {
        return Err(Rejection::unsupported("a protocol other than TCP", "it must be TCP"));
    }
    let ip: IpAddr = address.address.parse().map_err(|_| {
        let what = format!("the address {:?}", address.address);
        Rejection::unsupported(&what, "it must be an IP address")
    })?;
    match address.port_specifier {
        Some(PortSpecifier::PortValue(port)) => match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(SocketAddr::new(ip, port)),
            _ => Err(Rejection::new(format!("port_value {port} is not between 1 and 65535"))),
        },
        Some(PortSpecifier::NamedPort(_)) => {
            Err(Rejection::unsupported("named_port", "it must be a port_value"))
        }
        None => Err(Rejection::new("there is no port_value")),
    }
}
