//! What an object is called.

use std::fmt;
use std::sync::Arc;

/// Namespace and name of an object. Cheap to clone; ordered by namespace, then name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace; empty for a kind that has none (Namespace).
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The object `name` of `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// `shop/reviews:9080`: the Service and the number of its port.
pub type PortName = Arc<str>;

/// The name of a Service's port.
pub fn port_name(service: &ObjectKey, number: u16) -> PortName {
    format!("{service}:{number}").into()
}

/// The kinds that have a status of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// How calls to a Service are carried.
    ServiceRoute,
    /// Which endpoints to stop calling.
    OutlierDetection,
    /// How much is let in.
    RateLimitPolicy,
}

impl Kind {
    /// As in the object's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceRoute => "ServiceRoute",
            Self::OutlierDetection => "OutlierDetection",
            Self::RateLimitPolicy => "RateLimitPolicy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// An object of one of our kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: ObjectKey,
}

impl ObjectRef {
    /// The object of that kind under that key.
    pub fn new(kind: Kind, key: ObjectKey) -> Self {
        Self { kind, key }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.key)
    }
}
