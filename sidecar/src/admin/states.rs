//! States as metrics: read when the page is asked for. Names, labels and meanings stand in
//! [`table`](crate::metrics::table).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::admin::pages;
use crate::capture::Capture;
use crate::cluster::Cluster;
use crate::config::{Known, ProxyConfig};
use crate::drain::{Drain, Phase};
use crate::metrics::table::begin;
use crate::proxy::now;
use crate::xds::client::Handle;

/// What is looked at.
#[derive(Debug)]
pub struct States {
    /// Pools and endpoints.
    pub config: Arc<ArcSwap<ProxyConfig>>,
    /// The stream.
    pub xds: Handle,
    /// Whether we leave.
    pub drain: Drain,
    /// None: nothing is captured.
    pub capture: Option<Arc<Capture>>,
}

impl Collector for States {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let config = self.config.load();
        let clusters: BTreeMap<&str, &Arc<Cluster>> =
            pages::in_force(&config).map(|cluster| (&*cluster.settings.name, cluster)).collect();
        pools(&mut encoder, &clusters)?;
        endpoints(&mut encoder, &clusters)?;
        limits(&mut encoder, &config)?;
        self.stream(&mut encoder)?;
        self.listeners(&mut encoder)?;
        self.capture(&mut encoder)
    }
}

type Clusters<'a> = BTreeMap<&'a str, &'a Arc<Cluster>>;

fn pools(encoder: &mut DescriptorEncoder<'_>, clusters: &Clusters<'_>) -> Result<(), fmt::Error> {
    let usages: Vec<_> = clusters.iter().map(|(name, cluster)| (*name, cluster.live.pool.usage())).collect();
    let mut connections = begin(encoder, "fairlead_pool_connections")?;
    for (name, usage) in &usages {
        for (state, count) in [("open", i64::from(usage.connections)), ("idle", number(usage.idle))] {
            ConstGauge::new(count)
                .encode(connections.encode_family(&[("service", *name), ("state", state)])?)?;
        }
    }
    let mut pending = begin(encoder, "fairlead_pool_pending")?;
    for (name, usage) in &usages {
        ConstGauge::new(number(usage.pending)).encode(pending.encode_family(&[("service", *name)])?)?;
    }
    let mut requests = begin(encoder, "fairlead_pool_requests")?;
    for (name, usage) in &usages {
        ConstGauge::new(i64::from(usage.requests)).encode(requests.encode_family(&[("service", *name)])?)?;
    }
    Ok(())
}

fn endpoints(encoder: &mut DescriptorEncoder<'_>, clusters: &Clusters<'_>) -> Result<(), fmt::Error> {
    let mut endpoints = begin(encoder, "fairlead_endpoints")?;
    for (name, cluster) in clusters {
        let out = cluster.ejected();
        let known = cluster.endpoints.len().saturating_sub(out);
        for (state, count) in [("in", known), ("out", out)] {
            ConstGauge::new(number(count))
                .encode(endpoints.encode_family(&[("service", *name), ("state", state)])?)?;
        }
    }
    let mut ejections = begin(encoder, "fairlead_ejections")?;
    for (name, cluster) in clusters {
        let counters = &cluster.live.ejections;
        for (kind, counter) in [
            ("ejected", &counters.ejected),
            ("returned", &counters.returned),
            ("prevented", &counters.prevented),
            ("failed_probe", &counters.failed_probes),
            ("shadow", &counters.shadow),
        ] {
            let count = ConstCounter::new(counter.load(Ordering::Relaxed));
            count.encode(ejections.encode_family(&[("service", *name), ("kind", kind)])?)?;
        }
    }
    Ok(())
}

/// Several listeners of one pod may hold the same limit: their counts are added up.
fn limits(encoder: &mut DescriptorEncoder<'_>, config: &ProxyConfig) -> Result<(), fmt::Error> {
    let mut all: BTreeMap<[Arc<str>; 3], ([u64; 3], usize, u64)> = BTreeMap::new();
    for report in config.inbound.values().flat_map(|inbound| inbound.limits.report()) {
        let (counts, keys, overflowed) =
            all.entry([report.service, report.policy, report.limit]).or_default();
        for (sum, count) in counts.iter_mut().zip([report.admitted, report.refused, report.would_refuse]) {
            *sum += count;
        }
        *keys += report.keys;
        *overflowed += report.overflowed;
    }
    let mut requests = begin(encoder, "fairlead_rate_limit_requests")?;
    for ([service, policy, limit], (counts, ..)) in &all {
        for (decision, count) in ["admitted", "refused", "would_refuse"].into_iter().zip(counts) {
            let labels =
                [("service", &**service), ("policy", policy), ("limit", limit), ("decision", decision)];
            ConstCounter::new(*count).encode(requests.encode_family(&labels)?)?;
        }
    }
    let mut keys = begin(encoder, "fairlead_rate_limit_keys")?;
    for ([service, policy, limit], (_, count, _)) in &all {
        let labels = [("service", &**service), ("policy", policy), ("limit", limit)];
        ConstGauge::new(number(*count)).encode(keys.encode_family(&labels)?)?;
    }
    let mut overflowed = begin(encoder, "fairlead_rate_limit_overflowed")?;
    for ([service, policy, limit], (.., count)) in &all {
        let labels = [("service", &**service), ("policy", policy), ("limit", limit)];
        ConstCounter::new(*count).encode(overflowed.encode_family(&labels)?)?;
    }
    Ok(())
}

impl States {
    fn listeners(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.xds.state();
        let mut counts = [("in_force", 0), ("absent", 0), ("awaited", 0)];
        for known in state.listeners.values() {
            let index = match known {
                Known::InForce => 0,
                Known::Absent => 1,
                Known::Awaited(_) => 2,
            };
            if let Some((_, count)) = counts.get_mut(index) {
                *count += 1;
            }
        }
        let mut listeners = begin(encoder, "fairlead_xds_listeners")?;
        for (state, count) in counts {
            ConstGauge::new(number(count)).encode(listeners.encode_family(&[("state", state)])?)?;
        }
        Ok(())
    }

    fn capture(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(capture) = &self.capture else { return Ok(()) };
        let mut verified = begin(encoder, "fairlead_capture_verified")?;
        for (direction, holds) in
            [("outbound", capture.outbound_verified()), ("inbound", capture.inbound_verified())]
        {
            ConstGauge::new(i64::from(holds)).encode(verified.encode_family(&[("direction", direction)])?)?;
        }
        let without = i64::from(capture.started_without_config());
        ConstGauge::new(without).encode(begin(encoder, "fairlead_started_without_config")?)
    }

    fn stream(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.xds.state();
        let draining = self.drain.phase() >= Phase::Draining;
        for (name, value) in [
            ("fairlead_xds_connected", i64::from(state.connected)),
            ("fairlead_draining", i64::from(draining)),
        ] {
            ConstGauge::new(value).encode(begin(encoder, name)?)?;
        }
        let age = begin(encoder, "fairlead_xds_config_age_seconds")?;
        if let Some(updated) = state.updated {
            ConstGauge::new((now() - updated).as_secs_f64()).encode(age)?;
        }
        for (name, value) in [
            ("fairlead_xds_responses", state.responses),
            ("fairlead_xds_nacks", state.nacks),
            ("fairlead_xds_failures", state.failures),
        ] {
            ConstCounter::new(value).encode(begin(encoder, name)?)?;
        }
        Ok(())
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
