//! YAML as `kubectl` reads it: the documents of a text, their values, and values as text again.
//!
//! What is written is read alike by YAML 1.1 (kubectl's) and 1.2: a text that either could take for something
//! else is quoted.

use std::fmt::Write;

use serde_json::Value;

/// The documents of a text with their first lines. A line that starts with `---` separates them
/// wherever it stands: YAML allows it nowhere else.
pub fn documents(text: &str) -> Vec<(u64, &str)> {
    let text = text.trim_start_matches('\u{feff}');
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut at) = (0, 1, 0);
    for (line, number) in text.split_inclusive('\n').zip(1_u64..) {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.trim_start().len() < rest.len() || rest.is_empty());
        let end = line.trim_end() == "...";
        if (marker || end) && at >= start {
            documents.push((first_line, text.get(start..at).unwrap_or_default()));
            // What follows `---` on its line belongs to the document.
            start = at + if end { line.len() } else { 3 };
            first_line = if end { number + 1 } else { number };
        }
        at += line.len();
    }
    documents.push((first_line, text.get(start..).unwrap_or_default()));
    documents.retain(|(_, document)| {
        document.lines().any(|line| !matches!(line.trim().chars().next(), None | Some('#' | '%')))
    });
    documents
}

/// A text that is not YAML: where, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NotYaml {
    /// Its line in the file.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

/// The value of one document, which begins at `line` of its file. `0644` is octal, as it is for kubectl.
pub fn read(document: &str, line: u64) -> Result<Value, NotYaml> {
    let parse = |text: &str| serde_saphyr::from_str_with_options::<Value>(text, options());
    parse(document).map_err(|error| {
        // Once more where it stands in the file, for messages name other lines than that of the mistake, too.
        let above = "\n".repeat(usize::try_from(line).unwrap_or(1).saturating_sub(1));
        let error = parse(&(above + document)).err().unwrap_or(error);
        NotYaml {
            line: error.location().map_or(line, |location| location.line()),
            // In words for who wrote the YAML, not for who calls the parser.
            message: error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter),
        }
    })
}

/// Lists in lists: nobody writes that, and a file must not be able to exhaust the stack.
pub const LIST_DEPTH: usize = 4;

/// Takes the items out of a list; none: it is no list. Items of a list that names their kind (`DeploymentList`) need
/// not say again what they are, and are told it here.
pub fn take_items(list: &mut Value) -> Option<Vec<Value>> {
    let text = |field: &str| list.get(field).and_then(Value::as_str).map(Value::from);
    let kind = list.get("kind")?.as_str()?.strip_suffix("List")?.to_owned();
    let version = text("apiVersion");
    let Value::Array(mut items) = list.get_mut("items").filter(|items| items.is_array())?.take() else {
        return None;
    };
    let untyped = |item: &&mut serde_json::Map<String, Value>| !item.contains_key("kind");
    if let Some(version) = version.filter(|_| !kind.is_empty()) {
        for item in items.iter_mut().filter_map(Value::as_object_mut).filter(untyped) {
            item.insert("apiVersion".to_owned(), version.clone());
            item.insert("kind".to_owned(), kind.as_str().into());
        }
    }
    Some(items)
}

/// Files are the user's own, so the limits of the parser against strangers are raised: 10,000
/// Services in one file are some million events.
fn options() -> serde_saphyr::Options {
    const MANY: usize = 100_000_000;
    serde_saphyr::options! {
        with_snippet: false,
        legacy_octal_numbers: true,
        budget: serde_saphyr::budget! { max_events: MANY, max_nodes: MANY, max_total_scalar_bytes: 1 << 30 },
    }
}

/// A value in the form that people write, with its keys sorted.
#[must_use]
pub fn write(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => mapping(&mut text, fields, 0),
        Value::Array(items) if !items.is_empty() => sequence(&mut text, items, 0),
        other => {
            scalar(&mut text, other, 0);
            text.push('\n');
        }
    }
    text
}

fn mapping(text: &mut String, fields: &serde_json::Map<String, Value>, depth: usize) {
    for (number, (key, value)) in fields.iter().enumerate() {
        // The first field of an item stands beside its dash.
        if number > 0 || !text.ends_with("- ") {
            indent(text, depth);
        }
        quoted_if_needed(text, key);
        text.push(':');
        below(text, value, depth);
    }
}

fn sequence(text: &mut String, items: &[Value], depth: usize) {
    for (number, item) in items.iter().enumerate() {
        if number > 0 || !text.ends_with("- ") {
            indent(text, depth);
        }
        text.push_str("- ");
        match item {
            Value::Object(fields) if !fields.is_empty() => mapping(text, fields, depth + 1),
            Value::Array(items) if !items.is_empty() => sequence(text, items, depth + 1),
            other => {
                scalar(text, other, depth + 1);
                text.push('\n');
            }
        }
    }
}

/// The value of a key: beside it, or in lines of its own below it.
fn below(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            mapping(text, fields, depth + 1);
        }
        // As kubectl does it: the dash stands below the key's first letter.
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            sequence(text, items, depth);
        }
        other => {
            text.push(' ');
            scalar(text, other, depth + 1);
            text.push('\n');
        }
    }
}

fn scalar(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(string) if is_block(string) => block(text, string, depth),
        Value::String(string) => quoted_if_needed(text, string),
        // Null, booleans, numbers and what is empty are written as in JSON.
        other => text.push_str(&other.to_string()),
    }
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n("  ", depth));
}

/// Lines that can stand as they are below `|`.
fn is_block(string: &str) -> bool {
    let strange = |one: char| one.is_control() && one != '\n' || breaks_lines(one);
    string.trim_end_matches('\n').contains('\n')
        && !string.starts_with([' ', '\n'])
        && !string.contains(strange)
        && string.lines().all(|line| line.trim_end() == line)
}

fn block(text: &mut String, string: &str, depth: usize) {
    let body = string.trim_end_matches('\n');
    let newlines = string.len() - body.len();
    text.push_str(match newlines {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in body.split('\n') {
        text.push('\n');
        if !line.is_empty() {
            indent(text, depth);
            text.push_str(line);
        }
    }
    text.extend(std::iter::repeat_n('\n', newlines.saturating_sub(1)));
}

fn quoted_if_needed(text: &mut String, string: &str) {
    if is_plain(string) {
        return text.push_str(string);
    }
    text.push('"');
    for one in string.chars() {
        match one {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            // Writing to a String cannot fail.
            one if one.is_control() || breaks_lines(one) => drop(write!(text, "\\u{:04x}", u32::from(one))),
            one => text.push(one),
        }
    }
    text.push('"');
}

/// Ends a line in YAML 1.1, or vanishes.
fn breaks_lines(one: char) -> bool {
    matches!(one, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// Whether no YAML takes this text for anything but a text.
fn is_plain(string: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let letter = |one: char| one.is_ascii_alphabetic() || one == '_' || one == '/';
    // Without blanks a colon inside, or a dollar sign, means nothing.
    let inner = |one: char| letter(one) || one.is_ascii_digit() || "-.:=,$()".contains(one);
    let word = string.strip_prefix("--").unwrap_or(string);
    word.starts_with(letter)
        && string.chars().all(inner)
        && !string.ends_with(':')
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(string))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn people_can_read_it() {
        let value = json!({
            "kind": "Pod", "empty": {}, "none": [], "nothing": null, "count": 3, "share": 0.5, "yes": "no",
            "octal": "0644", "number": "80", "path": "/bin/sh", "image": "localhost/app:1",
            "script": "set -e\n\n  echo \"x\" # y\n", "ends": "a\nb", "odd": "a\n b \n", "text": "it's: \"so\"\t",
            "items": [{"name": "a", "args": ["x", ["y", 1]]}, "b", [], {}],
        });
        insta::assert_snapshot!(write(&value));
        assert_eq!(read(&write(&value), 1).unwrap(), value);
    }

    #[test]
    fn what_kubectl_reads_is_read() {
        assert_eq!(read("{mode: 0644, on: yes, x: 08}", 1).unwrap()["mode"], 420);
        assert_eq!(read("yes", 1).unwrap(), json!(true));
        assert!(read("a: [1,\n", 1).is_err());
        let twice = read("a: 1\na: 2\n", 7).unwrap_err();
        assert_eq!(twice.line, 8);
        assert!(twice.message.starts_with("duplicate mapping key `a` is not allowed here"), "{twice}");
        let open = read("a: [1,\nb: {\n", 7).unwrap_err();
        assert!(!open.message.contains("line 1,") && !open.message.contains("line 2,"), "{open}");
    }

    fn values() -> impl Strategy<Value = Value> {
        let text =
            prop_oneof!["[ -~\n\t]{0,12}", ".{0,6}", "(yes|~|1e3|-|0x1f|1_000|12:30|<<|=|null|\\.inf)"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map(text.clone(), inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in values()) {
            let text = write(&value);
            prop_assert_eq!(read(&text, 1).unwrap(), value, "{}", text);
        }
    }
}
