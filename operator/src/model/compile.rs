//! How the parts of the model come together.
//!
//! ```text
//! attach: who is in force ----> routes: rules, references ----> limits: who is held to what
//!                    \---------------\--------------------------------\--> Port, one for each Service port
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use fairlead_crds::status::reason;

use super::attach::Attached;
use super::endpoints::Endpoints;
use super::inputs::Inputs;
use super::limits::{Inbound, Policies};
use super::mesh::{Contribution, Listener, Mesh, Port};
use super::object::{Kind, ObjectKey, ObjectRef, PortName, port_name};
use super::policy::Cluster;
use super::problem::{Problem, Problems};
use super::route::Routes;
use super::service::{Protocol, Service, ServiceKind, ServicePort};
use super::size;
use super::slice::EndpointSlice;

/// See [`super::compile`].
pub fn compile(inputs: &Inputs) -> (Mesh, Vec<Problem>) {
    let mut problems = Problems::default();
    for (object, violations) in &inputs.invalid {
        problems.refused(object, reason::INVALID, violations.join("; "));
    }
    let attached = Attached::new(inputs, &mut problems);
    let routes = Carried::new(inputs, &attached, &mut problems);
    let policies = Policies::new(inputs, &attached, &mut problems);

    let slices = slices_by_service(inputs);
    let mut parts =
        Parts { attached: &attached, carried: &routes, policies: &policies, plain: HashMap::new() };
    let mut mesh = Mesh::default();
    let mut listed: BTreeMap<SocketAddr, Vec<PortName>> = BTreeMap::new();
    for service in inputs.services.values().filter(|service| service.kind != ServiceKind::ExternalName) {
        let slices = slices.get(&service.key).map(Vec::as_slice).unwrap_or_default();
        for port in &service.ports {
            let port = parts.port(service, port, slices, &mut problems);
            for address in &port.listener.addresses {
                let address = SocketAddr::new(*address, port.number);
                if mesh.service_addresses.get(&address).is_none() {
                    mesh.service_addresses.insert(address, port.name.clone());
                }
            }
            for endpoint in &port.endpoints.list {
                listed.entry(endpoint.address).or_default().push(port.name.clone());
            }
            mesh.ports.insert(port.name.clone(), Arc::new(port));
        }
    }
    for (address, mut ports) in listed {
        ports.sort_unstable();
        mesh.endpoint_addresses.insert(address, ports.into());
    }
    mesh.contributions = Arc::new(contributions(inputs, &attached, &routes, &policies));
    (mesh, problems.into_sorted())
}

/// Puts the endpoints of one Service as they are in `inputs` into `mesh`.
pub fn replace_endpoints(mesh: &mut Mesh, inputs: &Inputs, key: &ObjectKey) {
    let Some(service) = inputs.services.get(key) else { return };
    let slices = slices_of(inputs, key);
    for number in service.ports.iter().map(|port| port.number) {
        let Some(port) = mesh.ports.get(&port_name(key, number)).cloned() else { continue };
        let endpoints = Endpoints::compile(&port.port_name, &slices, service.cluster_ips().first());
        if endpoints == *port.endpoints {
            continue;
        }
        for endpoint in &port.endpoints.list {
            if !endpoints.contains(endpoint.address) {
                list(mesh, endpoint.address, |ports| ports.retain(|name| *name != port.name));
            }
        }
        for endpoint in &endpoints.list {
            if !port.endpoints.contains(endpoint.address) {
                list(mesh, endpoint.address, |ports| ports.push(port.name.clone()));
            }
        }
        let changed = Port { endpoints: Arc::new(endpoints), ..(*port).clone() };
        mesh.ports.insert(port.name.clone(), Arc::new(changed));
    }
}

/// Changes which Service ports list an endpoint.
fn list(mesh: &mut Mesh, address: SocketAddr, change: impl FnOnce(&mut Vec<PortName>)) {
    let mut ports = mesh.endpoint_addresses.get(&address).map(|ports| ports.to_vec()).unwrap_or_default();
    change(&mut ports);
    ports.sort_unstable();
    if ports.is_empty() {
        mesh.endpoint_addresses.remove(&address);
    } else {
        mesh.endpoint_addresses.insert(address, ports.into());
    }
}

/// Takes over from `previous` what is equal.
pub fn share(mesh: &mut Mesh, previous: &Mesh) {
    let mut shared = Vec::new();
    for (name, port) in mesh.ports.iter() {
        let Some(before) = previous.ports.get(name) else { continue };
        let mut port = (**port).clone();
        port.share_with(before);
        let port = if port.is_same(before) { before.clone() } else { Arc::new(port) };
        shared.push((name.clone(), port));
    }
    for (name, port) in shared {
        mesh.ports.insert(name, port);
    }
    mesh.ports.share_with(&previous.ports, Arc::ptr_eq);
    mesh.service_addresses.share_with(&previous.service_addresses, PartialEq::eq);
    mesh.endpoint_addresses.share_with(&previous.endpoint_addresses, PartialEq::eq);
}

/// The rules in force, and where they lead.
struct Carried<'a> {
    by_route: BTreeMap<&'a ObjectKey, Arc<Routes>>,
    /// By Service port that requests are sent to: the Service ports that were called.
    callers: BTreeMap<PortName, BTreeSet<PortName>>,
}

impl<'a> Carried<'a> {
    fn new(inputs: &'a Inputs, attached: &Attached<'a>, problems: &mut Problems) -> Self {
        let mut carried = Self { by_route: BTreeMap::new(), callers: BTreeMap::new() };
        // Every ServiceRoute is compiled, also one that is in force nowhere: its author hears of everything
        // that is wrong with it at once.
        for (key, object) in &inputs.service_routes {
            let claim = super::attach::Claim { key, object: &**object };
            let routes = size::bounded(Routes::compile(inputs, claim, problems), claim, problems);
            carried.by_route.insert(key, Arc::new(routes));
        }
        for (port, claim) in &attached.routes {
            for backend in carried.by_route.get(claim.key).iter().flat_map(|routes| routes.backends()) {
                if backend != port {
                    carried.callers.entry(backend.clone()).or_default().insert(port.clone());
                }
            }
        }
        carried
    }
}

/// Everything that the parts of a Service port are made of.
struct Parts<'a> {
    attached: &'a Attached<'a>,
    carried: &'a Carried<'a>,
    policies: &'a Policies,
    /// What Service ports have that no object of ours is about: nearly all of them, so it is shared.
    plain: HashMap<Protocol, Plain>,
}

#[derive(Clone)]
struct Plain {
    routes: Arc<Routes>,
    cluster: Arc<Cluster>,
    inbound: Arc<Inbound>,
}

impl Parts<'_> {
    fn port(
        &mut self,
        service: &Service,
        port: &ServicePort,
        slices: &[&EndpointSlice],
        problems: &mut Problems,
    ) -> Port {
        let name = port_name(&service.key, port.number);
        let plain = self.plain(port.protocol);
        let named = self.attached.names(&service.key);
        let announced = named || service.left_to_kube_proxy().is_none();
        Port {
            service: service.key.clone(),
            port_name: port.name.clone(),
            number: port.number,
            listener: Arc::new(Listener {
                protocol: port.protocol,
                addresses: if announced { service.cluster_ips().to_vec() } else { Vec::new() },
                headless: service.kind == ServiceKind::Headless,
            }),
            routes: self.routes(&name).unwrap_or(plain.routes),
            cluster: self.cluster(&name, port.protocol).unwrap_or(plain.cluster),
            endpoints: Arc::new(Endpoints::compile(&port.name, slices, service.cluster_ips().first())),
            inbound: self.inbound(&name, port.protocol, problems).unwrap_or(plain.inbound),
            name,
        }
    }

    fn plain(&mut self, protocol: Protocol) -> Plain {
        let plain = self.plain.entry(protocol).or_insert_with(|| Plain {
            routes: Arc::new(Routes::default()),
            cluster: Arc::new(Cluster::compile("", protocol, &Attached::default())),
            inbound: Arc::new(Inbound { protocol, targets: BTreeMap::new() }),
        });
        plain.clone()
    }

    fn routes(&self, name: &str) -> Option<Arc<Routes>> {
        let claim = self.attached.routes.get(name)?;
        self.carried.by_route.get(claim.key).cloned()
    }

    fn cluster(&self, name: &str, protocol: Protocol) -> Option<Arc<Cluster>> {
        let attached = self.attached;
        let set = attached.load_balancers.contains_key(name)
            || attached.connection_pools.contains_key(name)
            || attached.retry_constraints.contains_key(name)
            || attached.outliers.contains_key(name);
        set.then(|| Arc::new(Cluster::compile(name, protocol, attached)))
    }

    fn inbound(&self, name: &PortName, protocol: Protocol, problems: &mut Problems) -> Option<Arc<Inbound>> {
        let callers = self.carried.callers.get(name).into_iter().flatten();
        let targets = self.policies.inbound(name, callers, problems);
        (!targets.is_empty()).then(|| Arc::new(Inbound { protocol, targets }))
    }
}

/// What each object is in force in.
fn contributions(
    inputs: &Inputs,
    attached: &Attached<'_>,
    carried: &Carried<'_>,
    policies: &Policies,
) -> BTreeMap<ObjectRef, Contribution> {
    let mut all: BTreeMap<ObjectRef, Contribution> = BTreeMap::new();
    let route = |key: &ObjectKey| ObjectRef::new(Kind::ServiceRoute, key.clone());
    for (port, claim) in &attached.routes {
        all.entry(route(claim.key)).or_default().routes.insert(port.clone());
    }
    for settings in [&attached.load_balancers, &attached.connection_pools, &attached.retry_constraints] {
        for (port, claim) in settings {
            all.entry(route(claim.key)).or_default().clusters.insert(port.clone());
        }
    }
    for (key, services) in &attached.named {
        let services = services.iter().filter_map(|service| inputs.services.get(service));
        for service in services.filter(|service| service.left_to_kube_proxy().is_some()) {
            let ports = service.ports.iter().map(|port| port_name(&service.key, port.number));
            all.entry(route(key)).or_default().listeners.extend(ports);
        }
    }
    for (port, claim) in &attached.outliers {
        let object = ObjectRef::new(Kind::OutlierDetection, claim.key.clone());
        all.entry(object).or_default().clusters.insert(port.clone());
    }
    let mut led_to: BTreeMap<&PortName, Vec<&PortName>> = BTreeMap::new();
    for (backend, callers) in &carried.callers {
        for caller in callers {
            led_to.entry(caller).or_default().push(backend);
            // The sidecars behind the backend learn that its calls may be made to the caller.
            if let Some(claim) = attached.routes.get(caller) {
                all.entry(route(claim.key)).or_default().inbound.insert(backend.clone());
            }
        }
    }
    for (key, ports) in policies.placed() {
        let object = ObjectRef::new(Kind::RateLimitPolicy, key.clone());
        let inbound = &mut all.entry(object).or_default().inbound;
        for port in ports {
            inbound.extend(led_to.get(&port).into_iter().flatten().map(|backend| (*backend).clone()));
            inbound.insert(port);
        }
    }
    all
}

fn slices_by_service(inputs: &Inputs) -> HashMap<&ObjectKey, Vec<&EndpointSlice>> {
    let mut by_service: HashMap<_, Vec<&EndpointSlice>> = HashMap::new();
    for slice in inputs.endpoint_slices.values() {
        by_service.entry(&slice.service).or_default().push(slice);
    }
    by_service
}

/// The slices of one Service: those of its namespace are looked through.
fn slices_of<'a>(inputs: &'a Inputs, service: &ObjectKey) -> Vec<&'a EndpointSlice> {
    let first = ObjectKey::new(service.namespace.clone(), "");
    inputs
        .endpoint_slices
        .range(first..)
        .take_while(|(key, _)| key.namespace == service.namespace)
        .map(|(_, slice)| &**slice)
        .filter(|slice| slice.service == *service)
        .collect()
}
