//! Numbers in headers, with one allocation: what `http` makes of a number takes two.

use http::HeaderValue;

/// The digits of a number.
pub fn header(number: u64) -> HeaderValue {
    let digits = HeaderValue::from_str(itoa::Buffer::new().format(number));
    digits.expect("digits may stand in a header")
}
