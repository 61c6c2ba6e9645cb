//! The text of one file: pure. A text that is not YAML gives one fault; a bad object among good
//! ones gives a fault, or an object that says what is wrong with it, and leaves the others alone.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::narrow::{self, PodObject};
use super::{Fault, GRANT_GROUP, GRANT_VERSIONS, declared_kind};
use crate::model::{EndpointSlice, Namespace, ObjectKey, ObjectRef, Pod, ReferenceGrant, Service};
use crate::yaml;

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parsed {
    /// Its objects, in the order written, each with its line.
    pub(super) objects: Vec<(Written, u64)>,
    /// What in it is no object that can be used.
    pub(super) faults: Vec<Fault>,
}

/// An object as a file has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Written {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    ReferenceGrant(ObjectKey, Arc<ReferenceGrant>),
    Pod(ObjectKey, Arc<Pod>),
    Namespace(Arc<str>, Arc<Namespace>),
    /// One of ours, not judged yet.
    Declared(ObjectRef, Arc<Value>),
}

/// The kind of a ReferenceGrant.
pub(super) const GRANT: &str = "ReferenceGrant";

/// What an object is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Identity {
    pub(super) kind: &'static str,
    pub(super) key: ObjectKey,
}

impl Written {
    pub(super) fn identity(&self) -> Identity {
        let (kind, key) = match self {
            Self::Service(service) => ("Service", service.key.clone()),
            Self::EndpointSlice(slice) => ("EndpointSlice", slice.key.clone()),
            Self::ReferenceGrant(key, _) => (GRANT, key.clone()),
            Self::Pod(key, _) => ("Pod", key.clone()),
            Self::Namespace(name, _) => ("Namespace", ObjectKey::new("", name.clone())),
            Self::Declared(reference, _) => (reference.kind.as_str(), reference.key.clone()),
        };
        Identity { kind, key }
    }
}

/// Reads a file. `Err`: it is not YAML, as a whole.
pub(super) fn parse(place: &str, text: &str) -> Result<Parsed, Fault> {
    let mut parsed = Parsed::default();
    for (line, document) in yaml::documents(text) {
        let value = yaml::read(document, line).map_err(|error| {
            let message = format!("not YAML, so what the file held before stays in force: {error}");
            Fault { place: place.to_owned(), line: Some(error.line), message }
        })?;
        if !value.is_null() {
            let mut reader = Reader { place, line, parsed: &mut parsed };
            reader.object(value, 0);
        }
    }
    Ok(parsed)
}

/// Where the reader stands in a file.
struct Reader<'a> {
    place: &'a str,
    line: u64,
    parsed: &'a mut Parsed,
}

impl Reader<'_> {
    fn object(&mut self, value: Value, depth: usize) {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if kind.is_empty() || api_version.is_empty() {
            let what = if value.is_object() { "an object without apiVersion and kind" } else { "no object" };
            return self.fault(format!(
                "{what}; write what kubectl apply takes, for instance apiVersion: {} and kind: ServiceRoute",
                fairlead_crds::API_VERSION
            ));
        }
        if kind.ends_with("List") && value.get("items").is_some_and(Value::is_array) {
            return self.list(value, depth);
        }
        match (api_version.as_str(), kind.as_str()) {
            ("v1", "Service") => {
                if let Some(service) = self.typed::<core::Service>(value, "Service") {
                    self.keep(
                        Service::from_api(&service).map(|service| Written::Service(Arc::new(service))),
                        "Service",
                    );
                }
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                if let Some(slice) = self.typed::<discovery::EndpointSlice>(value, "EndpointSlice") {
                    self.slice(&slice);
                }
            }
            (api_version, GRANT) if is_grant(api_version) => self.grant(&value),
            ("v1", "Pod") => {
                if let Some(pod) = self.typed::<PodObject>(value, "Pod") {
                    let written =
                        narrow::key(&pod.metadata).map(|key| Written::Pod(key, Arc::new(narrow::pod(&pod))));
                    self.keep(written, "Pod");
                }
            }
            ("v1", "Namespace") => {
                if let Some(namespace) = self.typed::<core::Namespace>(value, "Namespace") {
                    let narrow = Arc::new(narrow::namespace(&namespace.metadata));
                    let written = namespace.metadata.name.map(|name| Written::Namespace(name.into(), narrow));
                    self.keep(written, "Namespace");
                }
            }
            (group, kind) if group.starts_with(fairlead_crds::GROUP) => {
                self.declared(value, group, kind);
            }
            // Deployments and what else lies beside: `kubectl apply` takes them, the mesh needs none.
            _ => {}
        }
    }

    fn list(&mut self, mut value: Value, depth: usize) {
        if depth >= yaml::LIST_DEPTH {
            let message = "lists in lists in lists; write the objects one below the other, separated by ---";
            return self.fault(message.to_owned());
        }
        yaml::take_items(&mut value).into_iter().flatten().for_each(|item| self.object(item, depth + 1));
    }

    fn declared(&mut self, mut value: Value, api_version: &str, kind: &str) {
        let Some(kind) = declared_kind(kind) else {
            return self.fault(format!(
                "kind {kind} is unknown; write ServiceRoute, OutlierDetection or RateLimitPolicy"
            ));
        };
        if api_version != fairlead_crds::API_VERSION {
            return self.fault(format!(
                "apiVersion {api_version} of a {kind} is unknown; write {}",
                fairlead_crds::API_VERSION
            ));
        }
        let Some(key) = declared_key(&value) else { return self.nameless(kind.as_str()) };
        if let Some(object) = value.as_object_mut() {
            object.remove("status"); // It is ours to say.
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.remove("managedFields");
                metadata.insert("namespace".to_owned(), Value::from(&*key.namespace));
            }
        }
        self.parsed.objects.push((Written::Declared(ObjectRef::new(kind, key), Arc::new(value)), self.line));
    }

    fn grant(&mut self, value: &Value) {
        let Some(key) = declared_key(value) else { return self.nameless(GRANT) };
        match ReferenceGrant::from_spec(value.get("spec").unwrap_or(&Value::Null)) {
            Ok(grant) => {
                self.parsed.objects.push((Written::ReferenceGrant(key, Arc::new(grant)), self.line));
            }
            Err(error) => self.fault(format!("not a {GRANT}: spec: {error}")),
        }
    }

    fn slice(&mut self, slice: &discovery::EndpointSlice) {
        match EndpointSlice::from_api(slice) {
            Some(slice) => self.parsed.objects.push((Written::EndpointSlice(Arc::new(slice)), self.line)),
            None if slice.metadata.name.is_none() => self.nameless("EndpointSlice"),
            None if slice.address_type == "FQDN" => {}
            None => self.fault("an EndpointSlice of no Service; write metadata: {labels: {kubernetes.io/service-name: NAME}}".to_owned()),
        }
    }

    fn typed<T: DeserializeOwned>(&mut self, value: Value, kind: &'static str) -> Option<T> {
        match serde_json::from_value(value) {
            Ok(object) => Some(object),
            Err(error) => {
                self.fault(format!("not a {kind}: {error}"));
                None
            }
        }
    }

    fn keep(&mut self, written: Option<Written>, kind: &str) {
        match written {
            Some(written) => self.parsed.objects.push((written, self.line)),
            None => self.nameless(kind),
        }
    }

    fn nameless(&mut self, kind: &str) {
        self.fault(format!("a {kind} without a name; write metadata: {{name: ...}}"));
    }

    fn fault(&mut self, message: String) {
        self.parsed.faults.push(Fault { place: self.place.to_owned(), line: Some(self.line), message });
    }
}

/// Whether that is a version of ReferenceGrant that is read.
fn is_grant(api_version: &str) -> bool {
    api_version
        .split_once('/')
        .is_some_and(|(group, version)| group == GRANT_GROUP && GRANT_VERSIONS.contains(&version))
}

/// Namespace and name; none without a name.
fn declared_key(value: &Value) -> Option<ObjectKey> {
    let metadata = value.get("metadata")?;
    let name = metadata.get("name")?.as_str().filter(|name| !name.is_empty())?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).filter(|name| !name.is_empty());
    Some(ObjectKey::new(namespace.unwrap_or("default"), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parsed: &Parsed) -> Vec<String> {
        parsed
            .objects
            .iter()
            .map(|(object, line)| format!("{} {}:{line}", object.identity().kind, object.identity().key))
            .collect()
    }

    #[test]
    fn a_list_that_names_its_kind_is_read_as_check_and_inject_read_it() {
        let text = "apiVersion: v1\nkind: NamespaceList\nitems: [{metadata: {name: shop}}]\n";
        let parsed = parse("list.yaml", text).unwrap();
        assert_eq!(parsed.faults, []);
        assert_eq!(names(&parsed), ["Namespace /shop:1"]);
    }

    #[test]
    fn what_kubectl_takes_is_read() {
        let text = "\
# Leading comment
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.3.7, ports: [{port: 9080, name: http}]}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: v1, kind: Pod, metadata: {name: reviews-1, namespace: shop}, spec: {}}
--- # the slice
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-1, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
endpoints: [{addresses: [10.244.1.5]}]
ports: [{name: http, port: 9080}]
---
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews}
spec: {parentRefs: [{name: reviews}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
";
        let parsed = parse("all.yaml", text).unwrap();
        assert_eq!(parsed.faults, []);
        assert_eq!(
            names(&parsed),
            [
                "Service shop/reviews:2",
                "Namespace /shop:7",
                "Pod shop/reviews-1:7",
                "EndpointSlice shop/reviews-1:13",
                "ServiceRoute default/reviews:20"
            ]
        );
    }

    #[test]
    fn json_is_yaml() {
        let parsed =
            parse("a.json", r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}"#)
                .unwrap();
        assert_eq!(names(&parsed), ["Namespace /shop:1"]);
    }

    #[test]
    fn a_text_that_is_not_yaml_names_its_line() {
        let fault = parse("bad.yaml", "a: 1\n---\nb: [1,\n").unwrap_err();
        assert!(fault.line.is_some_and(|line| line >= 2), "{fault}");
        assert!(fault.to_string().starts_with("bad.yaml:"), "{fault}");
        assert!(fault.message.contains("stays in force"), "{fault}");
    }

    #[test]
    fn a_bad_object_leaves_the_others_alone() {
        let text = "\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: 9080}
---
- just a list
---
kind: ServiceRoute
---
{apiVersion: fairlead.dev/v1, kind: ServiceRoute, metadata: {name: a}}
---
{apiVersion: fairlead.dev/v1alpha1, kind: ServiceRoutes, metadata: {name: a}}
---
{apiVersion: fairlead.dev/v1alpha1, kind: ServiceRoute, metadata: {}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, addressType: IPv4, endpoints: []}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
";
        let parsed = parse("mixed.yaml", text).unwrap();
        assert_eq!(names(&parsed), ["Namespace /shop:17"]);
        let faults: Vec<String> = parsed.faults.iter().map(ToString::to_string).collect();
        for (fault, expected) in faults.iter().zip([
            "mixed.yaml:1: not a Service: ",
            "mixed.yaml:5: no object; write what kubectl apply takes",
            "mixed.yaml:7: an object without apiVersion and kind",
            "mixed.yaml:9: apiVersion fairlead.dev/v1 of a ServiceRoute is unknown; write fairlead.dev/v1alpha1",
            "mixed.yaml:11: kind ServiceRoutes is unknown; write ServiceRoute, OutlierDetection or RateLimitPolicy",
            "mixed.yaml:13: a ServiceRoute without a name; write metadata: {name: ...}",
            "mixed.yaml:15: an EndpointSlice of no Service",
        ]) {
            assert!(fault.starts_with(expected), "{fault}");
        }
        assert_eq!(faults.len(), 7);
    }
}
