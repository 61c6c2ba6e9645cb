//! What the kinds share, the endpoints, and bytes of any kind.

use envoy_types::pb::envoy::config::core::v3::{
    HealthStatus, Locality, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::{Policy, policy::DropOverload};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{LbEndpoint, LocalityLbEndpoints};
use envoy_types::util::pack_any;
use proptest::prelude::*;

use super::*;
use crate::cluster::EndpointSettings;
use crate::xds::testing::{self, endpoint};

fn assignment(lb_endpoints: Vec<LbEndpoint>) -> ClusterLoadAssignment {
    let mut assignment = testing::endpoints("a", &[]);
    assignment.endpoints[0].lb_endpoints = lb_endpoints;
    assignment
}

fn one(lb_endpoint: LbEndpoint) -> Result<EndpointSettings, String> {
    let all = endpoints::decode(assignment(vec![lb_endpoint])).map_err(|error| error.to_string())?;
    Ok(all[0].clone())
}

fn address_of(endpoint: &mut LbEndpoint) -> &mut address::Address {
    let Some(HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier else { unreachable!() };
    endpoint.address.as_mut().unwrap().address.as_mut().unwrap()
}

#[test]
fn endpoints_have_address_weight_zone_and_health() {
    let mut second = endpoint("fd00::7", 80);
    second.load_balancing_weight = Some(google::UInt32Value { value: 7 });
    second.health_status = HealthStatus::Draining as i32;
    let mut all = assignment(vec![endpoint("10.0.0.1", 8080), endpoint("10.0.0.1", 8080)]);
    all.endpoints.push(LocalityLbEndpoints {
        locality: Some(Locality { zone: "z1".to_owned(), ..Locality::default() }),
        lb_endpoints: vec![second],
        ..LocalityLbEndpoints::default()
    });
    let all = endpoints::decode(all).unwrap();
    let expected = |address: &str, weight, zone: &str, healthy| EndpointSettings {
        address: address.parse().unwrap(),
        weight,
        zone: zone.into(),
        healthy,
    };
    assert_eq!(all, [expected("10.0.0.1:8080", 1, "", true), expected("[fd00::7]:80", 7, "z1", false)]);
}

#[test]
fn health_is_what_envoy_makes_of_it() {
    for (status, healthy) in [
        (HealthStatus::Unknown, true),
        (HealthStatus::Healthy, true),
        (HealthStatus::Degraded, true),
        (HealthStatus::Unhealthy, false),
        (HealthStatus::Draining, false),
        (HealthStatus::Timeout, false),
    ] {
        let mut endpoint = endpoint("10.0.0.1", 80);
        endpoint.health_status = status as i32;
        assert_eq!(one(endpoint).unwrap().healthy, healthy, "{status:?}");
    }
    let mut unknown = endpoint("10.0.0.1", 80);
    unknown.health_status = 99;
    assert!(one(unknown).unwrap_err().contains("health_status 99"));
}

#[test]
fn endpoints_that_cannot_be_called_are_refused() {
    let place = "endpoints[0].lb_endpoints[0]: ";
    assert_eq!(
        one(endpoint("backend", 80)).unwrap_err(),
        format!("{place}the address \"backend\" is not supported; it must be an IP address")
    );
    assert_eq!(
        one(endpoint("10.0.0.1", 0)).unwrap_err(),
        format!("{place}port_value 0 is not between 1 and 65535")
    );
    assert!(one(endpoint("10.0.0.1", 65_536)).is_err());
    assert_eq!(one(LbEndpoint::default()).unwrap_err(), format!("{place}there is no endpoint"));

    let mut weightless = endpoint("10.0.0.1", 80);
    weightless.load_balancing_weight = Some(google::UInt32Value { value: 0 });
    assert!(one(weightless).unwrap_err().contains("load_balancing_weight"));

    let mut named = endpoint("10.0.0.1", 80);
    named.host_identifier = Some(HostIdentifier::EndpointName("x".to_owned()));
    assert!(one(named).unwrap_err().contains("endpoint_name"));

    let mut udp = endpoint("10.0.0.1", 80);
    if let address::Address::SocketAddress(socket) = address_of(&mut udp) {
        socket.protocol = 1;
    }
    assert!(one(udp).unwrap_err().contains("other than TCP"));

    let mut port = endpoint("10.0.0.1", 80);
    if let address::Address::SocketAddress(socket) = address_of(&mut port) {
        socket.port_specifier = Some(PortSpecifier::NamedPort("http".to_owned()));
    }
    assert!(one(port).unwrap_err().contains("named_port"));

    let mut pipe = endpoint("10.0.0.1", 80);
    *address_of(&mut pipe) = address::Address::Pipe(Default::default());
    assert!(one(pipe).unwrap_err().contains("socket_address"));
}

#[test]
fn what_endpoints_lack_is_refused() {
    let mut dropping = testing::endpoints("a", &[1]);
    dropping.policy = Some(Policy { drop_overloads: vec![DropOverload::default()], ..Policy::default() });
    assert!(endpoints::decode(dropping).unwrap_err().to_string().contains("drop_overloads"));

    let mut spare = testing::endpoints("a", &[1]);
    spare.endpoints[0].priority = 1;
    assert!(endpoints::decode(spare.clone()).unwrap_err().to_string().contains("priority above 0"));
    spare.endpoints[0].lb_endpoints.clear();
    assert!(endpoints::decode(spare).unwrap().is_empty());
}

#[test]
fn formatters_are_refused_and_percent_signs_kept() {
    assert_eq!(literal("f", "100%% of %%x%%").unwrap(), "100% of %x%");
    assert_eq!(literal("f", "plain").unwrap(), "plain");
    for bad in ["%REQ(x)%", "50%", "a%b", "%%%"] {
        let error = literal("f", bad).unwrap_err().to_string();
        assert!(error.starts_with("f: the formatter in ") && error.contains("%%"), "{error}");
    }
}

#[test]
fn durations_are_bounded() {
    let time = |seconds, nanos| duration("f", google::Duration { seconds, nanos });
    assert_eq!(time(1, 500_000_000).unwrap(), Duration::from_millis(1_500));
    assert!(time(-1, 0).is_err() && time(0, -1).is_err() && time(0, 1_000_000_000).is_err());
    assert!(time(i64::MAX, 0).is_err());
    let zero = google::Duration { seconds: 0, nanos: 0 };
    assert_eq!(limit("f", Some(zero)).unwrap(), None);
}

#[test]
fn whole_numbers_of_a_struct_are_integers_again() {
    let json = serde_json::json!({"a": 5, "b": 0.5, "c": [true, null, "x"], "d": {"e": -3}});
    let back: serde_json::Value = metadata::ours(testing::ours(&json)).unwrap().unwrap();
    assert_eq!(back, json);
    assert!(metadata::ours::<serde_json::Value>(None).unwrap().is_none());
    let error = metadata::ours::<u32>(testing::ours(&json)).unwrap_err().to_string();
    assert!(error.starts_with("metadata fairlead.dev: "), "{error}");
}

#[test]
fn a_resource_over_the_limit_is_not_looked_at() {
    let any = google::Any { type_url: CLUSTER.to_owned(), value: vec![0; MAX_RESOURCE + 1] };
    let error = decode(Kind::Cluster, &"a".into(), &any).unwrap_err().to_string();
    assert!(error.contains("more than 16777216"), "{error}");
}

#[test]
fn the_type_may_have_any_prefix() {
    let mut any = pack_any(testing::cluster("a"));
    any.type_url = "envoy.config.cluster.v3.Cluster".to_owned();
    assert!(decode(Kind::Cluster, &"a".into(), &any).is_ok());
    assert!(decode(Kind::Listener, &"a".into(), &any).is_err());
    for kind in Kind::ALL {
        assert_eq!(super::kind(type_url(kind)), Some(kind));
    }
}

/// A good resource of each kind, to be damaged.
fn good(kind: Kind) -> Vec<u8> {
    use envoy_types::pb::envoy::config::route::v3::route::Action;
    match kind {
        Kind::Listener => testing::listener("a", "r").encode_to_vec(),
        Kind::Route => {
            testing::routes("a", vec![testing::route(Action::Route(testing::forward("c")))]).encode_to_vec()
        }
        Kind::Cluster => testing::cluster("a").encode_to_vec(),
        Kind::Endpoints => testing::endpoints("a", &[1, 2, 3]).encode_to_vec(),
    }
}

proptest! {
    #[test]
    fn bytes_of_any_kind_never_panic(
        kind in prop::sample::select(&Kind::ALL[..]),
        value in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let any = google::Any { type_url: type_url(kind).to_owned(), value };
        let _ = decode(kind, &"a".into(), &any);
    }

    #[test]
    fn damaged_resources_never_panic(
        kind in prop::sample::select(&Kind::ALL[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut value = good(kind);
        for (at, byte) in changes {
            let at = at.index(value.len());
            value[at] = byte;
        }
        let whole = google::Any { type_url: type_url(kind).to_owned(), value: value.clone() };
        let _ = decode(kind, &"inbound/10.0.0.1:80".into(), &whole);
        value.truncate(cut.index(value.len() + 1));
        let _ = decode(kind, &"a".into(), &google::Any { type_url: type_url(kind).to_owned(), value });
    }
}
