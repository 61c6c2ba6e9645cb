//! RateLimitPolicy's words as they arrive: JSON in the metadata of the pod's `inbound/ADDRESS` listener.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The metadata of an inbound listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InboundSettings {
    /// The Services that list this endpoint, `shop/reviews:9080`: their limits hold for a call that does not
    /// say what it called.
    #[serde(default)]
    pub services: Vec<String>,
    /// The policies, each under its own name.
    #[serde(default)]
    pub policies: Vec<PolicySettings>,
    /// By `shop/reviews:9080` or `shop/reviews:9080#rule`: the names of the policies in order of precedence. A
    /// rule that is not listed has its Service's.
    #[serde(default)]
    pub targets: HashMap<String, Vec<String>>,
}

impl InboundSettings {
    /// Whether any limit is enforced here, and not only counted.
    pub fn enforces(&self) -> bool {
        let mut named = self.targets.values().flatten().filter_map(|name| self.policy(name));
        named.any(|policy| !policy.shadow && !policy.limits.is_empty())
    }

    /// The policy of that name.
    pub(super) fn policy(&self, name: &str) -> Option<&PolicySettings> {
        self.policies.iter().find(|policy| policy.name == name)
    }
}

/// A RateLimitPolicy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySettings {
    /// `shop/orders`.
    pub name: String,
    /// Whether it only counts.
    #[serde(default)]
    pub shadow: bool,
    /// The callers that it is for; empty: all.
    #[serde(default)]
    pub from: Vec<MatchSettings>,
    /// All that match apply at once.
    pub limits: Vec<LimitSettings>,
    /// What a refused caller gets.
    pub response: ResponseSettings,
}

/// One item of `matches` or `from`, as in a ServiceRoute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchSettings {
    /// The path.
    #[serde(default)]
    pub path: Option<PathSettings>,
    /// Headers.
    #[serde(default)]
    pub headers: Vec<ValueSettings>,
    /// Query parameters.
    #[serde(default)]
    pub query_params: Vec<ValueSettings>,
    /// The method.
    #[serde(default)]
    pub method: Option<String>,
}

/// A path to compare with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathSettings {
    /// `Exact`, `PathPrefix` or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The path, or the expression (anchored).
    pub value: String,
}

/// A header or query parameter to compare with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueSettings {
    /// `Exact` or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The value, or the expression (anchored).
    pub value: String,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitSettings {
    /// Unique in its policy.
    pub name: String,
    /// Empty: every request.
    #[serde(default)]
    pub matches: Vec<MatchSettings>,
    /// One bucket per value of all of these; empty: one bucket.
    #[serde(default)]
    pub key: Vec<KeySettings>,
    /// So many...
    pub requests: u32,
    /// ...per so many milliseconds.
    pub per_ms: u64,
    /// The bucket's size; TokenBucket only.
    pub burst: u32,
    /// `TokenBucket` or `FixedWindow`.
    pub algorithm: String,
}

/// A part of the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeySettings {
    /// `Header`, `QueryParam`, `Path`, `Method` or `SourceAddress`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the header or query parameter.
    #[serde(default)]
    pub name: Option<String>,
}

/// What a refused caller gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResponseSettings {
    /// 429 unless set.
    pub status: u16,
    /// The body.
    #[serde(default)]
    pub body: String,
    /// Set on the answer.
    #[serde(default)]
    pub headers: Vec<HeaderSettings>,
}

/// A header of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderSettings {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}
