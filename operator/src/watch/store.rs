//! The objects of all files together, and how they differ from before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fairlead_crds::Status;
use serde_json::Value;

use super::parse::{self, Identity, Parsed, Written};
use super::{Change, Declared, Fault, with_generation};
use crate::model::ObjectRef;

/// The files and what they come to.
#[derive(Debug, Default)]
pub(super) struct Store {
    files: BTreeMap<PathBuf, File>,
    objects: BTreeMap<Identity, Kept>,
    /// Generations of objects that are gone, too: one that comes back is no first edition.
    generations: BTreeMap<ObjectRef, i64>,
    duplicates: Vec<Fault>,
}

#[derive(Debug, Default)]
struct File {
    /// From when it last parsed.
    parsed: Parsed,
    /// Why it does not parse now.
    broken: Option<Fault>,
}

/// An object that is in force.
#[derive(Debug)]
struct Kept {
    written: Written,
    declared: Option<Arc<Declared>>,
}

impl Store {
    /// Notes what a file holds now; one that does not parse keeps what it held.
    pub(super) fn put(&mut self, path: &Path, parsed: Result<Parsed, Fault>) {
        let file = self.files.entry(path.to_owned()).or_default();
        match parsed {
            Ok(parsed) => *file = File { parsed, broken: None },
            Err(fault) => file.broken = Some(fault),
        }
    }

    /// Notes that a file is gone.
    pub(super) fn remove(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// What is wrong with the files now.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let of_files = self.files.values().flat_map(|file| file.broken.iter().chain(&file.parsed.faults));
        let mut faults: Vec<Fault> = of_files.chain(&self.duplicates).cloned().collect();
        faults.sort();
        faults
    }

    /// The objects that differ from those of the last call.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        self.duplicates.clear();
        let mut now: BTreeMap<&Identity, (&Written, &Path, u64)> = BTreeMap::new();
        let identities: Vec<(Identity, &Written, &Path, u64)> = self
            .files
            .iter()
            .flat_map(|(path, file)| {
                file.parsed
                    .objects
                    .iter()
                    .map(move |(written, line)| (written.identity(), written, path.as_path(), *line))
            })
            .collect();
        for (identity, written, path, line) in &identities {
            match now.get(identity) {
                None => {
                    now.insert(identity, (written, path, *line));
                }
                Some((_, other, other_line)) => self.duplicates.push(Fault {
                    place: path.display().to_string(),
                    line: Some(*line),
                    message: format!(
                        "{} {} is already in {}:{other_line}, which counts; delete one of them",
                        identity.kind,
                        identity.key,
                        other.display()
                    ),
                }),
            }
        }
        let mut changes = Vec::new();
        let had_grants = self.has_grants();
        self.objects.retain(|identity, kept| {
            let stays = now.contains_key(identity);
            if !stays {
                changes.push(gone(&kept.written));
            }
            stays
        });
        for (identity, (written, ..)) in now {
            if self.objects.get(identity).is_some_and(|kept| kept.written == *written) {
                continue;
            }
            let declared = match written {
                Written::Declared(reference, value) => {
                    let before = self.objects.get(identity).and_then(|kept| kept.declared.as_deref());
                    Some(Arc::new(declare(&mut self.generations, reference, value, before)))
                }
                _ => None,
            };
            changes.push(come(written, declared.clone()));
            self.objects.insert(identity.clone(), Kept { written: written.clone(), declared });
        }
        if had_grants && !self.has_grants() {
            changes.push(Change::HasGrants(false));
        }
        changes
    }

    /// A directory has no definitions of kinds: this one exists as soon as there is an object of it.
    fn has_grants(&self) -> bool {
        self.objects.keys().any(|identity| identity.kind == parse::GRANT)
    }
}

/// Judges an object of ours. Its generation counts its different specs, as the API server's does.
fn declare(
    generations: &mut BTreeMap<ObjectRef, i64>,
    reference: &ObjectRef,
    value: &Arc<Value>,
    before: Option<&Declared>,
) -> Declared {
    let generation = generations.entry(reference.clone()).or_insert(0);
    if before.is_none_or(|before| before.written.get("spec") != value.get("spec")) {
        *generation += 1;
    }
    let content = fairlead_crds::admit(value)
        .map(|object| with_generation(object, *generation))
        .map_err(|violations| violations.iter().map(ToString::to_string).collect());
    let mut written = value.clone();
    if let Some(Value::Object(metadata)) = Arc::make_mut(&mut written).get_mut("metadata") {
        metadata.insert("generation".to_owned(), Value::from(*generation));
    }
    Declared { generation: *generation, content, written, status: Status::default() }
}

fn come(written: &Written, declared: Option<Arc<Declared>>) -> Change {
    match written {
        Written::Service(service) => Change::Service(service.key.clone(), Some(service.clone())),
        Written::EndpointSlice(slice) => Change::EndpointSlice(slice.key.clone(), Some(slice.clone())),
        Written::ReferenceGrant(key, grant) => Change::ReferenceGrant(key.clone(), Some(grant.clone())),
        Written::Pod(key, pod) => Change::Pod(key.clone(), Some(pod.clone())),
        Written::Namespace(name, namespace) => Change::Namespace(name.clone(), Some(namespace.clone())),
        Written::Declared(reference, _) => Change::Declared(reference.clone(), declared),
    }
}

fn gone(written: &Written) -> Change {
    match written {
        Written::Service(service) => Change::Service(service.key.clone(), None),
        Written::EndpointSlice(slice) => Change::EndpointSlice(slice.key.clone(), None),
        Written::ReferenceGrant(key, _) => Change::ReferenceGrant(key.clone(), None),
        Written::Pod(key, _) => Change::Pod(key.clone(), None),
        Written::Namespace(name, _) => Change::Namespace(name.clone(), None),
        Written::Declared(reference, _) => Change::Declared(reference.clone(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::parse::parse;
    use super::*;

    fn put(store: &mut Store, file: &str, text: &str) {
        store.put(Path::new(file), parse(file, text));
    }

    fn route(spec: &str) -> String {
        format!(
            "{{apiVersion: fairlead.dev/v1alpha1, kind: ServiceRoute, metadata: {{name: a}}, spec: {spec}}}"
        )
    }

    fn generations(changes: &[Change]) -> Vec<Option<i64>> {
        let declared = changes.iter().map(|change| match change {
            Change::Declared(_, declared) => declared.as_ref().map(|declared| declared.generation),
            _ => panic!("{change:?}"),
        });
        declared.collect()
    }

    #[test]
    fn only_differences_are_told_and_generations_count_contents() {
        let mut store = Store::default();
        put(&mut store, "a.yaml", &route("{parentRefs: [{name: a}]}"));
        assert_eq!(generations(&store.changes()), [Some(1)]);
        assert_eq!(store.changes(), []);
        put(&mut store, "a.yaml", &format!("# a comment\n{}", route("{parentRefs: [{name: a}]}")));
        assert_eq!(store.changes(), []);
        put(&mut store, "a.yaml", &route("{parentRefs: [{name: b}]}"));
        assert_eq!(generations(&store.changes()), [Some(2)]);
        store.remove(Path::new("a.yaml"));
        assert_eq!(generations(&store.changes()), [None]);
        put(&mut store, "b.yaml", &route("{parentRefs: [{name: b}]}"));
        assert_eq!(generations(&store.changes()), [Some(3)]);
    }

    #[test]
    fn the_last_grant_takes_its_kind_with_it() {
        let grant = |name: &str, version: &str| {
            format!(
                "{{apiVersion: gateway.networking.k8s.io/{version}, kind: ReferenceGrant, metadata: {{name: {name}, \
                 namespace: bank}}, spec: {{from: [{{group: fairlead.dev, kind: ServiceRoute, namespace: shop}}], \
                 to: [{{group: '', kind: Service}}]}}}}"
            )
        };
        let key = |name: &str| crate::model::ObjectKey::new("bank", name);
        let mut store = Store::default();
        put(&mut store, "a.yaml", &grant("a", "v1beta1"));
        put(&mut store, "b.yaml", &grant("b", "v1"));
        put(&mut store, "c.yaml", &grant("c", "v2"));
        let changes = store.changes();
        let [Change::ReferenceGrant(one, Some(grant)), Change::ReferenceGrant(other, Some(_))] = &changes[..]
        else {
            panic!("{changes:?}")
        };
        assert_eq!((one, other, grant.from.len(), grant.to.len()), (&key("a"), &key("b"), 1, 1));
        store.remove(Path::new("a.yaml"));
        assert_eq!(store.changes(), [Change::ReferenceGrant(key("a"), None)]);
        store.remove(Path::new("b.yaml"));
        assert_eq!(store.changes(), [Change::ReferenceGrant(key("b"), None), Change::HasGrants(false)]);
        put(
            &mut store,
            "b.yaml",
            "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: b}, spec: {from: 1}}",
        );
        assert_eq!(store.changes(), []);
        assert!(
            store.faults()[0].message.starts_with("not a ReferenceGrant: spec: "),
            "{:?}",
            store.faults()
        );
    }

    #[test]
    fn a_broken_file_keeps_its_objects_until_it_is_mended() {
        let mut store = Store::default();
        put(&mut store, "a.yaml", &route("{parentRefs: [{name: a}]}"));
        put(&mut store, "b.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}");
        assert_eq!(store.changes().len(), 2);
        put(&mut store, "a.yaml", "a: [1,");
        assert_eq!(store.changes(), []);
        assert_eq!(store.faults().len(), 1);
        put(&mut store, "a.yaml", &route("{parentRefs: [{name: c}]}"));
        assert_eq!(generations(&store.changes()), [Some(2)]);
        assert_eq!(store.faults(), []);
    }

    #[test]
    fn the_first_of_two_counts() {
        let mut store = Store::default();
        put(&mut store, "b.yaml", &route("{parentRefs: [{name: b}]}"));
        put(&mut store, "a.yaml", &route("{parentRefs: [{name: a}]}"));
        let changes = store.changes();
        assert_eq!(changes.len(), 1);
        let faults: Vec<String> = store.faults().iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            ["b.yaml:1: ServiceRoute default/a is already in a.yaml:1, which counts; delete one of them"]
        );
        store.remove(Path::new("a.yaml"));
        assert_eq!(generations(&store.changes()), [Some(2)]);
        assert_eq!(store.faults(), []);
    }
}
