//! Where objects come from: the Kubernetes API or a directory of YAML files. Either tells what
//! changed, in the narrow types of the model; who listens keeps the objects.
//!
//! ```text
//! directory:  files ── disk (what was written, when to read it) ── parse ── store (differences) ──┐
//! kubernetes: one watch a kind, each with its first full list ────────────────────────────────────┴─> Event
//! ```

pub mod directory;

pub mod kubernetes;

mod disk;

mod store;

mod parse;

mod narrow;

use std::fmt;
use std::sync::Arc;

use fairlead_crds::{OutlierDetection, RateLimitPolicy, ServiceRoute, Status};
use serde::Serialize;
use serde_json::Value;

pub use self::disk::files;
use crate::model::{EndpointSlice, Kind, Namespace, ObjectKey, ObjectRef, Pod, ReferenceGrant, Service};

/// What a source says.
#[derive(Debug)]
pub enum Event {
    /// Objects that are new, changed or gone.
    Changes(Vec<Change>),
    /// Everything that is wrong with the source now, object statuses apart.
    Faults(Vec<Fault>),
    /// Everything was read once.
    Synced,
}

/// One object as it is now; `None`: it is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A Service.
    Service(ObjectKey, Option<Arc<Service>>),
    /// An EndpointSlice.
    EndpointSlice(ObjectKey, Option<Arc<EndpointSlice>>),
    /// A ReferenceGrant, which is also to say that the kind exists.
    ReferenceGrant(ObjectKey, Option<Arc<ReferenceGrant>>),
    /// Whether the kind ReferenceGrant exists; not, before anything is said.
    HasGrants(bool),
    /// A Pod.
    Pod(ObjectKey, Option<Arc<Pod>>),
    /// A Namespace.
    Namespace(Arc<str>, Option<Arc<Namespace>>),
    /// An object of one of our kinds.
    Declared(ObjectRef, Option<Arc<Declared>>),
}

impl Change {
    /// The change that takes this object away.
    fn removal(&self) -> Self {
        match self {
            Self::Service(key, _) => Self::Service(key.clone(), None),
            Self::EndpointSlice(key, _) => Self::EndpointSlice(key.clone(), None),
            Self::ReferenceGrant(key, _) => Self::ReferenceGrant(key.clone(), None),
            Self::HasGrants(_) => Self::HasGrants(false),
            Self::Pod(key, _) => Self::Pod(key.clone(), None),
            Self::Namespace(name, _) => Self::Namespace(name.clone(), None),
            Self::Declared(reference, _) => Self::Declared(reference.clone(), None),
        }
    }
}

/// An object of one of our kinds as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// The `metadata.generation`; of a file, how many different contents the object has had.
    pub generation: i64,
    /// What it says, or what the API server would say against it.
    pub content: Result<Typed, Vec<String>>,
    /// As it was written, without status.
    pub written: Arc<Value>,
    /// The status that it had when it was read.
    pub status: Status,
}

impl Declared {
    /// Whether nothing that is compiled differs: a status was written, or a label.
    #[must_use]
    pub fn means_the_same_as(&self, other: &Self) -> bool {
        let metadata = |field| (self.written.pointer(field), other.written.pointer(field));
        let same = |(one, other)| one == other;
        let same_content = match (&self.content, &other.content) {
            (Ok(_), Ok(_)) => true,
            (one, other) => one == other,
        };
        self.generation == other.generation
            && same_content
            && same(metadata("/metadata/uid"))
            && same(metadata("/metadata/creationTimestamp"))
    }
}

/// A valid object.
#[derive(Debug, Clone, PartialEq)]
pub enum Typed {
    /// How calls to a Service are carried.
    ServiceRoute(Arc<ServiceRoute>),
    /// Which endpoints to stop calling.
    OutlierDetection(Arc<OutlierDetection>),
    /// How much is let in.
    RateLimitPolicy(Arc<RateLimitPolicy>),
}

/// Something in the source that cannot be used, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// The file, or the kind that cannot be watched.
    pub place: String,
    /// The line, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What is wrong, and what to write.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}: {}", self.place, self.message),
            None => write!(formatter, "{}: {}", self.place, self.message),
        }
    }
}

/// The versions of ReferenceGrant that are read; they do not differ in what they say.
const GRANT_VERSIONS: [&str; 2] = ["v1beta1", "v1"];

/// The group of ReferenceGrant.
const GRANT_GROUP: &str = "gateway.networking.k8s.io";

/// Our kind of that name.
fn declared_kind(kind: &str) -> Option<Kind> {
    [Kind::ServiceRoute, Kind::OutlierDetection, Kind::RateLimitPolicy]
        .into_iter()
        .find(|known| known.as_str() == kind)
}

/// The object with this generation in its metadata.
fn with_generation(object: fairlead_crds::Object, generation: i64) -> Typed {
    match object {
        fairlead_crds::Object::ServiceRoute(mut object) => {
            object.metadata.generation = Some(generation);
            Typed::ServiceRoute(Arc::from(object))
        }
        fairlead_crds::Object::OutlierDetection(mut object) => {
            object.metadata.generation = Some(generation);
            Typed::OutlierDetection(Arc::from(object))
        }
        fairlead_crds::Object::RateLimitPolicy(mut object) => {
            object.metadata.generation = Some(generation);
            Typed::RateLimitPolicy(Arc::from(object))
        }
    }
}
