//! From when to when a certificate counts: the one thing that is read of it by hand, because nothing that we
//! depend on tells it.
//!
//! ```text
//! Certificate { TBSCertificate { [0] version, serial, algorithm, issuer, Validity { from, until }, ... } ... }
//! ```
//!
//! DER as in RFC 5280, 4.1. A text that is anything else gives nothing.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The two ends of the certificate's life.
pub(super) fn of(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (mut fields, _) = expect(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        (_, fields) = expect(fields, VERSION)?;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, fields) = expect(fields, tag)?; // Serial number, algorithm, issuer.
    }
    let (validity, _) = expect(fields, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some((from, until))
}

/// The content of an element of this tag, and what follows it.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (length, rest) = length(rest)?;
    (*found == tag).then_some(())?;
    rest.split_at_checked(length)
}

/// One byte below 128; else how many bytes follow, and those. More than four make no certificate.
fn length(der: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = der.split_first()?;
    if *first < 0x80 {
        return Some((usize::from(*first), rest));
    }
    let (bytes, rest) =
        rest.split_at_checked(usize::from(first & 0x7f)).filter(|(bytes, _)| bytes.len() <= 4)?;
    Some((bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest))
}

/// `YYMMDDhhmmssZ`, of 1950 to 2049, or `YYYYMMDDhhmmssZ`.
fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (text, rest) = expect(der, UTC_TIME).or_else(|| expect(der, GENERALIZED_TIME))?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match text.len() {
        12 if text < "50" => format!("20{text}"),
        12 => format!("19{text}"),
        _ => text.to_owned(),
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", &text).ok()?;
    Some((TimeZone::UTC.to_timestamp(time).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["name.svc".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn both_notations_are_read() {
        let (from, until) = of(&certificate((1999, 12, 31), (2049, 1, 2))).unwrap();
        assert_eq!(
            (from.to_string(), until.to_string()),
            ("1999-12-31T00:00:00Z".into(), "2049-01-02T00:00:00Z".into())
        );
        let (from, until) = of(&certificate((2026, 11, 25), (2150, 6, 7))).unwrap();
        assert_eq!(
            (from.to_string(), until.to_string()),
            ("2026-11-25T00:00:00Z".into(), "2150-06-07T00:00:00Z".into())
        );
    }

    #[test]
    fn nonsense_gives_nothing_and_no_panic() {
        let good = certificate((2026, 11, 25), (2027, 6, 7));
        for end in 0..good.len().min(200) {
            let _ = of(&good[..end]);
        }
        for at in 0..good.len() {
            for value in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = of(&bad);
            }
        }
        assert_eq!(of(b""), None);
        assert_eq!(of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
