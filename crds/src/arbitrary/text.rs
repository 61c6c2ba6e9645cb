//! Strings that fit the schema's patterns.

use std::time::Duration;

use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::sample::select;

use crate::GatewayDuration;

/// The items whose key comes first.
pub fn unique<T, K: PartialEq>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for item in items {
        let key = key(&item);
        if !seen.contains(&key) {
            seen.push(key);
            kept.push(item);
        }
    }
    kept
}

/// The name of an object.
pub fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?(\\.[a-z0-9]{1,5})?"
}

/// The name of a rule, a limit or a port; never `rule-N`.
pub fn label() -> impl Strategy<Value = String> {
    "[a-z]([a-z0-9]{0,10}(-[a-z]{1,3})?)?"
}

/// A host.
pub fn hostname() -> impl Strategy<Value = String> {
    "[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?(\\.[a-z]{1,5}){0,2}"
}

/// The name of any header.
pub fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        select(&["host", "Cookie", "TE", "x-user", "X-Fairleader"][..]).prop_map(str::to_owned),
        token()
    ]
}

/// The name of a header that may be changed.
pub fn changeable_header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        select(&["Server", "cache-control", "Set-Cookie", "x-user"][..]).prop_map(str::to_owned),
        token()
    ]
}

/// A name that nobody else has a use for, with every character that a name may have.
fn token() -> impl Strategy<Value = String> {
    "[xX]-[a-eg-z][-A-Za-z0-9!#$%&*+.^_`|~]{0,12}"
}

/// A header's value to write; `%` means something to Envoy.
pub fn header_value() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[!-~]([\t -~]{0,20}[!-~])?",
        1 => select(&["%", "%%", "%REQ(x)%", "100%", "%START_TIME%"][..]).prop_map(str::to_owned),
    ]
}

/// The name of a query parameter.
pub fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z]{1,8}(\\[[a-z]{1,4}\\])?", 1 => "\\PC{1,16}"]
}

/// A value to compare with.
pub fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z0-9]{1,12}", 1 => "\\PC{1,40}"]
}

/// A path to compare with.
pub fn path() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just("/".to_owned()), 4 => "(/([A-Za-z0-9]|%[0-9A-Fa-f]{2})[-A-Za-z0-9._~!$&'()*+,;=:@]{0,6}){1,4}/?"]
}

/// A path to write.
pub fn new_path() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("/".to_owned()),
        2 => path(),
        1 => "/([-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2}){0,20}",
    ]
}

/// An expression that RE2 and Rust both take.
pub fn expression() -> impl Strategy<Value = String> {
    let known = [
        "/articles/[0-9]+",
        "(?i)true|yes",
        r"/a\.b/\d{1,4}",
        ".*",
        "",
        r"\[[0-9]+\]",
        "(a|b)*c?",
        r"[^/]+",
        r"\S+",
    ];
    let known = known.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
    prop_oneof![
        select(known).prop_map(str::to_owned),
        "/[a-z]{1,8}(\\.\\*|\\[0-9\\]\\+|\\([a-z]\\|[a-z]\\))?"
    ]
}

/// A body.
pub fn body() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[ -~\n]{0,60}", "\\PC{0,40}", "[a-z]{4097,5000}"]
}

/// From and to so many milliseconds, written in one way or another.
pub fn duration(from_ms: u64, to_ms: u64) -> impl Strategy<Value = GatewayDuration> {
    prop_oneof![2 => from_ms..=to_ms, 1 => from_ms..=to_ms.min(from_ms + 2_000), 1 => Just(from_ms), 1 => Just(to_ms)]
        .prop_map(|millis| written(Duration::from_millis(millis)))
}

/// As hours, minutes, seconds and milliseconds; at most 99,999 hours.
pub fn written(duration: Duration) -> GatewayDuration {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let parts = [
        (millis / 3_600_000, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1_000 % 60, "s"),
        (millis % 1_000, "ms"),
    ];
    let text: String =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    text.parse().unwrap_or_else(|_| GatewayDuration::seconds(0))
}
