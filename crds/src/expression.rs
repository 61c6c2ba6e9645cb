//! Regular expressions: only what RE2 (Envoy, the API server) and Rust's regex take, with the same meaning.
//!
//! The API server compiles an expression when an object is applied, by the rule [`compiles`]; what the two
//! dialects read differently is refused by the rule [`portable`]. What is left to a condition
//! (`Accepted=False, Invalid`) is an expression that both would take and that is too large, see [`check`].

use std::sync::LazyLock;

use kube::core::Rule;
use regex::{Regex, RegexBuilder};

/// The largest compiled expression, in bytes, as a sidecar bounds it.
pub const SIZE_LIMIT: usize = 256 * 1024;

/// What RE2 takes and Rust refuses or reads differently: `\Q..\E`, `\<`, `\>`, `\b{..}`; `&&`, `--` and `~~`,
/// and a `[` in a class. (They would be harmless outside of a class, but a pattern cannot count brackets.)
const FOREIGN: &str = r"\\[Q<>]|\\b[{]|&&|--|~~|(^|[^\\])\[[^\]]*\[[^:]";

/// What both take.
const MESSAGE: &str = "a regular expression is one that RE2 and Rust both take";

/// An expression that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{MESSAGE}: {0}")]
pub struct Unusable(String);

/// What Rust takes and RE2 refuses: flags other than i, m, s and U, `\u`, `\U`, Unicode properties by other
/// than their one or two letters, more than a thousand repetitions.
const RUST_ONLY: &str = r"[(][?][a-zA-Z]*-?[a-zA-Z]*[xuR]|\\[uU]|\\[pP][{][^}]{3,}[}]|\\[bB][{]|[{]([0-9]*,)?(100[1-9]|10[1-9][0-9]|1[1-9][0-9]{2}|[2-9][0-9]{3}|[0-9]{5,})(,[0-9]*)?[}]";

/// What [`RUST_ONLY`] finds.
const RUST_ONLY_MESSAGE: &str =
    "write it without flags other than i, m, s, U, without \\u, long \\p names, and repetitions over 1000";

/// Compiles an expression as a sidecar does: anchored at both ends, of bounded size.
///
/// # Errors
/// The first reason why it cannot be used.
pub fn check(expression: &str) -> Result<Regex, Unusable> {
    static FORBIDDEN: LazyLock<[(Option<Regex>, &str); 2]> = LazyLock::new(|| {
        [(Regex::new(FOREIGN).ok(), FOREIGN_MESSAGE), (Regex::new(RUST_ONLY).ok(), RUST_ONLY_MESSAGE)]
    });
    for (forbidden, message) in FORBIDDEN.iter() {
        if forbidden.as_ref().is_some_and(|forbidden| forbidden.is_match(expression)) {
            return Err(Unusable((*message).to_owned()));
        }
    }
    // By itself first: `a)|(b` is no expression, but would become one between our brackets.
    compile(expression)?;
    compile(&format!(r"\A(?:{expression})\z"))
}

fn compile(expression: &str) -> Result<Regex, Unusable> {
    RegexBuilder::new(expression).size_limit(SIZE_LIMIT).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Unusable(TOO_LARGE.to_owned()),
        other => Unusable(last_line(&other.to_string())),
    })
}

/// `\w` and `\d` know every script, and a repetition multiplies that.
const TOO_LARGE: &str =
    "it is too large when compiled: write fewer repetitions, [0-9A-Za-z_] for \\w, [0-9] for \\d";

/// The reason of a [`regex::Error`], whose other lines are a drawing.
fn last_line(message: &str) -> String {
    message.lines().last().unwrap_or(message).trim_start_matches("error: ").to_owned()
}

/// What [`FOREIGN`] finds.
const FOREIGN_MESSAGE: &str = "write it without \\Q, \\<, \\>, \\b{, &&, --, ~~, and a [ in a class as \\x5b";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_subset_is_taken() {
        for good in [
            "/articles/[0-9]+",
            r"/a\.b/\d{1,4}",
            "(?i)true|yes",
            r"\[[0-9]+\]",
            "[[:alpha:]]+",
            r"(?P<year>\d{4})",
            r"\p{L}+\pN",
            "a{1000}",
            "",
        ] {
            assert!(check(good).is_ok(), "{good}: {:?}", check(good));
        }
        assert!(check("a|b").is_ok_and(|regex| !regex.is_match("ab")), "anchored as a whole");
    }

    #[test]
    fn what_one_dialect_lacks_is_refused() {
        for bad in [
            "[a",
            r"\Qa.b\E",
            r"\<word\>",
            r"\b{start}",
            "[a-z&&[^b]]",
            "[a[b]]",
            "(?x) a",
            "(?=a)",
            "(a)\\1",
            r"\u{61}",
            r"\p{Alphabetic}",
            "a{1001}",
            "a{2,5000}",
            "((a{100}){100}){100}",
            "a)|(b",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
