//! What is said: one line a check, for people and for programs.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::ask::{Unseen, Why};

/// How a check ended. In order: what stands later is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// It was not looked at; the line says why.
    Skip,
    /// Somebody should look, but nothing is broken; or it could not be seen.
    Warn,
    /// Broken.
    Fail,
}

impl Verdict {
    /// The word in both outputs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    /// As terminals colour it.
    fn colour(self) -> &'static str {
        match self {
            Self::Pass => "32",
            Self::Skip => "2",
            Self::Warn => "33",
            Self::Fail => "1;31",
        }
    }
}

/// One check, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Which check: never renamed, for programs look for it.
    pub id: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// Whom it is about: `namespace/shop`, `deployment/fairlead-operator`; empty: the whole cluster.
    pub subject: String,
    /// What is so.
    pub message: String,
    /// What to type or do next; empty where nothing is to be done.
    pub action: String,
}

impl Line {
    /// A line of which nothing follows.
    pub fn pass(id: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        let (subject, message) = (subject.into(), message.into());
        Self { id, verdict: Verdict::Pass, subject, message, action: String::new() }
    }

    /// What was not looked at, and why.
    pub fn skip(id: &'static str, message: impl Into<String>, action: impl Into<String>) -> Self {
        Self {
            id,
            verdict: Verdict::Skip,
            subject: String::new(),
            message: message.into(),
            action: action.into(),
        }
    }

    /// What somebody should look at.
    pub fn warn(
        id: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        let (subject, message, action) = (subject.into(), message.into(), action.into());
        Self { id, verdict: Verdict::Warn, subject, message, action }
    }

    /// What is broken.
    pub fn fail(
        id: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(id, subject, message, action) }
    }

    /// What could not be seen: nothing is known to be broken.
    pub fn unseen(id: &'static str, unseen: &Unseen) -> Self {
        let Unseen { what, needs, why } = unseen;
        match why {
            Why::Forbidden => Self::warn(
                id,
                "",
                format!("may not see {what} (needs {needs})"),
                "ask for that right; docs/check.md has a role with all of them",
            ),
            Why::Late(limit) => Self::warn(
                id,
                "",
                format!("{what}: no answer within {limit:?}"),
                "run it again; --timeout 30 waits longer",
            ),
            Why::Other(error) => {
                Self::warn(id, "", format!("{what} cannot be seen: {error}"), "run it again")
            }
        }
    }
}

/// Lines that belong together, under a heading.
pub type Group = (&'static str, Vec<Line>);

/// For people.
pub fn text(out: &mut impl Write, groups: &[Group], coloured: bool) -> io::Result<()> {
    let paint = |code: &str, text: &str| {
        if coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    for (heading, lines) in groups.iter().filter(|(_, lines)| !lines.is_empty()) {
        writeln!(out, "{}", paint("1", heading))?;
        for line in lines {
            let word = paint(line.verdict.colour(), line.verdict.word());
            let subject = if line.subject.is_empty() { String::new() } else { format!("{}: ", line.subject) };
            let action = if line.action.is_empty() { String::new() } else { format!(" — {}", line.action) };
            writeln!(out, "  {word}  {subject}{}{action}", line.message)?;
        }
    }
    let count = |verdict| all(groups).filter(|line| line.verdict == verdict).count();
    let worst = worst(groups);
    let sum = format!(
        "{} passed, {} skipped, {} warned, {} failed",
        count(Verdict::Pass),
        count(Verdict::Skip),
        count(Verdict::Warn),
        count(Verdict::Fail)
    );
    writeln!(out, "{}", paint(worst.colour(), &sum))
}

/// For programs: an array, one object a line.
pub fn json(groups: &[Group]) -> Value {
    let object = |line: &Line| {
        json!({
            "id": line.id,
            "result": line.verdict.word(),
            "subject": line.subject,
            "message": line.message,
            "action": line.action,
        })
    };
    all(groups).map(object).collect()
}

/// The worst of them.
pub fn worst(groups: &[Group]) -> Verdict {
    all(groups).map(|line| line.verdict).max().unwrap_or(Verdict::Pass)
}

fn all(groups: &[Group]) -> impl Iterator<Item = &Line> {
    groups.iter().flat_map(|(_, lines)| lines)
}

/// The first names, and how many more there are.
pub fn names<T: AsRef<str>>(names: &[T]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `1 pod has`, `2 pods have`.
pub fn count(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn groups() -> Vec<Group> {
        vec![
            ("Cluster", vec![Line::pass("api-server", "", "Kubernetes v1.33.2")]),
            ("Empty", Vec::new()),
            (
                "Pods",
                vec![
                    Line::fail("pod-sidecar", "namespace/shop", "1 pod has no sidecar: web-1", "restart it"),
                    Line::skip("webhook", "not asked", "label a namespace"),
                ],
            ),
        ]
    }

    #[test]
    fn people_read_a_line_a_check() {
        let mut out = Vec::new();
        text(&mut out, &groups(), false).unwrap();
        let expected = "Cluster
  pass  Kubernetes v1.33.2
Pods
  fail  namespace/shop: 1 pod has no sidecar: web-1 — restart it
  skip  not asked — label a namespace
1 passed, 1 skipped, 0 warned, 1 failed
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        text(&mut out, &groups(), true).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("\x1b[1;31mfail\x1b[0m"));
    }

    #[test]
    fn programs_read_an_array() {
        let said = json(&groups());
        assert_eq!(said.as_array().unwrap().len(), 3);
        assert_eq!(
            said[1],
            json!({"id": "pod-sidecar", "result": "fail", "subject": "namespace/shop",
                "message": "1 pod has no sidecar: web-1", "action": "restart it"})
        );
        assert_eq!(worst(&groups()), Verdict::Fail);
        assert_eq!(worst(&[]), Verdict::Pass);
    }

    #[test]
    fn what_cannot_be_seen_is_no_failure_and_names_the_right() {
        let unseen = |why| Unseen { what: "nodes".to_owned(), needs: "list nodes".to_owned(), why };
        let line = Line::unseen("node-kernel", &unseen(Why::Forbidden));
        assert_eq!(line.verdict, Verdict::Warn);
        assert_eq!(line.message, "may not see nodes (needs list nodes)");
        let line = Line::unseen("node-kernel", &unseen(Why::Late(Duration::from_secs(10))));
        assert_eq!(line.message, "nodes: no answer within 10s");
    }

    #[test]
    fn many_names_are_cut() {
        assert_eq!(names(&["a", "b"]), "a, b");
        assert_eq!(names(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
