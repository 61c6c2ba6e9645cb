//! `fairlead check -f`: what the API server would say to files, without one.

use std::path::PathBuf;

use anyhow::Result;
use fairlead_crds as crds;
use fairlead_operator::yaml;
use serde_json::Value;

use super::line::{Group, Line, count};
use crate::files;

/// The lines about these files.
///
/// # Errors
/// A file that cannot be read.
pub fn check(paths: &[PathBuf]) -> Result<Vec<Group>> {
    let read = files::read(paths)?;
    Ok(vec![("Files", read.iter().flat_map(|(name, text)| judge(name, text)).collect())])
}

/// The lines about one file: what is wrong, object by object, or that nothing is.
fn judge(file: &str, text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let (mut ours, mut others) = (0, 0);
    for (line, document) in yaml::documents(text) {
        match yaml::read(document, line) {
            Ok(value) => {
                object(value, &format!("{file}:{line}"), 0, &mut lines, (&mut ours, &mut others));
            }
            Err(error) => lines.push(Line::fail(
                "file",
                format!("{file}:{}", error.line),
                format!("not YAML: {}", error.message),
                "mend the YAML; what stands after it is judged",
            )),
        }
    }
    if lines.is_empty() && ours == 0 {
        lines.push(Line::skip("file", format!("{file}: no object of fairlead.dev is in it"), ""));
    } else if lines.is_empty() {
        let ours = count(ours, "object of fairlead.dev is", "objects of fairlead.dev are");
        let others = if others > 0 { format!(", {others} of other kinds not judged") } else { String::new() };
        lines.push(Line::pass("file", file, format!("{ours} as the API server takes them{others}")));
    }
    lines
}

fn object(
    mut value: Value,
    place: &str,
    depth: usize,
    lines: &mut Vec<Line>,
    (ours, others): (&mut usize, &mut usize),
) {
    if depth < yaml::LIST_DEPTH
        && let Some(items) = yaml::take_items(&mut value)
    {
        for item in items {
            object(item, place, depth + 1, lines, (&mut *ours, &mut *others));
        }
        return;
    }
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = text("/kind");
    match &value {
        _ if value.is_null() => {}
        _ if kind.is_empty() || text("/apiVersion").is_empty() => lines.push(Line::fail(
            "file",
            place,
            "an object without apiVersion and kind",
            format!("write for instance apiVersion: {} and kind: ServiceRoute", crds::API_VERSION),
        )),
        _ if !crds::is_ours(&value) => *others += 1,
        _ => {
            *ours += 1;
            let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
            let name = if name.is_empty() { "without a name" } else { name };
            let slash = if namespace.is_empty() { "" } else { "/" };
            lines.extend(crds::validate(&value).into_iter().map(|violation| {
                let message = format!("{kind} {namespace}{slash}{name}: {violation}");
                Line::fail("file", place, message, "")
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::line::Verdict;

    const GOOD: &str = "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews}
spec: {parentRefs: [{name: reviews}]}
";

    #[test]
    fn a_good_file_is_one_line() {
        let text = format!("{GOOD}---\napiVersion: v1\nkind: Service\nmetadata: {{name: reviews}}\n");
        let lines = judge("a.yaml", &text);
        assert_eq!(lines.len(), 1);
        assert_eq!(judge("b.yaml", "{apiVersion: v1, kind: Service}")[0].verdict, Verdict::Skip);
        assert_eq!(lines[0].verdict, Verdict::Pass);
        assert_eq!(
            lines[0].message,
            "1 object of fairlead.dev is as the API server takes them, 1 of other kinds not judged"
        );
    }

    #[test]
    fn what_is_wrong_has_its_file_line_and_object() {
        let bad = GOOD.replace("spec: {", "spec: {timeout: 1s, ");
        let lines = judge("a.yaml", &format!("{GOOD}---\n{bad}---\n{{\n---\nspec: {{}}\n"));
        assert!(lines.iter().all(|line| line.verdict == Verdict::Fail), "{lines:?}");
        assert_eq!(lines[0].subject, "a.yaml:5");
        assert!(lines[0].message.starts_with("ServiceRoute reviews: spec"), "{}", lines[0].message);
        assert!(lines[0].message.contains("timeout"), "{}", lines[0].message);
        assert_eq!(lines[1].subject, "a.yaml:11");
        assert!(lines[1].message.contains("not YAML"), "{}", lines[1].message);
        assert_eq!(lines[2].subject, "a.yaml:12");
        assert!(lines[2].message.contains("without apiVersion and kind"), "{}", lines[2].message);
    }

    #[test]
    fn lists_are_looked_into() {
        let item = "{apiVersion: fairlead.dev/v1alpha1, kind: ServiceRoute, metadata: {name: a}, spec: {}}";
        let lines = judge("-", &format!("apiVersion: v1\nkind: List\nitems: [{item}]\n"));
        assert!(lines[0].message.contains("parentRefs"), "{lines:?}");
        let lines = judge("-", "apiVersion: apps/v1\nkind: DeploymentList\nitems: [{metadata: {name: a}}]\n");
        assert_eq!(lines[0].verdict, Verdict::Skip, "{lines:?}");
    }
}
