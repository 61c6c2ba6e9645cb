//! A call of this pod to a Service, from its first byte to the last of its answer.
//!
//! ```text
//! serve: route -> follow: rewrite -> deadline -> try_until_answered
//!                                                  attempt: pick -> checkout -> send -> record
//!                                                  retry?  : another endpoint, after a pause, within the budget
//! ```
//!
//! Whatever ends a call without the application's answer is a [`Failure`]; it decides status, flag and whether
//! another attempt is safe.

mod attempt;
mod hop;
mod upload;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{Request, Response};

use crate::body::Body;
use crate::cluster::{Cluster, UpstreamProtocol};
use crate::config::{Destination, Service};
use crate::exchange::watched::{Activity, Held, Times, Watched};
use crate::exchange::{Exchange, own_answer};
use crate::failure::{Failure, Kind};
use crate::hops::{self, Above};
use crate::http1;
use crate::inbound::Unprocessed;
use crate::matcher::is_grpc;
use crate::metrics::{Direction, Handles, Metrics};
use crate::outbound::attempt::{Answered, Attempt};
use crate::outbound::upload::Upload;
use crate::proxy::{Caller, Proxy, now};
use crate::retry::{Attempts, Ended, NoRetry};
use crate::route::{Action, Backend, Route, RouteTable};
use crate::said::{Said, TARGET};

/// A Service port that this pod calls.
#[derive(Debug)]
pub struct Upstream {
    /// That of its configuration: `shop/reviews:9080`, or the address that is called.
    pub name: Arc<str>,
    /// In log and metric: `shop/reviews:9080`.
    pub label: Arc<str>,
    /// Of requests that no rule carries.
    no_rule: Arc<Handles>,
}

impl Upstream {
    /// By the name of its configuration.
    pub fn new(name: Arc<str>, metrics: &Metrics) -> Self {
        Self::captured(Arc::clone(&name), name, metrics)
    }

    /// By an address, of which a Service port may have several, and its own name.
    pub fn captured(name: Arc<str>, label: Arc<str>, metrics: &Metrics) -> Self {
        let no_rule = metrics.handles(Direction::Outbound, &label, &Arc::from("-"));
        Self { name, label, no_rule }
    }

    /// Where bytes go.
    pub fn opaque(&self, proxy: &Proxy) -> Option<Arc<Cluster>> {
        match &*proxy.destination(&self.name)? {
            Destination::Known(service) => service.opaque.clone(),
            Destination::Unknown => None,
        }
    }
}

/// Carries a request. There is always an answer: the application's, a rule's, or our own. It is a result only so that
/// it looks like the other side's, and no future has to be put around this one.
pub async fn serve(
    proxy: &Arc<Proxy>,
    upstream: &Upstream,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response<Body>, Unprocessed> {
    let (mut parts, body) = request.into_parts();
    let grpc = is_grpc(&parts.headers);
    let mut exchange = Exchange::begin(proxy, Arc::clone(&upstream.no_rule), caller, &parts);
    let destination = proxy.destination(&upstream.name); // One view of the world for this request.
    let way = match destination.as_deref() {
        Some(Destination::Known(service)) => way(service, &mut exchange, &parts),
        Some(Destination::Unknown) => {
            Err(Failure::local(Kind::NoEndpoint, format!("there is no Service port {}", upstream.name)))
        }
        None => Err(Failure::local(Kind::NoEndpoint, format!("nothing is known of {} yet", upstream.name))),
    };
    let outcome = match way {
        Ok(Way::To(route, backend, cluster)) => {
            let following = follow(route, backend, cluster, &mut exchange, caller, &mut parts, (body, grpc));
            pin!(following).await
        }
        Ok(Way::Answered(answer)) => Ok((*answer, Held::default(), Times::default())),
        Err(failure) => Err(failure),
    };
    http1::recycle(parts);
    let (response, held, times) = outcome.unwrap_or_else(|failure| {
        exchange.failed(&failure);
        (own_answer(&failure, grpc), Held::default(), Times::default())
    });
    exchange.answered(response.status(), response.headers());
    Ok(response.map(|body| Watched::watch(body, exchange, held, times)))
}

type Outcome = Result<(Response<Body>, Held, Times), Failure>;

/// What the rule says.
enum Way<'a> {
    /// To this backend's cluster.
    To(&'a Route, &'a Backend, &'a Arc<Cluster>),
    /// The rule itself has the answer.
    Answered(Box<Response<Body>>),
}

/// Finds the rule. Apart from [`follow`], for it waits for nothing: each future around that one is moved once more.
fn way<'a>(service: &'a Service, exchange: &mut Exchange, parts: &Parts) -> Result<Way<'a>, Failure> {
    let Some(table) = &service.routes else {
        let reason = format!("{} carries bytes, not HTTP", service.name);
        return Err(Failure::local(Kind::NoRoute, reason));
    };
    if parts.method == http::Method::CONNECT {
        return Err(Failure::downstream(Kind::BadRequest, "CONNECT is not carried"));
    }
    let Some(route) = table.route(parts) else {
        return Err(Failure::local(Kind::NoRoute, format!("no rule of {} matches", table.name)));
    };
    exchange.follows(handles(exchange.proxy(), table, route));
    let Action::Forward { backends, .. } = &route.action else {
        let answer = route.answer(parts).map(|answer| Way::Answered(Box::new(answer.map(Body::from))));
        return answer.ok_or_else(|| Failure::local(Kind::BadBackend, "the rule has no answer"));
    };
    let Some(backend) = backends.pick() else {
        return Err(Failure::local(Kind::BadBackend, format!("no backend of {} has a weight", route.name)));
    };
    let Some(cluster) = service.clusters.get(backend.cluster).and_then(Option::as_ref) else {
        let name = table.clusters.get(backend.cluster).map_or("?", |name| name);
        return Err(Failure::local(Kind::BadBackend, format!("the backend {name} may not be used")));
    };
    Ok(Way::To(route, backend, cluster))
}

/// Rewrites the request, and sends it to an endpoint of `cluster` until there is an answer.
async fn follow(
    route: &Route,
    backend: &Backend,
    cluster: &Arc<Cluster>,
    exchange: &mut Exchange,
    caller: Caller,
    parts: &mut Parts,
    (body, grpc): (Body, bool),
) -> Outcome {
    route.apply_request(parts, backend)?;
    Said::take(&mut parts.headers);
    if let Some(target) = &route.target {
        parts.headers.insert(TARGET, target.clone());
    }
    let http2 = match cluster.settings.protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::SameAsCaller => caller.http2,
    };
    if http2 {
        hop::for_http2(parts)?;
    } else {
        hop::for_http1(parts);
    }
    let in_flight = cluster.live.pool.begin(&cluster.settings.pool)?;
    let above = exchange.proxy().hops.above(&parts.headers);
    let limits = Limits::of(route, exchange.started(), above.deadline());
    let grpc_deadline = grpc.then(|| hop::grpc_deadline(parts, exchange.started())).flatten();
    let deadline = [limits.times.deadline, grpc_deadline];
    let deadline = deadline.into_iter().flatten().min();
    hops::tell(&mut parts.headers, 1, deadline, exchange.started());
    let mut upload = Upload::new(body, route.retry.attempts > 0, limits.times.idle.as_ref());
    let sending = Sending { route, cluster, http2, limits, deadline, above, parts };
    let answered = sending.until_answered(exchange, &mut upload).await;
    exchange.received(upload.bytes());
    let idle = sending.limits.times.idle;
    let Answered { mut response, mut held, deadline } = answered?;
    route.apply_response(response.headers_mut(), backend);
    held.in_flight = Some(in_flight);
    Ok((response, held, Times { deadline, idle }))
}

/// A request that goes to an endpoint, or to several in turn.
struct Sending<'a> {
    route: &'a Route,
    cluster: &'a Arc<Cluster>,
    http2: bool,
    limits: Limits,
    /// When nobody waits any more: the rule's time, that of the call above, or `grpc-timeout`.
    deadline: Option<Instant>,
    above: Above,
    parts: &'a Parts,
}

/// When it must be over.
struct Limits {
    /// The request's deadline; idleness.
    times: Times,
    /// Of one attempt.
    per_try: Option<std::time::Duration>,
}

impl Limits {
    fn of(route: &Route, started: Instant, above: Option<Instant>) -> Self {
        let own = route.timeout.map(|limit| started + limit);
        let deadline = [own, above].into_iter().flatten().min();
        let idle = route.idle_timeout.map(|limit| (limit, Activity::new()));
        Self { times: Times { deadline, idle }, per_try: route.per_try_timeout }
    }

    fn deadline_of_try(&self, now: Instant) -> Option<Instant> {
        let own = self.per_try.map(|limit| now + limit);
        [self.times.deadline, own].into_iter().flatten().min()
    }
}

impl Sending<'_> {
    async fn until_answered(
        &self,
        exchange: &mut Exchange,
        upload: &mut Upload,
    ) -> Result<Answered, Failure> {
        let budget = &self.cluster.live.budget;
        let mut attempts = Attempts::new(&self.route.retry, self.parts, self.deadline);
        if self.above.is_retry() {
            attempts.forbid(NoRetry::BelowARetry);
        }
        budget.request(exchange.started());
        let mut again: Option<Parts> = None;
        let mut began = exchange.started(); // Nothing was waited for yet.
        loop {
            let parts = again.as_ref().unwrap_or(self.parts);
            let attempt = Attempt::new(self, parts, exchange.proxy().asker(), attempts.tried());
            let mut result = attempt.make(began, exchange, upload).await;
            if upload.is_broken() {
                return Err(upload.failure());
            }
            let said = |answered: &mut Answered| Said::take(answered.response.headers_mut());
            if result.as_mut().is_ok_and(|answered| said(answered).no_retry.is_some()) {
                self.above.spent();
                attempts.forbid(NoRetry::SpentBelow);
            }
            let ended = match &result {
                Ok(answered) => answered.ended(&self.route.retry),
                Err((failure, _)) => Ended::Failed(failure),
            };
            let decided = attempts.after(ended, upload.is_replayable(), exchange.seen(), budget);
            // What the endpoint answered counts, whether or not the caller gets to see it.
            if let Ok(answered) = &mut result {
                answered.settle(exchange.seen());
            }
            match decided {
                Ok(pause) => {
                    exchange.retried();
                    self.above.spent();
                    if let Some(endpoint) = endpoint(&result) {
                        attempts.failed_at(endpoint);
                    }
                    drop(result);
                    tokio::time::sleep(pause).await;
                    let next = again.get_or_insert_with(|| self.parts.clone());
                    began = now();
                    hops::tell(&mut next.headers, attempts.retries() + 1, self.deadline, began);
                }
                Err(why) => {
                    if !matches!(why, NoRetry::NotWanted) {
                        exchange.retry_skipped(why.reason());
                    }
                    return result.map_err(|(failure, _)| failure);
                }
            }
        }
    }
}

fn endpoint(result: &Result<Answered, (Failure, Option<SocketAddr>)>) -> Option<SocketAddr> {
    match result {
        Ok(answered) => answered.held.picked.as_ref().map(|(picked, _)| picked.endpoint().address()),
        Err((_, endpoint)) => *endpoint,
    }
}

/// A rule's handles, made at its first request and kept with it.
fn handles(proxy: &Proxy, table: &RouteTable, route: &Route) -> Arc<Handles> {
    let make = || proxy.metrics.handles(Direction::Outbound, &table.name, &route.name);
    Arc::clone(route.handles.get_or_init(make))
}
