//! A slow, plain client: it believes what the protocol's text says and nothing more.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status as RpcStatus;

use prost::Message;

use super::super::*;
use crate::xds::snapshot::NamedResource;

/// What a client wants and has of one type.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) opened: bool,
    pub(super) wildcard: bool,
    pub(super) wants: BTreeSet<String>,
    /// Name to version.
    pub(super) has: BTreeMap<String, String>,
    /// Versions that it refused: it keeps what it had.
    pub(super) refused: BTreeMap<String, String>,
    /// Names that it asked for and that were answered, on this stream.
    pub(super) answered: BTreeSet<String>,
    /// State of the world: it refused the latest response as a whole, with the removals in it.
    pub(super) keeps_old: bool,
    version_info: String,
    nonce: String,
}

/// The client.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) protocol: Protocol,
    pub(super) views: BTreeMap<ResourceKind, View>,
    /// Responses that it has not answered: kind, nonce.
    pub(super) unanswered: Vec<Response>,
}

impl Client {
    pub(super) fn new(protocol: Protocol) -> Self {
        let views = ResourceKind::ALL.iter().map(|kind| (*kind, View::default())).collect();
        Self { protocol, views, unanswered: Vec::new() }
    }

    pub(super) fn view(&mut self, kind: ResourceKind) -> &mut View {
        self.views.get_mut(&kind).unwrap()
    }

    /// Wants these, and no longer those. State of the world says the whole list.
    pub(super) fn want(
        &mut self,
        session: &mut Session,
        kind: ResourceKind,
        add: &[String],
        drop: &[String],
    ) {
        let protocol = self.protocol;
        // State of the world cannot say "drop this and give it to me again" in a request that a
        // response under way overtakes; a sensible client waits with the first half.
        let overtaken = self.unanswered.iter().any(|response| response.type_url() == kind.type_url());
        let drop = if protocol == Protocol::State && overtaken { &[] } else { drop };
        let view = self.view(kind);
        // An empty first request would be the legacy wildcard, which the sequences cover.
        if !view.opened && add.is_empty() {
            return;
        }
        view.opened = true;
        for name in drop {
            if name == "*" {
                view.wildcard = false;
            } else {
                view.wants.remove(name);
            }
        }
        for name in add {
            if name == "*" {
                view.wildcard = true;
            } else {
                view.wants.insert(name.clone());
                view.answered.remove(name);
            }
        }
        let wants = view.wants.clone();
        let wildcard = view.wildcard;
        let covered = |name: &String| wants.contains(name) || wildcard && wildcard_covers(kind, name);
        view.has.retain(|name, _| covered(name));
        view.refused.retain(|name, _| covered(name));
        match protocol {
            Protocol::Delta => session.delta(DeltaDiscoveryRequest {
                resource_names_subscribe: add.to_vec(),
                resource_names_unsubscribe: drop.to_vec(),
                ..super::delta(kind)
            }),
            Protocol::State => session.state(view.state_request(kind)),
        }
        .unwrap();
    }

    /// Answers the oldest response.
    pub(super) fn answer(&mut self, session: &mut Session, good: bool) {
        if self.unanswered.is_empty() {
            return;
        }
        let response = self.unanswered.remove(0);
        let kind = ResourceKind::from_type_url(response.type_url()).unwrap();
        let error = (!good).then(|| RpcStatus { code: 3, message: "no".to_owned(), ..RpcStatus::default() });
        let protocol = self.protocol;
        let view = self.view(kind);
        let wants = view.wants.clone();
        let wildcard = view.wildcard;
        let covered = |name: &String| wants.contains(name) || wildcard && wildcard_covers(kind, name);
        match response {
            Response::Delta(delta) => {
                for resource in delta.resources {
                    let resource = NamedResource::decode(resource).unwrap();
                    view.answered.insert(resource.name.clone());
                    if !covered(&resource.name) {
                        continue;
                    }
                    if good {
                        view.refused.remove(&resource.name);
                        view.has.insert(resource.name, resource.version);
                    } else {
                        view.refused.insert(resource.name, resource.version);
                    }
                }
                for name in delta.removed_resources {
                    view.answered.insert(name.clone());
                    view.refused.remove(&name);
                    view.has.remove(&name);
                }
                let request = DeltaDiscoveryRequest {
                    response_nonce: delta.nonce,
                    error_detail: error,
                    ..super::delta(kind)
                };
                session.delta(request).unwrap();
            }
            Response::State(state) => {
                let mut all = BTreeMap::new();
                for resource in state.resources {
                    let text = String::from_utf8(resource.value.to_vec()).unwrap();
                    let (name, version) = text.rsplit_once('@').unwrap();
                    all.insert(name.to_owned(), version.to_owned());
                }
                view.keeps_old = !good;
                if kind.sends_full_state() && good {
                    view.has.clear();
                    view.refused.clear();
                }
                for (name, version) in all.into_iter().filter(|(name, _)| covered(name)) {
                    if good {
                        view.refused.remove(&name);
                        view.has.insert(name, version);
                    } else {
                        view.refused.insert(name, version);
                    }
                }
                view.nonce = state.nonce;
                if good {
                    view.version_info = state.version_info;
                }
                let request = DiscoveryRequest { error_detail: error, ..view.state_request(kind) };
                session.state(request).unwrap();
            }
        }
        assert_eq!(protocol, self.protocol);
    }

    /// A new stream: says what it has and wants.
    pub(super) fn reconnect(&mut self, session: &mut Session) {
        self.unanswered.clear();
        for (kind, view) in &mut self.views {
            view.nonce.clear();
            view.answered.clear();
            if !view.opened || !view.wildcard && view.wants.is_empty() {
                view.opened = false;
                view.has.clear();
                view.version_info.clear();
                continue;
            }
            let names: Vec<String> =
                view.wants.iter().cloned().chain(view.wildcard.then(|| "*".to_owned())).collect();
            match self.protocol {
                Protocol::Delta => session.delta(DeltaDiscoveryRequest {
                    resource_names_subscribe: names,
                    initial_resource_versions: view.has.clone().into_iter().collect(),
                    ..super::delta(*kind)
                }),
                Protocol::State => session.state(view.state_request(*kind)),
            }
            .unwrap();
            // What it refused before may come again.
            view.refused.clear();
        }
    }
}

impl View {
    fn state_request(&self, kind: ResourceKind) -> DiscoveryRequest {
        DiscoveryRequest {
            node: Some(super::node()),
            type_url: kind.type_url().to_owned(),
            resource_names: self.wants.iter().cloned().chain(self.wildcard.then(|| "*".to_owned())).collect(),
            version_info: self.version_info.clone(),
            response_nonce: self.nonce.clone(),
            ..DiscoveryRequest::default()
        }
    }
}
