//! Real Envoy, subscribed to the operator: what the operator says is what Envoy does.
//!
//! ```text
//! caller --> static listener on loopback --RDS--> routes --CDS, EDS--> endpoints
//!            (wildcard LDS beside it: the operator's own listeners, which bind no port)
//! ```
//!
//! Everything comes over one ADS stream, incremental or state of the world. Envoy's admin page says what it
//! took and what it refused.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::client;
use crate::program::{self, Program};
use crate::until::{answers, eventually};
use crate::world::World;

/// Which of the two protocols Envoy speaks with the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `DeltaAggregatedResources`.
    Delta,
    /// `StreamAggregatedResources`.
    StateOfTheWorld,
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// The program.
    pub program: Program,
    /// Its admin page.
    pub admin: SocketAddr,
}

/// The subscriptions whose every statistic must be fine, by what its name holds.
const SUBSCRIPTIONS: [&str; 4] = ["listener_manager.lds.", "cluster_manager.cds.", ".rds.", "cluster."];

impl Envoy {
    /// Starts Envoy on the world's operator with a listener for each of `calls` (`shop/reviews:9080`), and
    /// waits until all of them have their routes.
    pub async fn start(world: &World, protocol: Protocol, calls: &[&str]) -> Self {
        let bootstrap = bootstrap(world.operator().xds, protocol, calls);
        let (file, admin) = (world.folder().join("envoy.json"), world.folder().join("envoy-admin"));
        fs::write(&file, bootstrap.to_string()).unwrap();
        let arguments = [
            "--config-path",
            &file.display().to_string(),
            "--admin-address-path",
            &admin.display().to_string(),
            "--concurrency",
            "1",
            "--disable-hot-restart",
        ]
        .map(str::to_owned);
        let program = Program::start_file(&program::envoy(), "envoy", &world.logs, &arguments);
        let (admin, _) = eventually("Envoy has an admin page", || async {
            fs::read_to_string(&admin).ok()?.trim().parse::<SocketAddr>().ok()
        })
        .await;
        answers("Envoy is ready", admin, "/ready").await;
        Self { program, admin }
    }

    /// Where it takes calls to `shop/reviews:9080`.
    pub async fn upstream(&self, service: &str) -> SocketAddr {
        let page = self.page("/listeners?format=json").await;
        let listeners = page["listener_statuses"].as_array().unwrap();
        let listener = listeners.iter().find(|one| one["name"] == service).expect("the test asked for it");
        let port = listener["local_address"]["socket_address"]["port_value"].as_u64().unwrap();
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()))
    }

    /// A page of the admin port, as JSON.
    pub async fn page(&self, path: &str) -> Value {
        client::get(self.admin, path).await.unwrap().json()
    }

    /// Counters and gauges whose name matches the expression.
    pub async fn stats(&self, expression: &str) -> BTreeMap<String, u64> {
        let path = format!("/stats?filter={expression}");
        let text = client::get(self.admin, &path).await.unwrap().text();
        let lines = text.lines().filter_map(|line| line.rsplit_once(": "));
        lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// The names of a kind of dynamic resources that are in force: `listeners`, `route_configs`, `clusters`,
    /// `endpoint_configs`.
    pub async fn in_force(&self, kind: &str) -> Vec<String> {
        let dump = self.page("/config_dump?include_eds").await;
        let mut names = Vec::new();
        for config in dump["configs"].as_array().unwrap() {
            let active =
                if kind == "clusters" { "dynamic_active_clusters" } else { &format!("dynamic_{kind}") };
            for one in config[active].as_array().into_iter().flatten() {
                let name = match kind {
                    "listeners" if one["active_state"].is_object() => &one["name"],
                    "listeners" => continue,
                    "route_configs" => &one["route_config"]["name"],
                    "clusters" => &one["cluster"]["name"],
                    "endpoint_configs" => &one["endpoint_config"]["cluster_name"],
                    other => panic!("{other}"),
                };
                names.push(name.as_str().unwrap_or_default().to_owned());
            }
        }
        names.sort();
        names
    }

    /// It has taken something of every kind, and refused nothing.
    pub async fn took_everything(&self) {
        let stats = self.stats("update_(rejected|success)").await;
        for subscription in SUBSCRIPTIONS {
            let of = |word: &str| {
                let all =
                    stats.iter().filter(|(name, _)| name.contains(subscription) && name.ends_with(word));
                all.map(|(name, value)| (name.clone(), *value)).collect::<Vec<_>>()
            };
            let taken: u64 = of("update_success").iter().map(|(_, count)| count).sum();
            assert!(taken > 0, "{subscription}: nothing taken: {stats:?}");
            assert!(!of("update_rejected").is_empty(), "{subscription}: {stats:?}");
        }
        let refused: Vec<_> =
            stats.iter().filter(|(name, count)| name.ends_with("rejected") && **count > 0).collect();
        let dump = client::get(self.admin, "/config_dump?include_eds").await.unwrap().text();
        let errors: Vec<_> =
            dump.lines().skip_while(|line| !line.contains("\"error_state\"")).take(12).collect();
        assert!(refused.is_empty() && errors.is_empty(), "refused: {refused:?}\n{}", errors.join("\n"));
    }
}

fn bootstrap(operator: SocketAddr, protocol: Protocol, calls: &[&str]) -> Value {
    let address = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let anywhere = address(SocketAddr::from(([127, 0, 0, 1], 0)));
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let listeners = calls.iter().map(|service| {
        json!({
            "name": service,
            "address": anywhere,
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "calls",
                    "rds": {"route_config_name": service, "config_source": ads},
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                    }],
                },
            }]}],
        })
    });
    json!({
        "node": {"id": "shop/envoy", "cluster": "shop"},
        "admin": {"address": anywhere},
        "dynamic_resources": {
            "ads_config": {
                "api_type": match protocol {
                    Protocol::Delta => "DELTA_GRPC",
                    Protocol::StateOfTheWorld => "GRPC",
                },
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "operator"}}],
            },
            "lds_config": ads,
            "cds_config": ads,
        },
        "static_resources": {
            "listeners": listeners.collect::<Vec<_>>(),
            "clusters": [{
                "name": "operator",
                "connect_timeout": "1s",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
                "load_assignment": {
                    "cluster_name": "operator",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(operator)}}]}],
                },
            }],
        },
    })
}
