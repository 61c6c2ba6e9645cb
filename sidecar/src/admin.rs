//! What people and probes ask: `/config`, `/clusters` and `/drain` for those on this machine, `/metrics`, and
//! `/ready`.

mod pages;
mod states;

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use arc_swap::ArcSwap;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::admin::states::States;
use crate::config::{Known, ProxyConfig};
use crate::drain::{Drain, Phase};
use crate::metrics::Metrics;
use crate::proxy::now;
use crate::spawn;
use crate::xds::client::Handle;

/// What the pages show.
#[derive(Debug)]
pub struct Admin {
    /// What was asked for on the command line, in words, and the name of its configuration.
    wanted: Vec<(String, Arc<str>)>,
    config: Arc<ArcSwap<ProxyConfig>>,
    xds: Handle,
    drain: Drain,
    registry: Registry,
    /// Once ready, losing the operator does not change it.
    was_ready: AtomicBool,
}

impl Admin {
    /// The pages of this proxy.
    pub fn new(
        wanted: Vec<(String, Arc<str>)>,
        config: Arc<ArcSwap<ProxyConfig>>,
        xds: Handle,
        metrics: &Metrics,
        drain: Drain,
    ) -> Self {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let states = States { config: Arc::clone(&config), xds: xds.clone(), drain: drain.clone() };
        registry.register_collector(Box::new(states));
        Self { wanted, config, xds, drain, registry, was_ready: AtomicBool::new(false) }
    }

    /// Whether everything on the command line has its configuration in force; else what is missing.
    pub fn ready(&self) -> Result<(), String> {
        if self.drain.phase() >= Phase::Draining {
            return Err("draining\n".into());
        }
        if self.was_ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let state = self.xds.state();
        let missing: Vec<String> = self
            .wanted
            .iter()
            .filter_map(|(words, name)| {
                let why = match state.listeners.get(name) {
                    Some(Known::InForce) => return None,
                    // An endpoint that no Service lists has no limits, and that is in force.
                    Some(Known::Absent) if name.starts_with("inbound/") => return None,
                    Some(Known::Absent) => "the operator knows no such Service port".to_owned(),
                    Some(Known::Awaited(what)) => format!("awaited: {what}"),
                    None => "awaited".to_owned(),
                };
                Some(format!("{words}: {why}\n"))
            })
            .collect();
        if missing.is_empty() {
            self.was_ready.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let stream = match (state.connected, &state.last_failure) {
            (true, _) => String::new(),
            (false, Some(why)) => format!("no stream to the operator: {why}\n"),
            (false, None) => "no stream to the operator yet\n".to_owned(),
        };
        Err(stream + &missing.concat())
    }
}

/// The listeners of the pages.
#[derive(Debug)]
pub struct Pages {
    /// `/config`, `/clusters`, `/drain`.
    pub admin: StdListener,
    /// `/metrics`.
    pub metrics: StdListener,
    /// `/ready`.
    pub ready: StdListener,
}

impl Pages {
    /// Serves them in tasks of their own.
    pub fn serve(self, admin: &Arc<Admin>) -> anyhow::Result<()> {
        let on_loopback = Router::new()
            .route("/config", get(config))
            .route("/clusters", get(clusters))
            .route("/drain", post(drain))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics));
        for (name, listener, router) in [
            ("admin", self.admin, on_loopback),
            ("metrics", self.metrics, Router::new().route("/metrics", get(metrics))),
            ("ready", self.ready, Router::new().route("/ready", get(ready))),
        ] {
            let listener = TcpListener::from_std(listener).with_context(|| format!("the {name} listener"))?;
            let router = router.with_state(Arc::clone(admin));
            spawn::service(name, async move {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!(%error, name, "serving a page");
                }
            });
        }
        Ok(())
    }
}

async fn config(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    Json(pages::config(&admin.config.load(), &admin.xds.state()))
}

async fn clusters(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    Json(pages::clusters(&admin.config.load(), now()))
}

async fn drain(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    admin.drain.advance(Phase::Draining);
    tracing::info!("draining");
    (StatusCode::OK, "draining\n")
}

async fn ready(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match admin.ready() {
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
