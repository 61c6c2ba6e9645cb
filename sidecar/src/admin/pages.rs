//! `/config` and `/clusters` as JSON: what is in force, in the words of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::{Value, json};

use crate::admin::words;
use crate::cluster::{Cluster, EndpointStatus};
use crate::config::{Destination, Known, ProxyConfig, Service};
use crate::route::{Action, Route, RouteTable};
use crate::xds::client;

/// What is in force, and what is awaited.
pub fn config(config: &ProxyConfig, state: &client::State) -> Value {
    let listeners: BTreeMap<_, _> = state
        .listeners
        .iter()
        .map(|(name, known)| {
            let words = match known {
                Known::InForce => "in force".to_owned(),
                Known::Absent => "absent: the server knows no such listener".to_owned(),
                Known::Awaited(what) => format!("awaited: {what}"),
            };
            (&**name, words)
        })
        .collect();
    let destinations: BTreeMap<_, _> = config
        .destinations
        .iter()
        .map(|(name, destination)| (&**name, one_destination(destination)))
        .collect();
    let inbound: BTreeMap<_, _> = config
        .inbound
        .iter()
        .map(|(address, inbound)| {
            let limits = inbound.limits.report().into_iter().map(|limit| {
                json!({
                    "service": &*limit.service,
                    "policy": &*limit.policy,
                    "limit": &*limit.limit,
                    "shadow": limit.shadow,
                    "admitted": limit.admitted,
                    "refused": limit.refused,
                    "wouldRefuse": limit.would_refuse,
                })
            });
            let limits: Vec<_> = limits.collect();
            let shown = json!({
                "protocol": words::word(inbound.protocol),
                "limits": limits,
                "settings": inbound.limits.settings,
            });
            (address.to_string(), shown)
        })
        .collect();
    json!({
        "xds": {
            "connected": state.connected,
            "responses": state.responses,
            "nacks": state.nacks,
            "failures": state.failures,
            "lastFailure": state.last_failure.as_deref(),
            "lastNack": state.last_nack.as_deref(),
        },
        "listeners": listeners,
        "destinations": destinations,
        "inbound": inbound,
    })
}

fn one_destination(destination: &Destination) -> Value {
    match destination {
        Destination::Unknown => json!({ "unknown": true }),
        Destination::Known(service) => json!({
            "protocol": words::word(service.protocol),
            "routes": service.routes.as_ref().map(|table| routes(table, service)),
            "opaque": service.opaque.as_ref().map(|cluster| &*cluster.settings.name),
        }),
    }
}

fn routes(table: &RouteTable, service: &Service) -> Value {
    let hosts = table.virtual_hosts.iter().map(|host| {
        let rules: Vec<_> = host.routes.iter().map(|rule| one_rule(rule, table, service)).collect();
        json!({ "domains": host.domains, "rules": rules })
    });
    hosts.collect()
}

fn one_rule(route: &Route, table: &RouteTable, service: &Service) -> Value {
    let action = match &route.action {
        Action::Forward { backends, rewrite } => {
            let backends = backends.list().iter().map(|backend| {
                let name = table.clusters.get(backend.cluster).map(|name| &**name);
                let exists = service.clusters.get(backend.cluster).is_some_and(Option::is_some);
                json!({ "cluster": name, "weight": backend.weight, "exists": exists })
            });
            json!({ "backends": backends.collect::<Vec<_>>(), "urlRewrite": words::rewrite(rewrite) })
        }
        other => words::answer(other),
    };
    json!({
        "name": &*route.name,
        "target": route.target.as_ref().and_then(|target| target.to_str().ok()),
        "matches": words::matches(&route.matcher),
        "requestHeaderModifier": words::changes(&route.request_headers),
        "responseHeaderModifier": words::changes(&route.response_headers),
        "action": action,
        "timeouts": {
            "request": route.timeout.map(words::time),
            "backendRequest": route.per_try_timeout.map(words::time),
            "idle": route.idle_timeout.map(words::time),
        },
        "retry": words::retry(&route.retry),
    })
}

/// Each cluster in force, with the state of its endpoints and why.
pub fn clusters(config: &ProxyConfig, now: Instant) -> Value {
    let mut all: BTreeMap<&str, &Arc<Cluster>> = BTreeMap::new();
    for cluster in in_force(config) {
        all.insert(&cluster.settings.name, cluster);
    }
    all.into_iter()
        .map(|(name, cluster)| (name.to_owned(), one_cluster(cluster, now)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The clusters that any destination leads to; one may come several times.
pub fn in_force(config: &ProxyConfig) -> impl Iterator<Item = &Arc<Cluster>> {
    config
        .destinations
        .values()
        .filter_map(|destination| match &**destination {
            Destination::Known(service) => Some(service),
            Destination::Unknown => None,
        })
        .flat_map(|service| service.clusters.iter().flatten().chain(&service.opaque))
}

fn one_cluster(cluster: &Cluster, now: Instant) -> Value {
    let settings = &cluster.settings;
    let endpoints = cluster.endpoints.iter().map(|endpoint| {
        let status = endpoint.status(now, settings.outlier.as_ref());
        let state = match &status {
            EndpointStatus::In { .. } => "in",
            EndpointStatus::Unhealthy => "unhealthy",
            EndpointStatus::Ejected { shadow: false, .. } => "ejected",
            EndpointStatus::Probing { shadow: false, .. } => "probing",
            EndpointStatus::Ejected { .. } | EndpointStatus::Probing { .. } => "in",
        };
        json!({
            "address": endpoint.address(),
            "zone": &*endpoint.settings.zone,
            "weight": endpoint.settings.weight,
            "inFlight": endpoint.in_flight(),
            "state": state,
            "why": status.to_string(),
        })
    });
    let ejections = &cluster.live.ejections;
    let outlier = settings.outlier.as_ref();
    json!({
        "loadBalancer": { "type": words::word(settings.balance) },
        "protocol": words::word(settings.protocol),
        "endpoints": endpoints.collect::<Vec<_>>(),
        "panicking": cluster.panicking(),
        "pool": cluster.live.pool.usage(),
        "connectionPool": words::pool(&settings.pool),
        "retryConstraint": words::budget(&settings.budget),
        "outlierDetection": outlier.map(|outlier| words::outlier(outlier, settings.panic_threshold)),
        "ejections": {
            "ejected": ejections.ejected.load(Ordering::Relaxed),
            "returned": ejections.returned.load(Ordering::Relaxed),
            "prevented": ejections.prevented.load(Ordering::Relaxed),
            "failedProbes": ejections.failed_probes.load(Ordering::Relaxed),
            "shadow": ejections.shadow.load(Ordering::Relaxed),
        },
    })
}
