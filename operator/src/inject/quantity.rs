//! Amounts as Kubernetes writes them (`500m`, `128Mi`, `1e3`): compared by what they mean, kept as they are written.

use serde_json::Value;

/// An amount.
#[derive(Debug, Clone)]
pub(super) struct Quantity {
    /// As it was written.
    pub(super) text: String,
    /// Billionths of the unit: the API server's own resolution.
    nanos: i128,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.nanos.cmp(&other.nanos))
    }
}

impl Quantity {
    /// What the text means; none: nothing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        let (sign, unsigned) = unsigned.strip_prefix('-').map_or((1, unsigned), |rest| (-1, rest));
        let end = unsigned.find(|one: char| !one.is_ascii_digit() && one != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at_checked(end)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 24 {
            return None;
        }
        let (binary, decimal) = scale(suffix)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        // Nine more places for the billionths, as many less as stand behind the point.
        let places = 9 + decimal - i32::try_from(fraction.len()).ok()?;
        let scaled = digits.checked_mul(1_i128.checked_shl(binary)?)?;
        let power = 10_i128.checked_pow(places.unsigned_abs())?;
        let nanos = if places < 0 { scaled / power } else { scaled.checked_mul(power)? };
        Some(Self { text: text.to_owned(), nanos: sign * nanos })
    }

    /// What a manifest has: text, or a bare number.
    pub(super) fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => None,
        }
    }

    /// Whether it is this many thousandths of the unit, or more.
    pub(super) fn at_least_milli(&self, milli: i128) -> bool {
        self.nanos >= milli * 1_000_000
    }

    /// Whole units, rounded up.
    pub(super) fn units(&self) -> u64 {
        u64::try_from((self.nanos + 999_999_999) / 1_000_000_000).unwrap_or_default()
    }
}

/// The power of two and the power of ten that a suffix stands for.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    let known = match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            return (power.abs() <= 18).then_some((0, power));
        }
    };
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_compared_by_what_they_mean() {
        let amount = |text| Quantity::parse(text).unwrap();
        assert_eq!(amount("500m"), amount("0.5"));
        assert_eq!(amount("1Gi"), amount("1024Mi"));
        assert_eq!(amount("1e3"), amount("1k"));
        assert_eq!(amount(".5"), amount("500m"));
        assert!(amount("128Mi") > amount("128M"));
        assert_eq!(amount("1500m").units(), 2);
        assert_eq!(amount("100m").units(), 1);
        assert_eq!(Quantity::read(&serde_json::json!(0.5)).unwrap(), amount("500m"));
        for wrong in ["", "m", "1.2.3", "1 Gi", "1gb", "1e99", "--1", "99999999999999999999999999", "1Eii"] {
            assert!(Quantity::parse(wrong).is_none(), "{wrong}");
        }
    }
}
