//! What is wrong with an object, in the words of its status.

use std::collections::BTreeSet;

use super::object::ObjectRef;

/// One thing to say in an object's conditions. An object without a problem has `Accepted` and
/// `ResolvedRefs` True and no `Conflicted`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Whose status says so.
    pub object: ObjectRef,
    /// The condition that it is about.
    pub condition: Condition,
    /// Whether it breaks something, or is only worth knowing.
    pub severity: Severity,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence that says what is wrong and what to write instead.
    pub message: String,
}

/// A condition type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// The object, or a part of it, is not in force. False with an [`Severity::Error`].
    Accepted,
    /// It names something that is not there or may not be used. False with an [`Severity::Error`].
    ResolvedRefs,
    /// Another object has precedence for a part of it. True with an [`Severity::Error`]; when nothing of
    /// the object is left, `Accepted` is False as well, with the reason `Conflicted`.
    Conflicted,
}

impl Condition {
    /// As in `conditions[].type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Conflicted => "Conflicted",
        }
    }
}

/// Whether a problem changes the condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The condition says that something does not work.
    Error,
    /// The condition stays as it is; its message tells.
    Note,
}

/// Problems as they are found: sorted, each once.
#[derive(Debug, Default)]
pub struct Problems {
    found: BTreeSet<Problem>,
}

impl Problems {
    /// The object, or a part of it, is not in force.
    pub fn refused(&mut self, object: &ObjectRef, reason: &'static str, message: String) {
        self.error(object, Condition::Accepted, reason, message);
    }

    /// It names something that is not there.
    pub fn unresolved(&mut self, object: &ObjectRef, reason: &'static str, message: String) {
        self.error(object, Condition::ResolvedRefs, reason, message);
    }

    /// Something does not work.
    pub fn error(&mut self, object: &ObjectRef, condition: Condition, reason: &'static str, message: String) {
        self.add(object, condition, Severity::Error, reason, message);
    }

    /// Something is worth knowing.
    pub fn note(&mut self, object: &ObjectRef, condition: Condition, reason: &'static str, message: String) {
        self.add(object, condition, Severity::Note, reason, message);
    }

    /// All of them, sorted.
    pub fn into_sorted(self) -> Vec<Problem> {
        self.found.into_iter().collect()
    }

    fn add(
        &mut self,
        object: &ObjectRef,
        condition: Condition,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        self.found.insert(Problem { object: object.clone(), condition, severity, reason, message });
    }
}
