//! What people and probes ask: `/config`, `/clusters` and `/drain` for those on this machine, `/metrics`, and
//! `/ready`.

mod browser;
mod few;
mod pages;
mod words;
mod readiness;
mod states;
mod visitors;

use std::net::{IpAddr, TcpListener as StdListener};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::accept::captured::Visitor;
use crate::admin::few::{Few, Peer};
use crate::admin::readiness::{Came, Facts, Readiness};
use crate::admin::states::States;
use crate::admin::visitors::Visitors;
use crate::capture::Capture;
use crate::config::ProxyConfig;
use crate::drain::{Drain, Phase};
use crate::metrics::Metrics;
use crate::proxy::now;
use crate::spawn;
use crate::xds::client::Handle;

/// What the pages show.
#[derive(Debug)]
pub struct Admin {
    readiness: Readiness,
    config: Arc<ArcSwap<ProxyConfig>>,
    registry: Registry,
}

/// A pod whose traffic is captured.
#[derive(Debug)]
pub struct Pod {
    /// Its own.
    pub addresses: Vec<IpAddr>,
    /// What is known of the rules.
    pub capture: Arc<Capture>,
    /// What the operator is asked at the start.
    pub first: Vec<Arc<str>>,
    /// Who came through the inbound listener for `/ready`.
    pub ready_visitors: mpsc::Receiver<Visitor>,
    /// The same for `/metrics`.
    pub metrics_visitors: mpsc::Receiver<Visitor>,
}

impl Admin {
    /// The pages of this proxy. `wanted` is what was asked for on the command line, in words, and the name of its
    /// configuration.
    pub fn new(
        wanted: Vec<(String, Arc<str>)>,
        config: Arc<ArcSwap<ProxyConfig>>,
        xds: Handle,
        metrics: &Metrics,
        drain: Drain,
        pod: Option<&Pod>,
    ) -> Self {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let states = States {
            config: Arc::clone(&config),
            xds: xds.clone(),
            drain: drain.clone(),
            capture: pod.map(|pod| Arc::clone(&pod.capture)),
        };
        registry.register_collector(Box::new(states));
        let facts = pod.map(|pod| Facts {
            addresses: pod.addresses.clone(),
            capture: Arc::clone(&pod.capture),
            first: pod.first.clone(),
        });
        Self { readiness: Readiness::new(wanted, xds, drain, facts), config, registry }
    }
}

/// The listeners of the pages.
#[derive(Debug)]
pub struct Pages {
    /// `/config`, `/clusters`, `/drain`.
    pub admin: StdListener,
    /// `/metrics`.
    pub metrics: Vec<StdListener>,
    /// `/ready`.
    pub ready: Vec<StdListener>,
    /// Who comes another way.
    pub pod: Option<Pod>,
}

impl Pages {
    /// Serves them in tasks of their own.
    pub fn serve(self, admin: &Arc<Admin>) -> anyhow::Result<()> {
        let on_loopback = Router::new()
            .route("/", get(|| async { "/config\n/clusters\n/metrics\n/ready\nPOST /drain\n" }))
            .route("/config", get(config))
            .route("/clusters", get(clusters))
            .route("/drain", post(drain));
        let for_metrics = Router::new().route("/metrics", get(metrics)).with_state(Arc::clone(admin));
        let for_ready = Router::new().route("/ready", get(ready)).with_state(Arc::clone(admin));
        let on_loopback = on_loopback.with_state(Arc::clone(admin)).merge(for_metrics.clone());
        let on_loopback = on_loopback.merge(for_ready.clone());
        serve("admin", self.admin, on_loopback.layer(middleware::from_fn(browser::refuse)))?;
        for listener in self.metrics {
            serve("metrics", listener, for_metrics.clone())?;
        }
        for listener in self.ready {
            serve("ready", listener, for_ready.clone())?;
        }
        if let Some(pod) = self.pod {
            let for_ready = Router::new().route("/ready", get(ready_through_inbound));
            let for_ready = for_ready.with_state(Arc::clone(admin));
            for (name, visitors, router) in
                [("metrics", pod.metrics_visitors, for_metrics), ("ready", pod.ready_visitors, for_ready)]
            {
                spawn::service(name, async move {
                    if let Err(error) = axum::serve(Few::of(Visitors(visitors)), router).await {
                        tracing::error!(%error, name, "serving a page");
                    }
                });
            }
        }
        Ok(())
    }
}

fn serve(name: &'static str, listener: StdListener, router: Router) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener).with_context(|| format!("the {name} listener"))?;
    let router = router.into_make_service_with_connect_info::<Peer>();
    spawn::service(name, async move {
        if let Err(error) = axum::serve(Few::of(listener), router).await {
            tracing::error!(%error, name, "serving a page");
        }
    });
    Ok(())
}

async fn config(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    page(&pages::config(&admin.config.load(), &admin.readiness.xds.state()))
}

async fn clusters(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    page(&pages::clusters(&admin.config.load(), now()))
}

/// JSON in lines, for it is read in terminals.
fn page(value: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value:#}\n"))
}

async fn drain(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    admin.readiness.drain.advance(Phase::Draining);
    tracing::info!("draining");
    (StatusCode::OK, "draining\n")
}

async fn ready(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
) -> impl IntoResponse {
    in_words(admin.readiness.ready(Came::Directly(peer)))
}

async fn ready_through_inbound(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    in_words(admin.readiness.ready(Came::ThroughInbound))
}

fn in_words(ready: Result<(), String>) -> (StatusCode, String) {
    match ready {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let mut page = String::new();
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match prometheus_client::encoding::text::encode(&mut page, &admin.registry) {
        Ok(()) => (StatusCode::OK, kind, page),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, kind, error.to_string()),
    }
}

#[cfg(test)]
mod tests;
