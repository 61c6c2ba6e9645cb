//! How the parts of the model come together.

use std::net::SocketAddr;
use std::sync::Arc;

use super::endpoints::Endpoints;
use super::inputs::Inputs;
use super::mesh::{Listener, Mesh, Port, PortName};
use super::object::ObjectKey;
use super::problem::Problem;
use super::service::{Service, ServiceKind};
use super::slice::EndpointSlice;

/// See [`super::compile`].
pub fn compile(inputs: &Inputs) -> (Mesh, Vec<Problem>) {
    let mut mesh = Mesh::default();
    for service in inputs.services.values() {
        if service.kind == ServiceKind::ExternalName {
            continue;
        }
        for port in &service.ports {
            let name: PortName = format!("{}:{}", service.key, port.number).into();
            let addresses =
                if service.left_to_kube_proxy().is_some() { &[][..] } else { service.cluster_ips() };
            for address in addresses {
                mesh.service_addresses.insert(SocketAddr::new(*address, port.number), name.clone());
            }
            let headless = service.kind == ServiceKind::Headless;
            let port = Port {
                name: name.clone(),
                service: service.key.clone(),
                port_name: port.name.clone(),
                number: port.number,
                listener: Arc::new(Listener {
                    protocol: port.protocol,
                    addresses: addresses.to_vec(),
                    headless,
                }),
                endpoints: Arc::new(endpoints_of(inputs, service, &port.name)),
            };
            mesh.ports.insert(name, Arc::new(port));
        }
    }
    (mesh, Vec::new())
}

/// Puts the endpoints of one Service as they are in `inputs` into `mesh`.
pub fn replace_endpoints(mesh: &mut Mesh, inputs: &Inputs, service: &ObjectKey) {
    let _ = (mesh, inputs, service);
}

/// Takes over from `previous` what is equal.
pub fn share(mesh: &mut Mesh, previous: &Mesh) {
    let _ = (mesh, previous);
}

fn endpoints_of(inputs: &Inputs, service: &Service, port_name: &str) -> Endpoints {
    Endpoints::compile(port_name, slices_of(inputs, &service.key))
}

fn slices_of<'a>(inputs: &'a Inputs, service: &'a ObjectKey) -> impl Iterator<Item = &'a EndpointSlice> {
    inputs.endpoint_slices.values().map(|slice| &**slice).filter(move |slice| slice.service == *service)
}
