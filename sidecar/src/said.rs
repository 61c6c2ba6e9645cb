//! What one sidecar says to the next, in headers whose names begin with `x-fairlead-`. Applications with a sidecar
//! neither see these nor can say them: whatever comes from one or goes to one passes [`Said::take`].

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// All names that are ours begin so, those of later versions too.
const PREFIX: &str = "x-fairlead-";

/// What the caller's sidecar resolved, `shop/reviews:9080#rule`, for that of the endpoint: it holds the
/// request to the limits of this target.
pub const TARGET: HeaderName = HeaderName::from_static("x-fairlead-target");

/// Milliseconds that the caller still waits.
pub const DEADLINE: HeaderName = HeaderName::from_static("x-fairlead-deadline");

/// Which attempt this is; absent on the first.
pub const ATTEMPT: HeaderName = HeaderName::from_static("x-fairlead-attempt");

/// On an answer: no application has seen the request. The value is the reason.
pub const UNPROCESSED: HeaderName = HeaderName::from_static("x-fairlead-unprocessed");

/// On an answer: a retry was spent on it further down, another one up here would multiply them.
pub const NO_RETRY: HeaderName = HeaderName::from_static("x-fairlead-no-retry");

/// Whether a header is ours.
pub fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with(PREFIX)
}

/// See the module.
#[derive(Debug, Default)]
pub struct Said {
    /// [`TARGET`].
    pub target: Option<HeaderValue>,
    /// [`DEADLINE`].
    pub deadline: Option<HeaderValue>,
    /// [`ATTEMPT`].
    pub attempt: Option<HeaderValue>,
    /// [`NO_RETRY`].
    pub no_retry: Option<HeaderValue>,
}

impl Said {
    /// Takes all of it out of `headers`. Most often there is nothing, and looking at the names that are there costs
    /// less than asking for each of ours.
    pub fn take(headers: &mut HeaderMap) -> Self {
        if !headers.keys().any(is_ours) {
            return Self::default();
        }
        let said = Self {
            target: headers.remove(TARGET),
            deadline: headers.remove(DEADLINE),
            attempt: headers.remove(ATTEMPT),
            no_retry: headers.remove(NO_RETRY),
        };
        headers.remove(UNPROCESSED);
        let unknown: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
        for name in unknown {
            headers.remove(name);
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_taken_out_and_nothing_else() {
        let names = [
            "x-fairlead-target",
            "x-fairlead-target",
            "x-fairlead-deadline",
            "x-fairlead-attempt",
            "x-fairlead-unprocessed",
            "x-fairlead-no-retry",
            "x-fairlead-of-tomorrow",
            "x-fairleadership",
            "host",
        ];
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(name, HeaderValue::from_static(name));
        }
        let said = Said::take(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "x-fairleadership"]);
        let values = [said.target, said.deadline, said.attempt, said.no_retry];
        assert_eq!(
            values.map(|value| value.unwrap()),
            [TARGET, DEADLINE, ATTEMPT, NO_RETRY].map(HeaderValue::from)
        );
        let nothing = Said::take(&mut headers);
        assert!(nothing.target.is_none() && headers.len() == 2);
    }
}
