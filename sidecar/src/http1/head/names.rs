//! Names of fields, and what is done with each: kept per thread, for peers send the same few dozen again and again.
//! To find one costs a third of parsing it, which for a name that is in no standard takes memory besides.

use std::cell::RefCell;

use foldhash::HashMap;
use http::header::HeaderName;

/// Names that are kept. Whoever sends ever new ones makes the others be parsed and kept again, no more.
const MOST: usize = 256;

/// A longer name is not kept.
const LONGEST: usize = 64;

/// By the bytes on the wire, upper case or not.
type Known = HashMap<Box<[u8]>, (HeaderName, Rule)>;

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// The name that these bytes are, and what is done with such a field; None: they are no name.
pub fn read(wire: &[u8]) -> Option<(HeaderName, Rule)> {
    KNOWN.with_borrow_mut(|known| {
        if let Some((name, rule)) = known.get(wire) {
            return Some((name.clone(), *rule));
        }
        let name = HeaderName::from_bytes(wire).ok()?;
        let rule = Rule::of(&name);
        if wire.len() <= LONGEST {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(wire.into(), (name.clone(), rule));
        }
        Some((name, rule))
    })
}

/// What is done with a field of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It goes on, unless `Connection` lists it.
    Pass,
    /// It is for this hop only.
    Drop,
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Host`.
    Host,
    /// `TE`.
    Te,
    /// `Upgrade`.
    Upgrade,
    /// `Expect`.
    Expect,
}

impl Rule {
    /// That of a name.
    pub fn of(name: &HeaderName) -> Self {
        match name.as_str() {
            "te" => Self::Te,
            "host" => Self::Host,
            "expect" => Self::Expect,
            "upgrade" => Self::Upgrade,
            "content-length" => Self::Length,
            "transfer-encoding" => Self::TransferEncoding,
            "connection" | "keep-alive" | "proxy-connection" | "http2-settings" => Self::Drop,
            _ => Self::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> usize {
        KNOWN.with_borrow(Known::len)
    }

    #[test]
    fn a_name_is_the_same_the_second_time() {
        for _ in 0..2 {
            for (wire, wanted, rule) in [
                (&b"Host"[..], "host", Rule::Host),
                (b"host", "host", Rule::Host),
                (b"X-Request-Id", "x-request-id", Rule::Pass),
                (b"connection", "connection", Rule::Drop),
            ] {
                let (name, read) = super::read(wire).unwrap();
                assert_eq!((name.as_str(), read), (wanted, rule));
            }
            assert!(super::read(b"no name").is_none());
            assert_eq!(kept(), 4);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        for number in 0..2 * MOST {
            super::read(format!("x-{number}").as_bytes()).unwrap();
            assert!(kept() <= MOST);
        }
        let before = kept();
        super::read(&[b'x'; LONGEST + 1]).unwrap();
        assert_eq!(kept(), before);
    }
}
