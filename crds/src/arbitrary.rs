//! Strategies for property tests: any object that [`crate::validate`] accepts, reaching every field.
//!
//! Objects live in [`NAMESPACE`] and mostly name [`SERVICES`] with [`PORTS`], so that a test that has these
//! Services reaches backends, and some of them dangle.

mod text;
mod traffic;

use kube::core::ObjectMeta;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};

use crate::{
    Algorithm, CountedError, Ejection, Key, KeyType, Limit, LimitResponse, LimitTarget, LimitTargetKind,
    Mode, Object, OutlierDetection, OutlierDetectionSpec, ParentReference, RateLimitPolicy,
    RateLimitPolicySpec, Recovery, ServiceKind, ServiceRoute, ServiceRouteSpec, ServiceTarget,
};
use text::{duration, header_name, label, name, unique};
use traffic::{headers, rule};

/// Where the objects are.
pub const NAMESPACE: &str = "shop";
/// Services that references mostly name.
pub const SERVICES: [&str; 3] = ["reviews", "reviews-v2", "orders"];
/// Names of the ports of these Services, in the order of [`PORTS`].
pub const PORT_NAMES: [&str; 2] = ["http", "grpc"];
/// Numbers of the ports of these Services.
pub const PORTS: [u16; 2] = [9080, 9090];

/// An object of any kind.
pub fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        3 => service_route().prop_map(|route| Object::ServiceRoute(Box::new(route))),
        1 => outlier_detection().prop_map(|policy| Object::OutlierDetection(Box::new(policy))),
        2 => rate_limit_policy().prop_map(|policy| Object::RateLimitPolicy(Box::new(policy))),
    ]
}

/// A ServiceRoute.
pub fn service_route() -> impl Strategy<Value = ServiceRoute> {
    let rules = vec(rule(), 0..5).prop_map(|mut rules| {
        let mut seen = Vec::new();
        for rule in &mut rules {
            rule.name = rule.name.take().filter(|name| !seen.contains(name));
            seen.extend(rule.name.clone());
        }
        rules
    });
    let spec = (
        vec(parent(), 1..4).prop_map(|parents| unique(parents, |parent| (parent.name.clone(), parent.port))),
        rules,
        option::of(traffic::load_balancer()),
        option::of(traffic::connection_pool()),
        option::of(traffic::retry_constraint()),
    );
    let spec = spec.prop_map(|(parent_refs, rules, load_balancer, connection_pool, retry_constraint)| {
        ServiceRouteSpec { parent_refs, rules, load_balancer, connection_pool, retry_constraint }
    });
    (metadata(), spec).prop_map(|(metadata, spec)| ServiceRoute { metadata, spec, status: None })
}

/// An OutlierDetection.
pub fn outlier_detection() -> impl Strategy<Value = OutlierDetection> {
    use CountedError::{ConnectFailure, GatewayError, Reset, ServerError, Timeout};
    let errors = subsequence(vec![ServerError, GatewayError, ConnectFailure, Timeout, Reset], 1..=5);
    let ejection = (duration(1, 600_000), duration(0, 600_000), 1..=100_u32, 0..=100_u32).prop_map(
        |(base_time, more, max_percent, min_healthy_percent)| Ejection {
            max_time: text::written(base_time.get() + more.get()),
            base_time,
            max_percent,
            min_healthy_percent,
        },
    );
    let targets = vec(service_target(), 1..4)
        .prop_map(|targets| unique(targets, |target| (target.name.clone(), target.section_name.clone())));
    let spec = (targets, mode(), prop_oneof![1..20_u32, Just(1_000_000)], errors, ejection, 1..=1000_u32);
    let spec = spec.prop_map(|(target_refs, mode, consecutive_errors, errors, ejection, probes)| {
        let recovery = Recovery { probes };
        OutlierDetectionSpec { target_refs, mode, consecutive_errors, errors, ejection, recovery }
    });
    (metadata(), spec).prop_map(|(metadata, spec)| OutlierDetection { metadata, spec, status: None })
}

/// A RateLimitPolicy.
pub fn rate_limit_policy() -> impl Strategy<Value = RateLimitPolicy> {
    let targets = vec(limit_target(), 1..4).prop_map(|targets| {
        unique(targets, |target| (target.kind, target.name.clone(), target.section_name.clone()))
    });
    let limits = vec(limit(), 1..5).prop_map(|limits| unique(limits, |limit| limit.name.clone()));
    let response = (400..=599_u16, text::body(), headers())
        .prop_map(|(status, body, headers)| LimitResponse { status, body, headers });
    let spec = (targets, mode(), vec(traffic::route_match(), 0..3), limits, response);
    let spec = spec.prop_map(|(target_refs, mode, from, limits, response)| RateLimitPolicySpec {
        target_refs,
        mode,
        from,
        limits,
        response,
    });
    (metadata(), spec).prop_map(|(metadata, spec)| RateLimitPolicy { metadata, spec, status: None })
}

fn metadata() -> impl Strategy<Value = ObjectMeta> {
    name().prop_map(|name| ObjectMeta {
        name: Some(name),
        namespace: Some(NAMESPACE.to_owned()),
        ..ObjectMeta::default()
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![4 => Just(Mode::Enforce), 1 => Just(Mode::Shadow), 1 => Just(Mode::Disabled)]
}

/// The core group, written or not.
fn core_group() -> impl Strategy<Value = Option<String>> {
    option::of(Just(String::new()))
}

fn parent() -> impl Strategy<Value = ParentReference> {
    (core_group(), service(), option::of(port())).prop_map(|(group, name, port)| ParentReference {
        group,
        kind: ServiceKind::Service,
        name,
        port,
    })
}

fn service() -> impl Strategy<Value = String> {
    prop_oneof![8 => select(&SERVICES[..]).prop_map(str::to_owned), 1 => name()]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![8 => select(&PORTS[..]), 1 => 1..=u16::MAX]
}

fn port_name() -> impl Strategy<Value = String> {
    prop_oneof![4 => select(&PORT_NAMES[..]).prop_map(str::to_owned), 1 => label()]
}

fn service_target() -> impl Strategy<Value = ServiceTarget> {
    (core_group(), service(), option::of(port_name())).prop_map(|(group, name, section_name)| ServiceTarget {
        group,
        kind: ServiceKind::Service,
        name,
        section_name,
    })
}

fn limit_target() -> impl Strategy<Value = LimitTarget> {
    (any::<bool>(), any::<bool>(), service(), option::of(port_name())).prop_map(
        |(is_route, with_group, name, section_name)| {
            let (kind, group) = if is_route {
                (LimitTargetKind::ServiceRoute, crate::GROUP)
            } else {
                (LimitTargetKind::Service, "")
            };
            LimitTarget { group: with_group.then(|| group.to_owned()), kind, name, section_name }
        },
    )
}

fn limit() -> impl Strategy<Value = Limit> {
    let requests = || prop_oneof![1..100_u32, Just(1_000_000_000)];
    let algorithm = select(&[Algorithm::TokenBucket, Algorithm::FixedWindow][..]);
    let key = vec(key(), 0..5).prop_map(|keys| unique(keys, |key| (key.kind.as_str(), key.name.clone())));
    let matches = vec(traffic::route_match(), 0..3);
    (label(), matches, key, requests(), duration(1_000, 86_400_000), option::of(requests()), algorithm)
        .prop_map(|(name, matches, key, requests, per, burst, algorithm)| Limit {
            name,
            matches,
            key,
            requests,
            per,
            burst: burst.filter(|_| algorithm == Algorithm::TokenBucket),
            algorithm,
        })
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        header_name().prop_map(|name| Key { kind: KeyType::Header, name: Some(name) }),
        text::any_name().prop_map(|name| Key { kind: KeyType::QueryParam, name: Some(name) }),
        select(&[KeyType::Path, KeyType::Method, KeyType::SourceAddress][..])
            .prop_map(|kind| Key { kind, name: None }),
    ]
}

#[cfg(test)]
mod tests;
