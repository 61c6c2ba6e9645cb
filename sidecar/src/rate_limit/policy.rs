//! A policy, compiled: whom it is for, its limits with their live buckets, its answer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::LimitReport;
use super::bucket::{Algorithm, Shape};
use super::keys::{Buckets, KeyHasher};
use super::settings::{
    InboundSettings, KeySettings, LimitSettings, MatchSettings, PolicySettings, ResponseSettings,
    ValueSettings,
};
use crate::matcher::{HeaderMatcher, HeaderOf, PathMatcher, QueryMatcher, RouteMatcher, ValueMatcher};
use crate::matcher::{query_value, whole_regex};

/// A limit that cannot be used, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{policy}, limit {limit:?}: {reason}")]
pub struct BadLimit {
    /// The policy.
    pub policy: String,
    /// The limit, or empty when it is about the whole policy.
    pub limit: String,
    /// What is wrong.
    pub reason: String,
}

impl InboundSettings {
    /// Whether all of it can be used; what cannot is skipped by [`super::RateLimiter::new`].
    ///
    /// # Errors
    /// The first part that cannot.
    pub fn check(&self) -> Result<(), BadLimit> {
        if let Some(unknown) = self.targets.values().flatten().find(|name| self.policy(name).is_none()) {
            let reason = "it is not among the policies".to_owned();
            return Err(BadLimit { policy: unknown.clone(), limit: String::new(), reason });
        }
        for policy in &self.policies {
            let bad = |limit: &str, reason| BadLimit {
                policy: policy.name.clone(),
                limit: limit.to_owned(),
                reason,
            };
            compile_matches(&policy.from).map_err(|reason| bad("", reason))?;
            Response::new(&policy.response).map_err(|reason| bad("", reason))?;
            for limit in &policy.limits {
                compile_limit(limit).map_err(|reason| bad(&limit.name, reason))?;
            }
        }
        Ok(())
    }
}

/// A RateLimitPolicy as it applies to one target.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) shadow: bool,
    /// Empty: for all callers.
    from: Arc<[RouteMatcher]>,
    limits: Vec<Limit>,
    pub(super) response: Response,
}

/// A policy's words, compiled once for all targets that it is for.
pub(super) struct Compiled<'a> {
    settings: &'a PolicySettings,
    from: Arc<[RouteMatcher]>,
    /// With the name of each.
    limits: Vec<(&'a str, CompiledLimit)>,
    response: Response,
}

/// A limit of a policy.
#[derive(Debug)]
struct Limit {
    /// Empty: for every request.
    matches: Arc<[RouteMatcher]>,
    live: Arc<LiveLimit>,
}

/// The part of a limit that outlives configurations.
#[derive(Debug)]
pub(super) struct LiveLimit {
    service: Arc<str>,
    pub(super) policy: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) shape: Shape,
    key: Vec<KeyPart>,
    hasher: KeyHasher,
    buckets: Mutex<Buckets>,
    counters: Arc<Counters>,
}

/// What a limit did so far.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) admitted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) would_refuse: AtomicU64,
}

/// A Service port, a policy, a limit.
pub(super) type Identity = (Arc<str>, Arc<str>, Arc<str>);

/// What a bucket is chosen by.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyPart {
    Header(HeaderOf),
    QueryParam(String),
    Path,
    Method,
    SourceAddress,
}

/// What a refused caller gets.
#[derive(Debug, Clone)]
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl<'a> Compiled<'a> {
    /// What of it can be used.
    pub(super) fn new(settings: &'a PolicySettings) -> Self {
        // A policy that does not know whom it is for, or what to answer, limits nobody.
        let from = compile_matches(&settings.from);
        let response = Response::new(&settings.response);
        let (Ok(from), Ok(response)) = (from, response) else {
            return Self { settings, from: Arc::default(), limits: Vec::new(), response: Response::plain() };
        };
        let limits = settings.limits.iter();
        let limits = limits.filter_map(|limit| Some((limit.name.as_str(), compile_limit(limit).ok()?)));
        Self { settings, from, limits: limits.collect(), response }
    }
}

impl Policy {
    /// The policy for a Service port. `known` has the live limits so far, of the configuration before and of
    /// this one, and takes the new ones.
    pub(super) fn new(
        service: &str,
        compiled: &Compiled<'_>,
        known: &mut HashMap<Identity, Arc<LiveLimit>>,
    ) -> Self {
        let Compiled { settings, from, limits, response } = compiled;
        let limits = limits.iter().map(|(name, (matches, shape, key))| {
            let live = LiveLimit::new(service, &settings.name, name, *shape, key.clone(), known);
            Limit { matches: Arc::clone(matches), live }
        });
        Self {
            shadow: settings.shadow,
            from: Arc::clone(from),
            limits: limits.collect(),
            response: response.clone(),
        }
    }

    /// Whether the policy has a limit for this request.
    pub(super) fn applies(&self, request: &Parts) -> bool {
        any(&self.from, request) && self.limits.iter().any(|limit| any(&limit.matches, request))
    }

    /// The limits for this request, when the policy applies.
    pub(super) fn matching(&self, request: &Parts) -> impl Iterator<Item = &Arc<LiveLimit>> {
        self.limits.iter().filter(|limit| any(&limit.matches, request)).map(|limit| &limit.live)
    }

    /// All its limits.
    pub(super) fn limits(&self) -> impl Iterator<Item = &Arc<LiveLimit>> {
        self.limits.iter().map(|limit| &limit.live)
    }
}

/// One of them holds, or there are none.
fn any(matchers: &[RouteMatcher], request: &Parts) -> bool {
    matchers.is_empty() || matchers.iter().any(|matcher| matcher.matches(request))
}

impl LiveLimit {
    fn new(
        service: &str,
        policy: &str,
        name: &str,
        shape: Shape,
        key: Vec<KeyPart>,
        known: &mut HashMap<Identity, Arc<LiveLimit>>,
    ) -> Arc<Self> {
        let identity: Identity = (service.into(), policy.into(), name.into());
        let before = known.get(&identity);
        if let Some(same) = before.filter(|before| before.shape == shape && before.key == key) {
            return Arc::clone(same);
        }
        let (service, policy, name) = identity.clone();
        let live = Arc::new(Self {
            service,
            policy,
            name,
            shape,
            key,
            hasher: KeyHasher::default(),
            buckets: Mutex::new(Buckets::new(shape)),
            counters: before.map_or_else(Arc::default, |before| Arc::clone(&before.counters)),
        });
        known.insert(identity, Arc::clone(&live));
        live
    }

    pub(super) fn identity(&self) -> Identity {
        (Arc::clone(&self.service), Arc::clone(&self.policy), Arc::clone(&self.name))
    }

    pub(super) fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The key of a request's bucket. Requests that lack a header or parameter of the key share one bucket,
    /// another one than those that have it with an empty value.
    pub(super) fn key(&self, request: &Parts, peer: IpAddr) -> u128 {
        if self.key.is_empty() {
            return 0;
        }
        self.hasher.hash(self.key.iter().map(|part| match part {
            KeyPart::Header(name) => name.value(request),
            KeyPart::QueryParam(name) => {
                query_value(request, name).map(|value| Cow::Borrowed(value.as_bytes()))
            }
            KeyPart::Path => Some(Cow::Borrowed(request.uri.path().as_bytes())),
            KeyPart::Method => Some(Cow::Borrowed(request.method.as_str().as_bytes())),
            KeyPart::SourceAddress => Some(match peer.to_canonical() {
                IpAddr::V4(address) => Cow::Owned(address.octets().to_vec()),
                IpAddr::V6(address) => Cow::Owned(address.octets().to_vec()),
            }),
        }))
    }

    pub(super) fn report(&self, shadow: bool) -> LimitReport {
        let (keys, overflowed) = self.buckets().counts();
        LimitReport {
            service: Arc::clone(&self.service),
            policy: Arc::clone(&self.policy),
            limit: Arc::clone(&self.name),
            shadow,
            admitted: self.counters.admitted.load(Ordering::Relaxed),
            refused: self.counters.refused.load(Ordering::Relaxed),
            would_refuse: self.counters.would_refuse.load(Ordering::Relaxed),
            keys,
            overflowed,
        }
    }
}

type CompiledLimit = (Arc<[RouteMatcher]>, Shape, Vec<KeyPart>);

fn compile_limit(limit: &LimitSettings) -> Result<CompiledLimit, String> {
    let algorithm = match limit.algorithm.as_str() {
        "TokenBucket" => Algorithm::TokenBucket,
        "FixedWindow" => Algorithm::FixedWindow,
        other => return Err(format!("no such algorithm: {other:?}; TokenBucket or FixedWindow")),
    };
    if limit.requests == 0 || limit.per_ms == 0 || limit.burst == 0 {
        return Err("requests, per and burst must be above zero".to_owned());
    }
    let per = Duration::from_millis(limit.per_ms);
    let shape = Shape { algorithm, requests: limit.requests, per, burst: limit.burst };
    let key = limit.key.iter().map(compile_key).collect::<Result<_, _>>()?;
    Ok((compile_matches(&limit.matches)?, shape, key))
}

fn compile_key(key: &KeySettings) -> Result<KeyPart, String> {
    let name = || key.name.as_deref().ok_or_else(|| format!("a key of type {} needs a name", key.kind));
    Ok(match key.kind.as_str() {
        "Header" => KeyPart::Header(name()?.parse().map_err(|_| format!("no header name: {:?}", key.name))?),
        "QueryParam" => KeyPart::QueryParam(name()?.to_owned()),
        "Path" => KeyPart::Path,
        "Method" => KeyPart::Method,
        "SourceAddress" => KeyPart::SourceAddress,
        other => return Err(format!("no such key: {other:?}")),
    })
}

fn compile_matches(matches: &[MatchSettings]) -> Result<Arc<[RouteMatcher]>, String> {
    matches.iter().map(compile_match).collect()
}

fn compile_match(settings: &MatchSettings) -> Result<RouteMatcher, String> {
    let path = match &settings.path {
        None => PathMatcher::Prefix(String::new()),
        Some(path) => match path.kind.as_str() {
            "Exact" => PathMatcher::Exact(path.value.clone()),
            "PathPrefix" => PathMatcher::SegmentPrefix(path.value.clone()),
            "RegularExpression" => {
                PathMatcher::Regex(whole_regex(&path.value).map_err(|error| error.to_string())?)
            }
            other => return Err(format!("no such path match: {other:?}")),
        },
    };
    let method = settings.method.iter().map(|method| {
        Ok(HeaderMatcher {
            name: HeaderOf::Method,
            value: ValueMatcher::Exact(method.clone()),
            invert: false,
        })
    });
    let headers = settings.headers.iter().map(|header| {
        let value = compile_value(header)?;
        let name = header.name.parse().map_err(|_| format!("no header name: {:?}", header.name))?;
        Ok(HeaderMatcher { name, value, invert: false })
    });
    let query = settings
        .query_params
        .iter()
        .map(|parameter| Ok(QueryMatcher { name: parameter.name.clone(), value: compile_value(parameter)? }));
    Ok(RouteMatcher {
        path,
        headers: method.chain(headers).collect::<Result<_, String>>()?,
        query: query.collect::<Result<_, String>>()?,
        grpc: false,
    })
}

fn compile_value(settings: &ValueSettings) -> Result<ValueMatcher, String> {
    match settings.kind.as_str() {
        "Exact" => Ok(ValueMatcher::Exact(settings.value.clone())),
        "RegularExpression" => {
            Ok(ValueMatcher::Regex(whole_regex(&settings.value).map_err(|error| error.to_string())?))
        }
        other => Err(format!("no such match of {:?}: {other:?}", settings.name)),
    }
}

impl Response {
    fn new(settings: &ResponseSettings) -> Result<Self, String> {
        let status =
            StatusCode::from_u16(settings.status).map_err(|_| format!("no status: {}", settings.status))?;
        let mut headers = HeaderMap::with_capacity(settings.headers.len());
        for header in &settings.headers {
            let name: HeaderName =
                header.name.parse().map_err(|_| format!("no header name: {:?}", header.name))?;
            let value = HeaderValue::from_str(&header.value)
                .map_err(|_| format!("no header value: {:?}", header.value))?;
            headers.insert(name, value);
        }
        Ok(Self { status, headers, body: Bytes::from(settings.body.clone()) })
    }

    fn plain() -> Self {
        Self { status: StatusCode::TOO_MANY_REQUESTS, headers: HeaderMap::new(), body: Bytes::new() }
    }
}
