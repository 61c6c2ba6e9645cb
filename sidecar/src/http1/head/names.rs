//! Names of fields, kept per thread: peers send the same few dozen again and again, and to find one costs a third of
//! parsing it, which for a name that is in no standard takes memory of its own besides.

use std::cell::RefCell;

use foldhash::HashMap;
use http::header::HeaderName;

use super::fields::Rule;

/// Names that are kept. Whoever sends ever new ones makes the others be parsed again, no more.
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
