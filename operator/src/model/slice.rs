//! An EndpointSlice, as far as the mesh needs it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as discovery;

use super::object::ObjectKey;

/// The label that names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service that it belongs to.
    pub service: ObjectKey,
    /// The TCP ports that its endpoints listen on.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port of all endpoints of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: Arc<str>,
    /// Where the endpoints listen (the target port, resolved).
    pub number: u16,
}

/// An endpoint of a slice. Its hints (`forZones`: which zones shall use it) are not kept: nothing prefers a
/// zone yet. They come with the field that will, `loadBalancer.zone` of a ServiceRoute; until then every
/// endpoint gets calls from everywhere, and its zone is only told to who asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses, of the slice's family.
    pub addresses: Vec<IpAddr>,
    /// Whether it may be called.
    pub condition: EndpointCondition,
    /// The zone that it runs in.
    pub zone: Option<Arc<str>>,
    /// The pod that it is, if it is one.
    pub pod: Option<Arc<str>>,
}

/// Whether an endpoint may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointCondition {
    /// Yes. `publishNotReadyAddresses` is in it: the API server's `ready` says so.
    Ready,
    /// On its way out, and still answering: only when nothing is ready.
    TerminatingServing,
    /// No.
    NotReady,
}

impl EndpointSlice {
    /// The narrow part of an API object; none when it has no name, names no Service, or holds names instead
    /// of addresses (`addressType: FQDN`).
    pub fn from_api(slice: &discovery::EndpointSlice) -> Option<Self> {
        let metadata = &slice.metadata;
        let namespace: Arc<str> = metadata.namespace.as_deref().unwrap_or("default").into();
        let service = metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        if slice.address_type == "FQDN" {
            return None;
        }
        Some(Self {
            key: ObjectKey::new(namespace.clone(), metadata.name.as_deref()?),
            service: ObjectKey::new(namespace, service.as_str()),
            ports: slice.ports.iter().flatten().filter_map(SlicePort::from_api).collect(),
            endpoints: SliceEndpoint::all(&slice.endpoints),
        })
    }
}

impl SlicePort {
    fn from_api(port: &discovery::EndpointPort) -> Option<Self> {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            return None;
        }
        let number = u16::try_from(port.port?).ok().filter(|number| *number > 0)?;
        Some(Self { name: port.name.as_deref().unwrap_or_default().into(), number })
    }
}

impl SliceEndpoint {
    /// The endpoints; those of one zone share its name.
    fn all(endpoints: &[discovery::Endpoint]) -> Vec<Self> {
        let mut zones = BTreeSet::<Arc<str>>::new();
        let mut zone_of = |endpoint: &discovery::Endpoint| {
            let zone = endpoint.zone.as_deref()?;
            if !zones.contains(zone) {
                zones.insert(zone.into());
            }
            zones.get(zone).cloned()
        };
        let narrow = endpoints.iter().map(|endpoint| Self {
            addresses: endpoint.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            condition: EndpointCondition::from_api(endpoint.conditions.as_ref()),
            zone: zone_of(endpoint),
            pod: pod_of(endpoint),
        });
        narrow.collect()
    }
}

fn pod_of(endpoint: &discovery::Endpoint) -> Option<Arc<str>> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    target.name.as_deref().map(Into::into)
}

impl EndpointCondition {
    /// The nil defaults of the API: `ready` unknown is ready, `serving` unknown is what `ready` is,
    /// `terminating` unknown is not.
    fn from_api(conditions: Option<&discovery::EndpointConditions>) -> Self {
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        match (ready, serving, terminating) {
            (true, _, _) => Self::Ready,
            (false, true, true) => Self::TerminatingServing,
            (false, _, _) => Self::NotReady,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_have_the_defaults_of_the_api() {
        let condition = |ready, serving, terminating| {
            EndpointCondition::from_api(Some(&discovery::EndpointConditions { ready, serving, terminating }))
        };
        assert_eq!(EndpointCondition::from_api(None), EndpointCondition::Ready);
        assert_eq!(condition(None, None, None), EndpointCondition::Ready);
        assert_eq!(condition(Some(true), None, None), EndpointCondition::Ready);
        assert_eq!(condition(Some(false), None, None), EndpointCondition::NotReady);
        assert_eq!(condition(Some(false), Some(true), None), EndpointCondition::NotReady);
        assert_eq!(condition(Some(false), Some(true), Some(true)), EndpointCondition::TerminatingServing);
        assert_eq!(condition(Some(false), None, Some(true)), EndpointCondition::NotReady);
        // publishNotReadyAddresses: ready though terminating.
        assert_eq!(condition(Some(true), Some(true), Some(true)), EndpointCondition::Ready);
    }
}
