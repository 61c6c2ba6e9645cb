//! Reasons of conditions: the one table, of which docs/reference/status.md is made. The operator says no other;
//! `is_known` holds it to that in every debug build.

use super::condition;

/// What a reason is said with, and what it asks of who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// The type of the condition.
    pub condition: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// What it says.
    pub means: &'static str,
    /// What to do; empty: nothing.
    pub remedy: &'static str,
}

/// Each line: condition, status, the constant and its word, what it means, what to do.
macro_rules! reasons {
    ($($condition:ident $status:literal $name:ident = $text:literal: $means:literal, $remedy:literal;)*) => {
        $(#[doc = concat!("`", $status, "`: ", $means, ".")] pub const $name: &str = $text;)*

        /// All of them, in the order of the docs.
        pub const REASONS: &[Reason] = &[$(Reason {
            condition: condition::$condition,
            status: $status,
            reason: $name,
            means: $means,
            remedy: $remedy,
        },)*];
    };
}

reasons! {
    ACCEPTED "True" ACCEPTED = "Accepted":
        "the object is in force; a message, if there is one, is worth knowing", "";
    ACCEPTED "False" INVALID = "Invalid":
        "the object contradicts itself, so it is not in force", "write what the message says";
    ACCEPTED "False" PARTIALLY_INVALID = "PartiallyInvalid":
        "a rule answers 500, or a limit is skipped; the others are in force", "mend the part that the message names";
    ACCEPTED "False" NO_MATCHING_PARENT = "NoMatchingParent":
        "no Service port that parentRefs name is there",
        "mend parentRefs, or create the Service; nothing else is needed";
    ACCEPTED "False" TARGET_NOT_FOUND = "TargetNotFound":
        "nothing that targetRefs name is there", "mend targetRefs, or create what they name";
    ACCEPTED "False" LOST = "Conflicted":
        "other objects decide all that this one would", "see the condition Conflicted";
    ACCEPTED "False" TOO_LARGE = "TooLarge":
        "it comes to more bytes than a sidecar takes: a route answers 500, a policy is skipped",
        "write less, as the message says, or several objects for several Services";
    RESOLVED_REFS "True" RESOLVED_REFS = "ResolvedRefs": "all that it refers to exists and may be used", "";
    RESOLVED_REFS "False" PARENT_NOT_FOUND = "ParentNotFound":
        "one of the Services of parentRefs, or its port, is not there; the others have the route",
        "mend parentRefs; the message has the nearest name";
    RESOLVED_REFS "False" MISSING_TARGET = "TargetNotFound":
        "one of targetRefs is not there; the others have the policy",
        "mend targetRefs; the message has the nearest name";
    RESOLVED_REFS "False" BACKEND_NOT_FOUND = "BackendNotFound":
        "a backend, or its port, is not there: its share of the requests is answered with 500",
        "mend backendRefs, or create the Service";
    RESOLVED_REFS "False" REF_NOT_PERMITTED = "RefNotPermitted":
        "a backend is in another namespace, and no ReferenceGrant there allows it: its share is answered with 500",
        "write the ReferenceGrant that the message spells out";
    CONFLICTED "True" CONFLICTED = "Conflicted":
        "an older object, or of the same age the first by name, decides the same",
        "delete one of the two, or let one name other ports; without a conflict the condition is absent";
    PROGRAMMED "True" PROGRAMMED = "Programmed": "every sidecar that is concerned runs this generation", "";
    PROGRAMMED "True" NO_SUBSCRIBERS = "NoSubscribers":
        "no sidecar wants it: nobody meshed has called the Service, and no meshed pod stands behind it",
        "nothing; if that should not be so, see [a policy has no effect](../troubleshooting.md#a-policy-has-no-effect)";
    PROGRAMMED "False" PENDING = "Pending":
        "some sidecars have not answered yet; the message names one", "wait; if it lasts, look at that pod's sidecar";
    PROGRAMMED "False" REJECTED = "Rejected":
        "a sidecar refused it and runs what it had before; the message has the sidecar and its words",
        "bring sidecar and operator to one version; if they are, report it";
    PROGRAMMED "Unknown" REPLICA_BEHIND = "ReplicaBehind":
        "a replica of the operator has not reported this generation", "wait; if it lasts, look at that replica's log";
    ENDPOINTS_HEALTHY "True" ENOUGH_ENDPOINTS = "EnoughEndpoints":
        "no sidecar says that too few endpoints are left", "";
    ENDPOINTS_HEALTHY "False" PANIC = "Panic":
        "some sidecars call all endpoints, ejected ones too, because fewer than minHealthyPercent are left",
        "look at the endpoints themselves: most of them fail";
}

/// Whether the operator may say so. What is not accepted is not programmed, for the same reason.
#[must_use]
pub fn is_known(kind: &str, status: &str, reason: &str) -> bool {
    REASONS.iter().any(|row| {
        let as_accepted = kind == condition::PROGRAMMED && row.condition == condition::ACCEPTED;
        (row.condition == kind || as_accepted) && row.status == status && row.reason == reason
    })
}
