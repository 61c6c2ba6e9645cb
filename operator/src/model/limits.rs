//! Which limits hold for calls to a Service port, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairlead_crds::status::reason;
use fairlead_crds::{Limit, LimitResponse, LimitTarget, LimitTargetKind, Mode, RateLimitPolicy, RouteMatch};
use jiff::Timestamp;

use super::attach::{Attached, Claim, created, named_ports};
use super::inputs::Inputs;
use super::matching;
use super::nearest;
use super::object::{Kind, ObjectKey, ObjectRef, PortName, port_name};
use super::problem::{Condition, Problems};
use super::route::rule_name;
use super::service::Protocol;
use super::size;

/// What the sidecar of an endpoint needs to know for one Service port that lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    /// What is spoken on the port.
    pub protocol: Protocol,
    /// By what the caller called, `shop/reviews:9080` or `shop/reviews:9080#rule`: the policies in order of
    /// precedence. The port itself is left out when nothing holds for it.
    pub targets: Targets,
}

/// By what was called.
pub type Targets = BTreeMap<Arc<str>, Vec<Arc<Policy>>>;

/// A RateLimitPolicy that is not disabled, without its broken limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its name.
    pub key: ObjectKey,
    /// Only counts.
    pub shadow: bool,
    /// Whom it is for; empty: everyone.
    pub from: Vec<RouteMatch>,
    /// The limits, at least one.
    pub limits: Vec<Limit>,
    /// What a refused caller gets.
    pub response: LimitResponse,
    /// How large it is for a sidecar, see [`size::of_policy`].
    pub size: usize,
}

/// All policies, by what they are for.
#[derive(Debug, Default)]
pub struct Policies {
    ports: BTreeMap<PortName, Vec<Ranked>>,
    rules: BTreeMap<PortName, BTreeMap<String, Vec<Ranked>>>,
}

/// A policy with its place among those of one target: smaller comes first.
#[derive(Debug, Clone)]
struct Ranked {
    rank: Rank,
    policy: Arc<Policy>,
}

/// With `from` before without; then the more specific; then the older; then the name.
type Rank = (bool, Specificity, Option<Timestamp>, ObjectKey);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    Rule,
    Route,
    Port,
    Service,
}

impl Policies {
    /// Reads all RateLimitPolicies.
    pub fn new(inputs: &Inputs, attached: &Attached<'_>, problems: &mut Problems) -> Self {
        let mut policies = Self::default();
        for (key, policy) in &inputs.rate_limit_policies {
            policies.add(inputs, attached, Claim { key, object: policy }, problems);
        }
        policies
    }

    /// What the endpoints of `port` hold calls to: those to itself, and those to `callers`, whose rules lead
    /// to it. Policies that are too much for their sidecars are left out, the last ones first.
    pub fn inbound<'a>(
        &self,
        port: &PortName,
        callers: impl IntoIterator<Item = &'a PortName>,
        problems: &mut Problems,
    ) -> Targets {
        let mut targets = self.targets(port);
        targets.retain(|target, policies| target != port || !policies.is_empty());
        let mut room = Room::default();
        room.fit(port, &mut targets, problems);
        for caller in callers {
            let mut more = self.targets(caller);
            room.fit(port, &mut more, problems);
            targets.extend(more);
        }
        targets
    }

    /// What holds for calls to `port`, and for those of its rules that have policies of their own.
    fn targets(&self, port: &PortName) -> Targets {
        let own = self.ports.get(port).map(Vec::as_slice).unwrap_or_default();
        let mut targets = Targets::from([(port.clone(), in_order(own.iter()))]);
        for (rule, policies) in self.rules.get(port).into_iter().flatten() {
            targets.insert(format!("{port}#{rule}").into(), in_order(policies.iter().chain(own)));
        }
        targets
    }

    /// The Service ports that each policy holds for, by itself or by a rule.
    pub fn placed(&self) -> BTreeMap<ObjectKey, BTreeSet<PortName>> {
        let mut placed: BTreeMap<ObjectKey, BTreeSet<PortName>> = BTreeMap::new();
        let by_rule =
            self.rules.iter().flat_map(|(port, rules)| rules.values().map(move |list| (port, list)));
        for (port, list) in self.ports.iter().chain(by_rule) {
            for ranked in list {
                placed.entry(ranked.policy.key.clone()).or_default().insert(port.clone());
            }
        }
        placed
    }

    fn add(
        &mut self,
        inputs: &Inputs,
        attached: &Attached<'_>,
        claim: Claim<'_, RateLimitPolicy>,
        problems: &mut Problems,
    ) {
        let object = ObjectRef::new(Kind::RateLimitPolicy, claim.key.clone());
        let policy = Policy::compile(claim, &object, problems).map(Arc::new);
        let mut found = false;
        for target in &claim.object.spec.target_refs {
            match resolve(inputs, attached, claim.key, target) {
                Ok(places) => {
                    found = true;
                    if let Some(name) = only_bytes(inputs, claim.key, target) {
                        problems.note(&object, Condition::Accepted, "OpaquePort", opaque_target(&name));
                    }
                    let Some(policy) = &policy else { continue };
                    for (specificity, place) in places {
                        self.place(claim, specificity, place, policy);
                    }
                }
                Err(message) => problems.unresolved(&object, reason::MISSING_TARGET, message),
            }
        }
        if !found {
            problems.refused(
                &object,
                reason::TARGET_NOT_FOUND,
                "nothing that targetRefs name is there".to_owned(),
            );
        }
    }

    fn place(
        &mut self,
        claim: Claim<'_, RateLimitPolicy>,
        specificity: Specificity,
        (port, rule): (PortName, Option<String>),
        policy: &Arc<Policy>,
    ) {
        let rank = (policy.from.is_empty(), specificity, created(&claim.object.metadata), claim.key.clone());
        let list = match rule {
            None => self.ports.entry(port).or_default(),
            Some(rule) => self.rules.entry(port).or_default().entry(rule).or_default(),
        };
        list.push(Ranked { rank, policy: policy.clone() });
    }
}

/// The policies that fit into one listener, each counted once however many targets it has.
#[derive(Debug, Default)]
struct Room {
    used: usize,
    decided: BTreeMap<ObjectKey, bool>,
}

impl Room {
    /// Takes what does not fit out of `targets`.
    fn fit(&mut self, port: &PortName, targets: &mut Targets, problems: &mut Problems) {
        for policy in targets.values().flatten() {
            if self.decided.contains_key(&policy.key) {
                continue;
            }
            let fits = self.used + policy.size <= size::POLICIES_LIMIT;
            self.decided.insert(policy.key.clone(), fits);
            if fits {
                self.used += policy.size;
            } else {
                let object = ObjectRef::new(Kind::RateLimitPolicy, policy.key.clone());
                problems.refused(&object, reason::TOO_LARGE, self.too_large(port, policy));
            }
        }
        let fits = |policy: &Arc<Policy>| self.decided.get(&policy.key).copied().unwrap_or_default();
        targets.values_mut().for_each(|policies| policies.retain(fits));
    }

    fn too_large(&self, port: &PortName, policy: &Policy) -> String {
        format!(
            "the policy is not in force at the endpoints of {port}: it comes to about {} in their sidecars, the \
             policies before it to {}, and the limit for all is {}: write fewer or shorter matches and answers",
            size::shown(policy.size),
            size::shown(self.used),
            size::shown(size::POLICIES_LIMIT)
        )
    }
}

/// In order of precedence, each once.
fn in_order<'a>(policies: impl Iterator<Item = &'a Ranked>) -> Vec<Arc<Policy>> {
    let mut sorted: Vec<_> = policies.collect();
    sorted.sort_by(|left, right| left.rank.cmp(&right.rank));
    let mut list: Vec<Arc<Policy>> = Vec::new();
    for ranked in sorted {
        if !list.iter().any(|policy| policy.key == ranked.policy.key) {
            list.push(ranked.policy.clone());
        }
    }
    list
}

/// A Service port, and one of its rules.
type Place = (PortName, Option<String>);

/// What a target means: Service ports, or rules of the Service ports that the ServiceRoute is in force for.
fn resolve(
    inputs: &Inputs,
    attached: &Attached<'_>,
    policy: &ObjectKey,
    target: &LimitTarget,
) -> Result<Vec<(Specificity, Place)>, String> {
    let key = ObjectKey::new(policy.namespace.clone(), target.name.as_str());
    let section = target.section_name.as_deref();
    match target.kind {
        LimitTargetKind::Service => {
            let specificity = if section.is_some() { Specificity::Port } else { Specificity::Service };
            let ports = named_ports(inputs, &key, section)?;
            let place = |number| (specificity, (port_name(&key, number), None));
            Ok(ports.into_iter().map(|(_, port)| place(port.number)).collect())
        }
        LimitTargetKind::ServiceRoute => {
            let specificity = if section.is_some() { Specificity::Rule } else { Specificity::Route };
            let rules = named_rules(inputs, &key, section)?;
            let ports: Vec<_> =
                attached.routes.iter().filter(|(_, claim)| *claim.key == key).map(|(port, _)| port).collect();
            if ports.is_empty() {
                return Err(format!("ServiceRoute {key} carries no calls, see its status"));
            }
            let places = |port: &PortName| {
                let port = port.clone();
                rules.clone().into_iter().map(move |rule| (specificity, (port.clone(), Some(rule))))
            };
            Ok(ports.into_iter().flat_map(places).collect())
        }
    }
}

/// The name of the target, when no call to it is HTTP.
fn only_bytes(inputs: &Inputs, policy: &ObjectKey, target: &LimitTarget) -> Option<String> {
    let key = ObjectKey::new(policy.namespace.clone(), target.name.as_str());
    let ports = match target.kind {
        LimitTargetKind::Service => named_ports(inputs, &key, target.section_name.as_deref()).ok()?,
        LimitTargetKind::ServiceRoute => return None,
    };
    ports.iter().all(|(_, port)| port.protocol == Protocol::Opaque).then(|| key.to_string())
}

fn opaque_target(name: &str) -> String {
    format!(
        "{name} carries bytes, not HTTP, so limits have no effect there: set the port's appProtocol to http, \
         kubernetes.io/h2c or grpc if it does speak HTTP"
    )
}

/// All rules of the ServiceRoute, or the one of that name.
fn named_rules(inputs: &Inputs, route: &ObjectKey, section: Option<&str>) -> Result<Vec<String>, String> {
    let Some(object) = inputs.service_routes.get(route) else {
        let neighbours = inputs.service_routes.keys().filter(|other| other.namespace == route.namespace);
        let hint = nearest::hint(&route.name, neighbours.map(|other| &*other.name));
        return Err(format!("there is no ServiceRoute {route}{hint}"));
    };
    let names: Vec<_> =
        object.spec.rules.iter().enumerate().map(|(index, rule)| rule_name(index, rule)).collect();
    let Some(section) = section else { return Ok(names) };
    if names.iter().any(|name| name == section) {
        return Ok(vec![section.to_owned()]);
    }
    let hint = nearest::hint(section, names.iter().map(String::as_str));
    Err(format!("ServiceRoute {route} has no rule {section}{hint}"))
}

impl Policy {
    /// None: it is disabled, or nothing of it can be used.
    fn compile(
        claim: Claim<'_, RateLimitPolicy>,
        object: &ObjectRef,
        problems: &mut Problems,
    ) -> Option<Self> {
        let spec = &claim.object.spec;
        if spec.mode == Mode::Disabled {
            return None;
        }
        // A policy for some callers must not become one for others: with a broken `from` it is out.
        if let Err(message) = spec.from.iter().try_for_each(matching::check) {
            problems.refused(object, reason::INVALID, format!("the policy is not in force: from: {message}"));
            return None;
        }
        let mut limits = Vec::new();
        for limit in &spec.limits {
            match limit.matches.iter().try_for_each(matching::check) {
                Ok(()) => limits.push(limit.clone()),
                Err(message) => {
                    let message = format!("limit {} is not in force, the others are: {message}", limit.name);
                    problems.refused(object, reason::PARTIALLY_INVALID, message);
                }
            }
        }
        (!limits.is_empty()).then(|| Self {
            key: claim.key.clone(),
            shadow: spec.mode == Mode::Shadow,
            from: spec.from.clone(),
            limits,
            response: spec.response.clone(),
            size: size::of_policy(spec),
        })
    }
}
