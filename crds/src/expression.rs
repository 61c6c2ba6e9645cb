//! Regular expressions: only what RE2 (Envoy, the API server) and Rust's regex take, with the same meaning.
//!
//! The API server compiles an expression when an object is applied, by the rule [`compiles`]; what the two
//! dialects read differently is refused by the rule [`portable`]. What is left to a condition
//! (`Accepted=False, Invalid`) is an expression that both would take and that is too large, see [`check`].

use kube::core::Rule;
use regex::{Regex, RegexBuilder};

/// The largest compiled expression, in bytes: with 64 rules of them a sidecar still stays small.
pub const SIZE_LIMIT: usize = 256 * 1024;

/// Constructs that one of the two dialects lacks or reads differently: `\Q..\E`, `\C`, `\<`, `\>`, `\b{..}`,
/// `\u`, `\U`, `\K`, `\Z`, `\R`, `\X`, flags other than i, m, s and U, look-around, `&&`, `--` and `~~`, and
/// a class within a class.
const FOREIGN: &str = r"\\[QECKRZXuU<>]|\\[bB][{]|[(][?][a-zA-Z]*-?[a-zA-Z]*[xuRn]|[(][?]([=!>#]|<[=!])|&&|--|~~|\[[^\]]*\[[^:\]]";

/// What both take.
const MESSAGE: &str = "a regular expression is one that RE2 and Rust both take";

/// An expression that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{MESSAGE}: {0}")]
pub struct Unusable(String);

/// Compiles an expression as a sidecar does: anchored at both ends, of bounded size.
///
/// # Errors
/// The first reason why it cannot be used.
pub fn check(expression: &str) -> Result<Regex, Unusable> {
    if Regex::new(FOREIGN).is_ok_and(|foreign| foreign.is_match(expression)) {
        return Err(Unusable(FOREIGN_MESSAGE.to_owned()));
    }
    RegexBuilder::new(&format!("^(?:{expression})$"))
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| Unusable(last_line(&error.to_string())))
}

/// The reason of a [`regex::Error`], whose other lines are a drawing.
fn last_line(message: &str) -> String {
    message.lines().last().unwrap_or(message).trim_start_matches("error: ").to_owned()
}

/// What [`FOREIGN`] finds.
const FOREIGN_MESSAGE: &str = "write it without \\Q, \\C, \\<, \\b{, \\u, look-around, flags other than i, m, s, \
                               U, and without &&, --, ~~ or [ in a class";

/// `type: RegularExpression` has a value that compiles. An error of `matches` is the violation: the API
/// server reports it with its reason and this message.
pub(crate) fn compiles() -> Rule {
    Rule::new("self.type != 'RegularExpression' || (''.matches(self.value) ? true : true)").message(MESSAGE)
}

/// `type: RegularExpression` has a value that means the same everywhere.
pub(crate) fn portable() -> Rule {
    let foreign = FOREIGN.replace('\\', "\\\\");
    Rule::new(format!("self.type != 'RegularExpression' || !self.value.matches('{foreign}')"))
        .message(format!("{MESSAGE}: {FOREIGN_MESSAGE}").as_str())
}
