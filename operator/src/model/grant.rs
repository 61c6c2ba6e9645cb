//! ReferenceGrant of the Gateway API: a namespace allows others to refer to what is in it.
//!
//! A ServiceRoute may send requests to a Service of another namespace only with such a grant there, in a
//! cluster that has this kind. Where it does not exist nobody could give one, so nobody has to: the callers
//! could dial that Service themselves, and what may reach it is for NetworkPolicies to say.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::object::{Kind, ObjectKey};

/// A ReferenceGrant, as far as it is about ServiceRoutes and Services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReferenceGrant {
    /// The namespaces whose ServiceRoutes are allowed.
    pub from: Vec<Arc<str>>,
    /// The Services of the grant's own namespace that they may use.
    pub to: Vec<Granted>,
}

/// What a grant allows to refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Granted {
    /// Every Service of the namespace.
    AllServices,
    /// The Service of that name.
    Service(Arc<str>),
}

/// The grants of a cluster; none: it does not have this kind of object.
pub type Grants = Option<BTreeMap<ObjectKey, Arc<ReferenceGrant>>>;

/// Whether ServiceRoutes of the namespace `from` may send requests to `service`.
pub fn permits(grants: &Grants, from: &str, service: &ObjectKey) -> bool {
    let Some(grants) = grants else { return true };
    let first = ObjectKey::new(service.namespace.clone(), "");
    from == &*service.namespace
        || grants
            .range(first..)
            .take_while(|(key, _)| key.namespace == service.namespace)
            .any(|(_, grant)| grant.permits(from, &service.name))
}

impl ReferenceGrant {
    fn permits(&self, from: &str, name: &str) -> bool {
        let granted = |granted: &Granted| match granted {
            Granted::AllServices => true,
            Granted::Service(service) => **service == *name,
        };
        self.from.iter().any(|namespace| **namespace == *from) && self.to.iter().any(granted)
    }

    /// The narrow part of an object's `spec`.
    ///
    /// # Errors
    /// When it is not the spec of a ReferenceGrant.
    pub fn from_spec(spec: &serde_json::Value) -> Result<Self, serde_json::Error> {
        let spec = Spec::deserialize(spec)?;
        let from = spec
            .from
            .into_iter()
            .filter(|from| from.group == fairlead_crds::GROUP && from.kind == Kind::ServiceRoute.as_str());
        let to = spec.to.into_iter().filter(|to| to.group.is_empty() && to.kind == "Service");
        Ok(Self {
            from: from.map(|from| from.namespace.into()).collect(),
            to: to
                .map(|to| match to.name.filter(|name| !name.is_empty()) {
                    None => Granted::AllServices,
                    Some(name) => Granted::Service(name.into()),
                })
                .collect(),
        })
    }
}

/// `ReferenceGrantSpec`, the same in v1beta1 and v1.
#[derive(Deserialize)]
struct Spec {
    from: Vec<From>,
    to: Vec<To>,
}

#[derive(Deserialize)]
struct From {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Deserialize)]
struct To {
    group: String,
    kind: String,
    name: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grant(spec: &serde_json::Value) -> BTreeMap<ObjectKey, Arc<ReferenceGrant>> {
        let grant = ReferenceGrant::from_spec(spec).unwrap();
        BTreeMap::from([(ObjectKey::new("bank", "shop-may"), Arc::new(grant))])
    }

    #[test]
    fn a_grant_is_for_who_and_what_it_names() {
        let route = json!({"group": "fairlead.dev", "kind": "ServiceRoute", "namespace": "shop"});
        let service = json!({"group": "", "kind": "Service"});
        let named = json!({"group": "", "kind": "Service", "name": "ledger"});
        let (ledger, vault) = (ObjectKey::new("bank", "ledger"), ObjectKey::new("bank", "vault"));

        let all = Some(grant(&json!({"from": [route], "to": [service]})));
        assert!(permits(&all, "shop", &ledger) && permits(&all, "shop", &vault));
        assert!(!permits(&all, "other", &ledger));
        assert!(!permits(&all, "shop", &ObjectKey::new("bank-2", "ledger")), "in another namespace");
        let one = Some(grant(&json!({"from": [route], "to": [named]})));
        assert!(permits(&one, "shop", &ledger) && !permits(&one, "shop", &vault));

        let http_route =
            json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"});
        assert!(!permits(&Some(grant(&json!({"from": [http_route], "to": [service]}))), "shop", &ledger));
        let secret = json!({"group": "", "kind": "Secret"});
        assert!(!permits(&Some(grant(&json!({"from": [route], "to": [secret]}))), "shop", &ledger));
        assert!(ReferenceGrant::from_spec(&json!({"from": 1, "to": []})).is_err());
    }

    #[test]
    fn nobody_needs_a_grant_where_there_is_no_such_kind_or_at_home() {
        let ledger = ObjectKey::new("bank", "ledger");
        assert!(permits(&None, "shop", &ledger));
        assert!(!permits(&Some(BTreeMap::new()), "shop", &ledger));
        assert!(permits(&Some(BTreeMap::new()), "bank", &ledger));
    }
}
