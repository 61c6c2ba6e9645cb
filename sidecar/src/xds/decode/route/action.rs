//! What is done with a request: `RouteAction`, `RedirectAction`, `DirectResponseAction`.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::RoutingPriority;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RouteAction, WeightedCluster, weighted_cluster::ClusterWeight,
};
use http::{HeaderValue, StatusCode};

use super::headers::{Changes, Level};
use super::{Shared, first_lack, hedging, mirrors};
use crate::route::{Action, Backend, Backends, DirectResponse, HeaderChanges, Redirect, Rewrite};
use crate::xds::decode::{Rejection, literal};

/// Decodes what is forwarded.
pub(super) fn forward(action: &RouteAction, shared: &mut Shared) -> Result<Action, Rejection> {
    mirrors(&action.request_mirror_policies)?;
    hedging(action.hedge_policy.as_ref())?;
    #[expect(deprecated, reason = "other servers still send it")]
    let handles_redirects = action.internal_redirect_policy.is_some() || action.internal_redirect_action != 0;
    let tunnels = action.upgrade_configs.iter().any(|upgrade| upgrade.connect_config.is_some());
    first_lack(&[
        (action.metadata_match.is_some(), "metadata_match", "a subset must be a cluster of its own"),
        (action.path_rewrite_policy.is_some(), "path_rewrite_policy", "use `regex_rewrite`"),
        (action.append_x_forwarded_host, "append_x_forwarded_host", "set the header by name"),
        (action.priority != RoutingPriority::Default as i32, "priority HIGH", "there is one priority"),
        (handles_redirects, "internal_redirect_policy", "redirects go back to the caller"),
        (
            action.retry_policy_typed_config.is_some(),
            "retry_policy_typed_config",
            "it must be `retry_policy`",
        ),
        (tunnels, "upgrade_configs with connect_config", "CONNECT is not carried"),
    ])?;
    let backends = match action.cluster_specifier.as_ref() {
        Some(ClusterSpecifier::Cluster(name)) => Backends::new(vec![Backend {
            cluster: shared.cluster(name)?,
            weight: 1,
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
        }]),
        Some(ClusterSpecifier::WeightedClusters(clusters)) => {
            weighted(clusters, shared).map_err(|error| error.within("weighted_clusters"))?
        }
        Some(
            ClusterSpecifier::ClusterHeader(_)
            | ClusterSpecifier::ClusterSpecifierPlugin(_)
            | ClusterSpecifier::InlineClusterSpecifierPlugin(_),
        ) => {
            let instead = "it must be `cluster` or `weighted_clusters`";
            return Err(Rejection::unsupported("this cluster_specifier", instead));
        }
        None => return Err(Rejection::new("there is no cluster")),
    };
    Ok(Action::Forward { backends, rewrite: rewrite(action)? })
}

impl Shared {
    fn cluster(&mut self, name: &str) -> Result<usize, Rejection> {
        if name.is_empty() {
            return Err(Rejection::new("the name of the cluster is empty"));
        }
        Ok(match self.clusters.get_index_of(name) {
            Some(index) => index,
            None => self.clusters.insert_full(Arc::from(name)).0,
        })
    }
}

fn weighted(clusters: &WeightedCluster, shared: &mut Shared) -> Result<Backends, Rejection> {
    if clusters.random_value_specifier.is_some() {
        return Err(Rejection::unsupported("random_value_specifier", "shares are exact, not drawn"));
    }
    let mut backends = Vec::with_capacity(clusters.clusters.len());
    let mut sum = 0_u32;
    for cluster in &clusters.clusters {
        let backend =
            backend(cluster, shared).map_err(|error| error.within(format_args!("{:?}", cluster.name)))?;
        if let Some(backend) = backend {
            let more = sum.checked_add(backend.weight);
            sum = more.ok_or_else(|| Rejection::new("the sum of the weights is over 4294967295"))?;
            backends.push(backend);
        }
    }
    if sum == 0 {
        return Err(Rejection::new("the sum of the weights must be at least 1"));
    }
    Ok(Backends::new(backends))
}

/// One of the weighted clusters; none when its weight is zero.
fn backend(cluster: &ClusterWeight, shared: &mut Shared) -> Result<Option<Backend>, Rejection> {
    first_lack(&[
        (!cluster.cluster_header.is_empty(), "cluster_header", "it must be a name"),
        (cluster.metadata_match.is_some(), "metadata_match", "a subset must be a cluster of its own"),
        (cluster.host_rewrite_specifier.is_some(), "host_rewrite_literal", "it must be the route's"),
    ])?;
    let Some(weight) = cluster.weight else { return Err(Rejection::new("it has no weight")) };
    if weight.value == 0 {
        return Ok(None);
    }
    let request = Level::new(&cluster.request_headers_to_add, &cluster.request_headers_to_remove);
    let response = Level::new(&cluster.response_headers_to_add, &cluster.response_headers_to_remove);
    Ok(Some(Backend {
        cluster: shared.cluster(&cluster.name)?,
        weight: weight.value,
        request_headers: Changes::of(&[request])?,
        response_headers: Changes::of(&[response])?,
    }))
}

fn rewrite(action: &RouteAction) -> Result<Rewrite, Rejection> {
    let mut rewrite = Rewrite::default();
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    rewrite.prefix = given(&action.prefix_rewrite);
    rewrite.path = given(&literal("path_rewrite", &action.path_rewrite)?);
    if let Some(regex) = action.regex_rewrite.as_ref() {
        let pattern = regex.pattern.as_ref().map(|pattern| pattern.regex.as_str()).unwrap_or_default();
        let built = Rewrite::regex(pattern, &regex.substitution);
        rewrite.regex =
            Some(built.map_err(|error| Rejection::new(error.to_string()).within("regex_rewrite"))?);
    }
    let count = [rewrite.prefix.is_some(), rewrite.path.is_some(), rewrite.regex.is_some()];
    if count.into_iter().filter(|given| *given).count() > 1 {
        return Err(Rejection::new(
            "only one of prefix_rewrite, regex_rewrite and path_rewrite may be given",
        ));
    }
    rewrite.host = match action.host_rewrite_specifier.as_ref() {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(authority(host)?),
        Some(HostRewriteSpecifier::HostRewrite(host)) => Some(authority(&literal("host_rewrite", host)?)?),
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if !auto.value => None,
        Some(
            HostRewriteSpecifier::AutoHostRewrite(_)
            | HostRewriteSpecifier::HostRewriteHeader(_)
            | HostRewriteSpecifier::HostRewritePathRegex(_),
        ) => {
            let instead = "it must be `host_rewrite_literal`";
            return Err(Rejection::unsupported("this host_rewrite_specifier", instead));
        }
    };
    Ok(rewrite)
}

fn authority(host: &str) -> Result<HeaderValue, Rejection> {
    let bad = || Rejection::new(format!("the host {host:?} is no authority"));
    host.parse::<http::uri::Authority>().map_err(|_| bad())?;
    HeaderValue::from_str(host).map_err(|_| bad())
}

/// Decodes a redirect.
pub(super) fn redirect(action: &RedirectAction) -> Result<Redirect, Rejection> {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let status = match RedirectResponseCode::try_from(action.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return Err(Rejection::new(format!("response_code {} is unknown", action.response_code))),
    };
    let scheme = match action.scheme_rewrite_specifier.as_ref() {
        Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => https.then(|| "https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => given(scheme),
        None => None,
    };
    let port = match action.port_redirect {
        0 => None,
        port => Some(
            u16::try_from(port).map_err(|_| Rejection::new(format!("port_redirect {port} is no port")))?,
        ),
    };
    let (path, prefix) = match action.path_rewrite_specifier.as_ref() {
        Some(PathRewriteSpecifier::PathRedirect(path)) => (given(path), None),
        Some(PathRewriteSpecifier::PathRewrite(path)) => (given(&literal("path_rewrite", path)?), None),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => (None, Some(prefix.clone())),
        Some(PathRewriteSpecifier::RegexRewrite(_)) => {
            return Err(Rejection::unsupported("regex_rewrite", "use `path_redirect` or `prefix_rewrite`"));
        }
        None => (None, None),
    };
    let host = given(&action.host_redirect);
    for part in [&scheme, &host, &path, &prefix].into_iter().flatten() {
        if HeaderValue::from_str(part).is_err() {
            return Err(Rejection::new(format!("{part:?} cannot stand in a Location header")));
        }
    }
    Ok(Redirect { status, scheme, host, port, path, prefix, strip_query: action.strip_query })
}

/// Decodes an answer of our own.
pub(super) fn respond(action: &DirectResponseAction) -> Result<DirectResponse, Rejection> {
    if action.body_format.is_some() {
        return Err(Rejection::unsupported("body_format", "only fixed bodies are"));
    }
    let status = u16::try_from(action.status).ok().filter(|status| (200..600).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status =
        status.ok_or_else(|| Rejection::new(format!("status {} is not 200 to 599", action.status)))?;
    let body = match action.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => Bytes::new(),
        Some(Specifier::InlineString(text)) => Bytes::from(text.clone()),
        Some(Specifier::InlineBytes(bytes)) => Bytes::from(bytes.clone()),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => {
            return Err(Rejection::unsupported("this body", "it must be inline_string or inline_bytes"));
        }
    };
    Ok(DirectResponse { status, body })
}
