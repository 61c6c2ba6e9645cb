//! Gateway API durations (GEP-2257): `500ms`, `30s`, `1m30s`, `24h`. Whole numbers, each with its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kube::core::{Message, Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration as it was written, and what it means. At most about 45 years, so no arithmetic overflows.
#[derive(Debug, Clone)]
pub struct GatewayDuration {
    text: String,
    value: Duration,
}

/// GEP-2257. Up to four numbers of up to five digits.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The longest text that [`PATTERN`] takes: four times five digits and `ms`.
const MAX_LENGTH: u32 = 28;

/// Not a duration; the message says what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotADuration(String);

impl GatewayDuration {
    /// So many milliseconds.
    #[must_use]
    pub fn millis(count: u16) -> Self {
        Self { text: format!("{count}ms"), value: Duration::from_millis(count.into()) }
    }

    /// So many seconds.
    #[must_use]
    pub fn seconds(count: u16) -> Self {
        Self { text: format!("{count}s"), value: Duration::from_secs(count.into()) }
    }

    /// What it means.
    #[must_use]
    pub fn get(&self) -> Duration {
        self.value
    }

    /// What it means; none for zero, which a timeout takes as "no limit".
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        Some(self.value).filter(|value| !value.is_zero())
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<&GatewayDuration> for Duration {
    fn from(duration: &GatewayDuration) -> Self {
        duration.value
    }
}

/// What a duration of this text should have been: the words of the schema's own rule.
#[must_use]
pub fn advice(text: &str) -> String {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("a duration needs a unit: write {text}s")
    } else {
        ADVICE.to_owned()
    }
}

/// For what is not even a number.
const ADVICE: &str = "a duration is whole numbers with units: write 500ms, 30s, 1m30s or 24h";

impl FromStr for GatewayDuration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let refused = || NotADuration(advice(text));
        let mut value = Duration::ZERO;
        let mut rest = text;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| refused())?;
            let (unit_ms, tail) = if let Some(tail) = tail.strip_prefix("ms") {
                (1, tail)
            } else if let Some(tail) = tail.strip_prefix('s') {
                (1_000, tail)
            } else if let Some(tail) = tail.strip_prefix('m') {
                (60_000, tail)
            } else if let Some(tail) = tail.strip_prefix('h') {
                (3_600_000, tail)
            } else {
                return Err(refused());
            };
            parts += 1;
            if digits > 5 || parts > 4 {
                return Err(refused());
            }
            value += Duration::from_millis(number * unit_ms);
            rest = tail;
        }
        if parts == 0 {
            return Err(refused());
        }
        Ok(Self { text: text.to_owned(), value })
    }
}

impl PartialEq for GatewayDuration {
    /// `60s` equals `1m`.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for GatewayDuration {}

impl fmt::Display for GatewayDuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Serialize for GatewayDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for GatewayDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for GatewayDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "GatewayDuration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let rule = Rule::new(format!("self.matches('{PATTERN}')")).message(Message::Expression(format!(
            "self.matches('^[0-9]+$') ? 'a duration needs a unit: write ' + self + 's' : '{ADVICE}'"
        )));
        json_schema!({
            "type": "string",
            "maxLength": MAX_LENGTH,
            "pattern": PATTERN,
            "x-kubernetes-validations": [rule],
        })
    }
}

/// A rule on one duration: within `min` and `max` (none: no upper bound). It is silent about what is no
/// duration at all, for that has its own message.
pub(crate) fn within(min: &str, max: Option<&str>, message: &str) -> Rule {
    let mut rule = format!("!self.matches('{PATTERN}') || (duration(self) >= duration('{min}')");
    if let Some(max) = max {
        rule.push_str(&format!(" && duration(self) <= duration('{max}')"));
    }
    rule.push(')');
    Rule::new(rule).message(message)
}

/// A rule on an object with two durations: `shorter` is not longer than `longer`. With `zero_is_no_limit`, a
/// `longer` of zero lets everything through.
pub(crate) fn not_longer(shorter: &str, longer: &str, zero_is_no_limit: bool, message: &str) -> Rule {
    let mut rule = format!(
        "!has(self.{shorter}) || !has(self.{longer}) || !self.{shorter}.matches('{PATTERN}') || \
         !self.{longer}.matches('{PATTERN}') || duration(self.{shorter}) <= duration(self.{longer})"
    );
    if zero_is_no_limit {
        rule.push_str(&format!(" || duration(self.{longer}) == duration('0s')"));
    }
    Rule::new(rule).message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_what_they_mean() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("24h", 86_400_000),
            ("1h2m3s4ms", 3_723_004),
            ("1s1s", 2000),
        ] {
            let duration: GatewayDuration = text.parse().unwrap();
            assert_eq!(duration.get(), Duration::from_millis(millis), "{text}");
            assert_eq!(duration.as_str(), text);
        }
        let longest: GatewayDuration = "99999h99999h99999h99999h".parse().unwrap();
        assert_eq!(longest.get().as_secs(), 4 * 99_999 * 3600);
        assert_eq!("60s".parse::<GatewayDuration>(), "1m".parse::<GatewayDuration>());
        assert_eq!("0ms".parse::<GatewayDuration>().unwrap().limit(), None);
    }

    #[test]
    fn refusals_say_what_to_write() {
        assert_eq!(
            "5".parse::<GatewayDuration>().unwrap_err().to_string(),
            "a duration needs a unit: write 5s"
        );
        for text in ["", "s", "5 s", "1.5s", "-1s", "5d", "100000s", "1s1s1s1s1s", "5sm", "5us"] {
            assert_eq!(text.parse::<GatewayDuration>().unwrap_err().to_string(), ADVICE, "{text}");
        }
    }

    #[test]
    fn the_pattern_and_the_parser_agree() {
        let pattern = regex::Regex::new(PATTERN).unwrap();
        for text in
            ["1s", "1ms", "1m1s", "00001h", "100000s", "1m1", "1s1s1s1s", "1s1s1s1s1s", "ms", "1ms1m", "1 s"]
        {
            assert_eq!(pattern.is_match(text), text.parse::<GatewayDuration>().is_ok(), "{text}");
        }
    }
}
