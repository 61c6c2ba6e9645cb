//! Which objects are in force for which Service port, and which have lost it to an older one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairlead_crds::status::reason;
use fairlead_crds::{Mode, OutlierDetection, ParentReference, ServiceRoute, ServiceTarget};
use jiff::Timestamp;
use kube::api::ObjectMeta;

use super::inputs::Inputs;
use super::nearest;
use super::object::{Kind, ObjectKey, ObjectRef, PortName, port_name};
use super::problem::{Condition, Problems};
use super::service::{Protocol, Service, ServiceKind, ServicePort};

/// The objects in force, by Service port. Of several that want the same the older wins, then the name.
#[derive(Debug, Default)]
pub struct Attached<'a> {
    /// ServiceRoutes with rules.
    pub routes: BTreeMap<PortName, Claim<'a, ServiceRoute>>,
    /// ServiceRoutes that set `loadBalancer`.
    pub load_balancers: BTreeMap<PortName, Claim<'a, ServiceRoute>>,
    /// ServiceRoutes that set `connectionPool`.
    pub connection_pools: BTreeMap<PortName, Claim<'a, ServiceRoute>>,
    /// ServiceRoutes that set `retryConstraint`.
    pub retry_constraints: BTreeMap<PortName, Claim<'a, ServiceRoute>>,
    /// OutlierDetections that are not disabled.
    pub outliers: BTreeMap<PortName, Claim<'a, OutlierDetection>>,
    /// By ServiceRoute: the Services that it names, whether it is in force or not.
    pub named: BTreeMap<&'a ObjectKey, BTreeSet<ObjectKey>>,
    services: BTreeSet<ObjectKey>,
}

/// An object that wants to be in force.
#[derive(Debug)]
pub struct Claim<'a, T> {
    /// Its name.
    pub key: &'a ObjectKey,
    /// The object.
    pub object: &'a T,
}

impl<T> Clone for Claim<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Claim<'_, T> {}

/// Older first, then by name. Objects of a directory have no age: then the name decides.
pub fn by_age<'a, T>(
    objects: &'a BTreeMap<ObjectKey, Arc<T>>,
    metadata: impl Fn(&T) -> &ObjectMeta,
) -> Vec<Claim<'a, T>> {
    let mut sorted: Vec<_> = objects.iter().map(|(key, object)| Claim { key, object: &**object }).collect();
    sorted.sort_by_key(|claim| (created(metadata(claim.object)), claim.key));
    sorted
}

/// When the object was made.
pub fn created(metadata: &ObjectMeta) -> Option<Timestamp> {
    metadata.creation_timestamp.as_ref().map(|time| time.0)
}

impl<'a> Attached<'a> {
    /// Decides who is in force.
    pub fn new(inputs: &'a Inputs, problems: &mut Problems) -> Self {
        let mut attached = Self::default();
        for claim in by_age(&inputs.service_routes, |route| &route.metadata) {
            attached.add_route(inputs, claim, problems);
        }
        for claim in by_age(&inputs.outlier_detections, |policy| &policy.metadata) {
            attached.add_outlier(inputs, claim, problems);
        }
        attached
    }

    /// Whether any ServiceRoute names the Service.
    pub fn names(&self, service: &ObjectKey) -> bool {
        self.services.contains(service)
    }

    fn add_route(&mut self, inputs: &'a Inputs, claim: Claim<'a, ServiceRoute>, problems: &mut Problems) {
        let object = ObjectRef::new(Kind::ServiceRoute, claim.key.clone());
        let spec = &claim.object.spec;
        let mut lost = Conflicts::default();
        let mut found = false;
        for parent in &spec.parent_refs {
            let ports = match parent_ports(inputs, claim.key, parent) {
                Ok(ports) => ports,
                Err(message) => {
                    let message = format!("parentRef {}: {message}", parent.name);
                    problems.unresolved(&object, reason::PARENT_NOT_FOUND, message);
                    continue;
                }
            };
            found = true;
            for (service, port) in ports {
                let name = port_name(&service.key, port.number);
                self.services.insert(service.key.clone());
                self.named.entry(claim.key).or_default().insert(service.key.clone());
                if !spec.rules.is_empty() {
                    if port.protocol == Protocol::Opaque {
                        if parent.port.is_some() || only_bytes(service) {
                            problems.note(&object, Condition::Accepted, "OpaquePort", opaque_port(&name));
                        }
                    } else {
                        lost.claim(&mut self.routes, &name, claim, "rules");
                    }
                }
                if spec.load_balancer.is_some() {
                    lost.claim(&mut self.load_balancers, &name, claim, "loadBalancer");
                }
                if spec.connection_pool.is_some() {
                    lost.claim(&mut self.connection_pools, &name, claim, "connectionPool");
                }
                if spec.retry_constraint.is_some() {
                    lost.claim(&mut self.retry_constraints, &name, claim, "retryConstraint");
                }
                if let Some(why) = service.left_to_kube_proxy() {
                    problems.note(
                        &object,
                        Condition::Accepted,
                        "KubeProxyReplaced",
                        kube_proxy(&service.key, why),
                    );
                }
            }
        }
        if !found {
            let message = "no Service port that parentRefs name is there".to_owned();
            problems.refused(&object, reason::NO_MATCHING_PARENT, message);
        }
        lost.report(&object, problems);
    }

    fn add_outlier(
        &mut self,
        inputs: &'a Inputs,
        claim: Claim<'a, OutlierDetection>,
        problems: &mut Problems,
    ) {
        let object = ObjectRef::new(Kind::OutlierDetection, claim.key.clone());
        let mut lost = Conflicts::default();
        let mut found = false;
        for target in &claim.object.spec.target_refs {
            match target_ports(inputs, claim.key, target) {
                Ok(ports) => {
                    found = true;
                    if claim.object.spec.mode != Mode::Disabled {
                        for (service, port) in ports {
                            let name = port_name(&service.key, port.number);
                            lost.claim(&mut self.outliers, &name, claim, "OutlierDetection");
                        }
                    }
                }
                Err(message) => problems.unresolved(&object, reason::MISSING_TARGET, message),
            }
        }
        if !found {
            problems.refused(
                &object,
                reason::TARGET_NOT_FOUND,
                "no Service that targetRefs name is there".to_owned(),
            );
        }
        lost.report(&object, problems);
    }
}

/// What an object has won and lost.
#[derive(Debug, Default)]
struct Conflicts {
    won: usize,
    lost: Vec<String>,
}

impl Conflicts {
    fn claim<'a, T>(
        &mut self,
        claims: &mut BTreeMap<PortName, Claim<'a, T>>,
        port: &PortName,
        claim: Claim<'a, T>,
        what: &str,
    ) {
        // The same object may name a port twice, by itself and with all ports of its Service.
        let winner = claims.entry(port.clone()).or_insert(claim);
        if winner.key == claim.key {
            self.won += 1;
        } else {
            self.lost.push(format!("{what} of {port}: {} is older or comes first by name", winner.key));
        }
    }

    fn report(self, object: &ObjectRef, problems: &mut Problems) {
        if self.lost.is_empty() {
            return;
        }
        let message = self.lost.join("; ");
        if self.won == 0 {
            problems.refused(object, reason::LOST, message.clone());
        }
        problems.error(object, Condition::Conflicted, reason::CONFLICTED, message);
    }
}

/// A Service with one of its ports.
pub type ServiceAndPort<'a> = (&'a Service, &'a ServicePort);

fn parent_ports<'a>(
    inputs: &'a Inputs,
    route: &ObjectKey,
    parent: &ParentReference,
) -> Result<Vec<ServiceAndPort<'a>>, String> {
    let service = find_service(inputs, &ObjectKey::new(route.namespace.clone(), parent.name.as_str()))?;
    match parent.port {
        None => Ok(service.ports.iter().map(|port| (service, port)).collect()),
        Some(number) => Ok(vec![(service, find_port(service, number)?)]),
    }
}

/// The ports that a policy's target means.
pub fn target_ports<'a>(
    inputs: &'a Inputs,
    policy: &ObjectKey,
    target: &ServiceTarget,
) -> Result<Vec<ServiceAndPort<'a>>, String> {
    named_ports(
        inputs,
        &ObjectKey::new(policy.namespace.clone(), target.name.as_str()),
        target.section_name.as_deref(),
    )
}

/// All ports of the Service, or the one of that name. The number does as well, for a port without a name:
/// no port's name consists of digits.
pub fn named_ports<'a>(
    inputs: &'a Inputs,
    key: &ObjectKey,
    section: Option<&str>,
) -> Result<Vec<ServiceAndPort<'a>>, String> {
    let service = find_service(inputs, key)?;
    let Some(section) = section else {
        return Ok(service.ports.iter().map(|port| (service, port)).collect());
    };
    let number: Option<u16> = section.parse().ok();
    let found = service.ports.iter().find(|port| &*port.name == section || number == Some(port.number));
    let Some(port) = found else {
        let hint = nearest::hint(section, service.ports.iter().map(|port| &*port.name));
        return Err(format!("Service {key} has no port named {section}{hint}"));
    };
    Ok(vec![(service, port)])
}

/// The Service, when calls to it can be carried; else what is wrong with it.
pub fn find_service<'a>(inputs: &'a Inputs, key: &ObjectKey) -> Result<&'a Service, String> {
    let Some(service) = inputs.services.get(key) else {
        let neighbours = inputs.services.keys().filter(|other| other.namespace == key.namespace);
        let hint = nearest::hint(&key.name, neighbours.map(|other| &*other.name));
        return Err(format!("there is no Service {key}{hint}"));
    };
    if service.kind == ServiceKind::ExternalName {
        return Err(format!("Service {key} is of type ExternalName and has no endpoints to call"));
    }
    Ok(service)
}

/// The port of that number; else what is wrong.
pub fn find_port(service: &Service, number: u16) -> Result<&ServicePort, String> {
    service.ports.iter().find(|port| port.number == number).ok_or_else(|| {
        let numbers: Vec<_> = service.ports.iter().map(|port| port.number.to_string()).collect();
        let those = if numbers.is_empty() { "no TCP port".to_owned() } else { numbers.join(", ") };
        format!("Service {} has no TCP port {number}; it has {those}", service.key)
    })
}

/// Whether nothing but bytes is carried on any of its ports.
pub fn only_bytes(service: &Service) -> bool {
    service.ports.iter().all(|port| port.protocol == Protocol::Opaque)
}

fn opaque_port(port: &str) -> String {
    format!(
        "{port} carries bytes, not HTTP, so rules have no effect there: set the port's appProtocol to http, \
         kubernetes.io/h2c or grpc if it does speak HTTP"
    )
}

fn kube_proxy(service: &ObjectKey, why: &str) -> String {
    format!(
        "Service {service} has {why}, which kube-proxy no longer applies to meshed callers, for this route names it"
    )
}
