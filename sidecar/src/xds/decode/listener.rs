//! `Listener`: what is spoken at a name, and where it leads.
//!
//! A filter chain ends in an HTTP connection manager or in a TCP proxy. One of the former alone: HTTP; one
//! of the latter alone: bytes; one of each: the first bytes decide, as Envoy's http_inspector lets them.
//! Address and port of the listener are not looked at: what is captured decides that.
//!
//! Ignored, because the sidecar has its own ways or it only reports: codec settings, header limits and
//! timeouts towards the caller (`stream_idle_timeout` too: only a route's own `idle_timeout` counts),
//! `server_name`, `via`, forwarded-for and request-id settings, access logs, tracing, upgrades (always
//! carried), the order of bytes in `%2F`, HTTP filters that act only by settings refused elsewhere (cors,
//! grpc_stats) or are marked optional, a TCP proxy's idle timeout and attempts.

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::{
    FilterChain, Listener as EnvoyListener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as GrpcStats;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::google::protobuf::Any;

use super::{Rejection, is, metadata, route, same_server, unpack};
use crate::config::Protocol;
use crate::config::pieces::{Listener, RouteSource};
use crate::rate_limit::InboundSettings;

/// What the names of listeners for this pod's own endpoints begin with; the address follows.
const INBOUND: &str = "inbound/";

/// What a listener's chains have come to.
#[derive(Debug, Default)]
struct Chains {
    routes: Option<RouteSource>,
    opaque: Option<Arc<str>>,
}

/// Decodes a listener.
pub(super) fn decode(name: &Arc<str>, mut listener: EnvoyListener) -> Result<Listener, Rejection> {
    let limits: Option<InboundSettings> = metadata::ours(listener.metadata.take())?;
    let mut chains = Chains::default();
    if let Some(api) = listener.api_listener.take().and_then(|api| api.api_listener) {
        let manager = unpack::<HttpConnectionManager>(&api).and_then(|manager| self::manager(name, manager));
        chains.routes = Some(manager.map_err(|error| error.within("api_listener"))?);
    } else {
        refuse_what_we_lack(&listener)?;
        let default = listener.default_filter_chain.take().into_iter();
        for (index, chain) in listener.filter_chains.into_iter().chain(default).enumerate() {
            let decoded = chains.add(name, chain);
            decoded.map_err(|error| error.within(format_args!("filter_chains[{index}]")))?;
        }
    }
    let protocol = match (&chains.routes, &chains.opaque) {
        (Some(_), None) => Protocol::Http,
        (None, Some(_)) => Protocol::Opaque,
        (Some(_), Some(_)) => Protocol::Detect,
        (None, None) => return Err(Rejection::new("it has no filter chain")),
    };
    let Some(address) = name.strip_prefix(INBOUND) else {
        if limits.is_some() {
            return Err(Rejection::new(format!("only a listener named {INBOUND}ADDRESS may have limits")));
        }
        return Ok(Listener::Outbound { protocol, routes: chains.routes, opaque: chains.opaque });
    };
    let address: SocketAddr = address
        .parse()
        .map_err(|_| Rejection::new(format!("what follows {INBOUND} must be an address and a port")))?;
    let limits = limits.unwrap_or_default();
    limits.check().map_err(|error| Rejection::new(error.to_string()))?;
    Ok(Listener::Inbound { address, protocol, limits })
}

fn refuse_what_we_lack(listener: &EnvoyListener) -> Result<(), Rejection> {
    let lacks = [
        (listener.filter_chain_matcher.is_some(), "filter_chain_matcher", "use `filter_chain_match`"),
        (listener.fcds_config.is_some(), "fcds_config", "filter chains must be written out"),
        (listener.udp_listener_config.is_some(), "udp_listener_config", "only TCP is carried"),
    ];
    if let Some((_, field, instead)) = lacks.into_iter().find(|(there, ..)| *there) {
        return Err(Rejection::unsupported(field, instead));
    }
    match listener.listener_filters.iter().find(|filter| !harmless(filter)) {
        Some(filter) => {
            let what = format!("the listener filter {:?}", filter.name);
            Err(Rejection::unsupported(&what, "there may be http_inspector, tls_inspector and original_dst"))
        }
        None => Ok(()),
    }
}

fn harmless(filter: &ListenerFilter) -> bool {
    match &filter.config_type {
        Some(listener_filter::ConfigType::TypedConfig(any)) => {
            is::<HttpInspector>(any) || is::<TlsInspector>(any) || is::<OriginalDst>(any)
        }
        Some(listener_filter::ConfigType::ConfigDiscovery(_)) => false,
        // Envoy takes a filter without a configuration by its name.
        None => ["envoy.filters.listener.http_inspector", "envoy.filters.listener.tls_inspector"]
            .contains(&filter.name.as_str()),
    }
}

impl Chains {
    fn add(&mut self, listener: &Arc<str>, chain: FilterChain) -> Result<(), Rejection> {
        let socket = chain.transport_socket.as_ref();
        if socket.is_some_and(|socket| socket.name != "envoy.transport_sockets.raw_buffer") {
            return Err(Rejection::unsupported("transport_socket", "callers come without TLS"));
        }
        #[expect(deprecated, reason = "other servers still send it")]
        if chain.use_proxy_proto.is_some_and(|value| value.value) {
            return Err(Rejection::unsupported("use_proxy_proto", "callers come without it"));
        }
        let for_http = for_http(&chain)?;
        let filters = chain.filters.len();
        let Some(filter) = chain.filters.into_iter().next().filter(|_| filters == 1) else {
            return Err(Rejection::unsupported(
                &format!("a chain of {filters} filters"),
                "there must be one",
            ));
        };
        let named = |error: Rejection| error.within(format_args!("filter {:?}", filter.name));
        let Some(filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
            return Err(named(Rejection::unsupported("config_discovery", "it must be `typed_config`")));
        };
        if is::<HttpConnectionManager>(config) {
            let manager = unpack(config).and_then(|config| manager(listener, config)).map_err(named)?;
            if self.routes.replace(manager).is_some() {
                return Err(Rejection::unsupported("a second chain for HTTP", "there may be one"));
            }
        } else if for_http {
            return Err(named(Rejection::unsupported("application_protocols", "they are for HTTP")));
        } else {
            let cluster = tcp_proxy(config).map_err(named)?;
            if self.opaque.replace(cluster).is_some() {
                return Err(Rejection::unsupported("a second chain for bytes", "there may be one"));
            }
        }
        Ok(())
    }
}

/// Whether the chain is for connections that turn out to be HTTP. Other conditions are refused.
fn for_http(chain: &FilterChain) -> Result<bool, Rejection> {
    let Some(matches) = &chain.filter_chain_match else { return Ok(false) };
    let conditions = [
        (matches.destination_port.is_some(), "destination_port"),
        (!matches.prefix_ranges.is_empty(), "prefix_ranges"),
        (!matches.address_suffix.is_empty(), "address_suffix"),
        (!matches.direct_source_prefix_ranges.is_empty(), "direct_source_prefix_ranges"),
        (matches.source_type != 0, "source_type"),
        (!matches.source_prefix_ranges.is_empty(), "source_prefix_ranges"),
        (!matches.source_ports.is_empty(), "source_ports"),
        (!matches.server_names.is_empty(), "server_names"),
        (!["", "raw_buffer"].contains(&matches.transport_protocol.as_str()), "transport_protocol"),
    ];
    if let Some((_, field)) = conditions.into_iter().find(|(there, _)| *there) {
        let field = format!("filter_chain_match.{field}");
        return Err(Rejection::unsupported(&field, "a chain may be chosen by application_protocols alone"));
    }
    let known = ["http/1.0", "http/1.1", "h2c"];
    match matches.application_protocols.iter().find(|protocol| !known.contains(&protocol.as_str())) {
        Some(other) => {
            let what = format!("application_protocols {other:?}");
            Err(Rejection::unsupported(&what, "there may be http/1.0, http/1.1 and h2c"))
        }
        None => Ok(!matches.application_protocols.is_empty()),
    }
}

fn manager(listener: &Arc<str>, manager: HttpConnectionManager) -> Result<RouteSource, Rejection> {
    if manager.codec_type == CodecType::Http3 as i32 {
        return Err(Rejection::unsupported("codec_type HTTP3", "HTTP/1.1 and HTTP/2 are"));
    }
    let replies = manager.local_reply_config.as_ref();
    let lacks = [
        (
            manager.normalize_path.is_some_and(|value| value.value),
            "normalize_path",
            "paths are carried as they are",
        ),
        (manager.merge_slashes, "merge_slashes", "paths are carried as they are"),
        (
            manager.path_normalization_options.is_some(),
            "path_normalization_options",
            "paths are carried as they are",
        ),
        (manager.strip_matching_host_port, "strip_matching_host_port", "use ignore_port_in_host_matching"),
        (manager.strip_port_mode.is_some(), "strip_any_host_port", "use ignore_port_in_host_matching"),
        (manager.strip_trailing_host_dot, "strip_trailing_host_dot", "authorities are carried as they are"),
        (
            replies.is_some_and(|config| !config.mappers.is_empty() || config.body_format.is_some()),
            "local_reply_config",
            "answers of our own are fixed",
        ),
        (
            !manager.early_header_mutation_extensions.is_empty(),
            "early_header_mutation_extensions",
            "headers are changed by routes",
        ),
    ];
    if let Some((_, field, instead)) = lacks.into_iter().find(|(there, ..)| *there) {
        return Err(Rejection::unsupported(field, instead));
    }
    if let Some(filter) = manager.http_filters.iter().find(|filter| !carried(filter)) {
        let what = format!("the HTTP filter {:?}", filter.name);
        return Err(Rejection::unsupported(&what, "there may be only the router"));
    }
    match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            same_server("rds.config_source", rds.config_source.as_ref())?;
            if rds.route_config_name.is_empty() {
                return Err(Rejection::new("rds.route_config_name is empty"));
            }
            Ok(RouteSource::Named(rds.route_config_name.into()))
        }
        Some(RouteSpecifier::RouteConfig(table)) => {
            let name = if table.name.is_empty() { Arc::clone(listener) } else { table.name.as_str().into() };
            let table = route::decode(&name, &table).map_err(|error| error.within("route_config"))?;
            Ok(RouteSource::Inline(Arc::new(table)))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            Err(Rejection::unsupported("scoped_routes", "it must be `rds` or `route_config`"))
        }
        None => Err(Rejection::new("it has neither rds nor route_config")),
    }
}

fn carried(filter: &HttpFilter) -> bool {
    let known = |any: &Any| is::<Router>(any) || is::<Cors>(any) || is::<GrpcStats>(any);
    filter.is_optional
        || filter.disabled
        || match &filter.config_type {
            Some(http_filter::ConfigType::TypedConfig(any)) => known(any),
            Some(http_filter::ConfigType::ConfigDiscovery(_)) => false,
            None => filter.name == "envoy.filters.http.router",
        }
}

fn tcp_proxy(config: &Any) -> Result<Arc<str>, Rejection> {
    if !is::<TcpProxy>(config) {
        let what = format!("{:?}", config.type_url);
        return Err(Rejection::unsupported(&what, "it must be an HttpConnectionManager or a TcpProxy"));
    }
    let proxy = unpack::<TcpProxy>(config)?;
    let lacks = [
        (proxy.tunneling_config.is_some(), "tunneling_config", "bytes go to the endpoint as they are"),
        (proxy.metadata_match.is_some(), "metadata_match", "a subset must be a cluster of its own"),
        (proxy.on_demand.is_some(), "on_demand", "clusters are always asked for"),
        (
            !proxy.proxy_protocol_tlvs.is_empty(),
            "proxy_protocol_tlvs",
            "bytes go to the endpoint as they are",
        ),
        (
            proxy.max_downstream_connection_duration.is_some(),
            "max_downstream_connection_duration",
            "connections end when a side ends them",
        ),
    ];
    if let Some((_, field, instead)) = lacks.into_iter().find(|(there, ..)| *there) {
        return Err(Rejection::unsupported(field, instead));
    }
    let name = match proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => name,
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let mut clusters = weighted.clusters.into_iter().filter(|cluster| cluster.weight > 0);
            match (clusters.next(), clusters.next()) {
                (Some(one), None) if one.metadata_match.is_none() => one.name,
                _ => return Err(Rejection::unsupported("weighted_clusters", "bytes go to one cluster")),
            }
        }
        None => String::new(),
    };
    if name.is_empty() {
        return Err(Rejection::new("there is no cluster"));
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests;
