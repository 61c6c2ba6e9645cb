//! Changes to the headers of a request or an answer.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Envoy's `request_headers_to_add` and `_to_remove`, in the order that Envoy applies them: remove, then
/// set (overwrite) and add (append).
#[derive(Debug, Default)]
pub struct HeaderChanges {
    /// Removed first.
    pub remove: Vec<HeaderName>,
    /// Replaces every value of that name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    /// Changes a header block.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}
