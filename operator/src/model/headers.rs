//! Where changes to headers stand, so that none is written more often than it has to be: a match of a rule
//! becomes up to six routes, and each would repeat what the rule does to headers.
//!
//! ```text
//! what a backend changes too      with each backend, the rule's change first
//! what all rules do alike         once for all of them
//! everything else                 with each route of the rule
//! ```
//!
//! Envoy applies these levels in this order, so a header must stand in one of them only.

use std::collections::BTreeSet;

use fairlead_crds::HeaderModifier;

/// The changes of `first`, then those of `then`: each removes, then sets, then adds.
pub fn merged(first: &HeaderModifier, then: &HeaderModifier) -> HeaderModifier {
    let mut both = first.clone();
    let replaced: BTreeSet<String> =
        then.remove.iter().chain(then.set.iter().map(|header| &header.name)).map(lower).collect();
    both.set.retain(|header| !replaced.contains(&lower(&header.name)));
    both.add.retain(|header| !replaced.contains(&lower(&header.name)));
    both.remove.extend(then.remove.iter().cloned());
    both.set.extend(then.set.iter().cloned());
    both.add.extend(then.add.iter().cloned());
    both
}

/// Moves what `rule` does to headers that some backend changes too to every backend, before its own changes.
pub fn settle(rule: &mut HeaderModifier, backends: &mut [&mut HeaderModifier]) {
    let mut names = BTreeSet::new();
    for backend in &*backends {
        let changed = backend.set.iter().chain(&backend.add).map(|header| &header.name);
        names.extend(changed.chain(&backend.remove).map(lower));
    }
    let theirs = |name: &String| names.contains(&lower(name));
    let moved = HeaderModifier {
        set: rule.set.extract_if(.., |header| theirs(&header.name)).collect(),
        add: rule.add.extract_if(.., |header| theirs(&header.name)).collect(),
        remove: rule.remove.extract_if(.., |name| theirs(name)).collect(),
    };
    for backend in backends {
        **backend = merged(&moved, backend);
    }
}

/// Takes out what all of them say, where they say nothing else.
pub fn common<'a>(all: impl IntoIterator<Item = &'a mut HeaderModifier>) -> HeaderModifier {
    let mut all: Vec<_> = all.into_iter().collect();
    match all.split_first_mut() {
        Some((first, rest)) if rest.iter().all(|other| **other == **first) => {
            rest.iter_mut().for_each(|other| **other = HeaderModifier::default());
            std::mem::take(*first)
        }
        _ => HeaderModifier::default(),
    }
}

fn lower(name: impl AsRef<str>) -> String {
    name.as_ref().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn modifier(value: &Value) -> HeaderModifier {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn the_later_change_has_the_last_word() {
        let header = |name: &str, value: &str| json!({"name": name, "value": value});
        let first =
            modifier(&json!({"set": [header("a", "1"), header("b", "1")], "add": [header("c", "1")]}));
        let then = modifier(&json!({"set": [header("A", "2")], "add": [header("b", "2")], "remove": ["C"]}));
        let both = modifier(&json!({
            "set": [header("b", "1"), header("A", "2")], "add": [header("b", "2")], "remove": ["C"],
        }));
        assert_eq!(merged(&first, &then), both);
        assert_eq!(merged(&first, &HeaderModifier::default()), first);
        assert_eq!(merged(&HeaderModifier::default(), &then), then);
    }

    #[test]
    fn only_what_a_backend_changes_too_moves_to_the_backends() {
        let header = |name: &str, value: &str| json!({"name": name, "value": value});
        let mut rule = modifier(&json!({
            "set": [header("x-route", "rule"), header("x-other", "rule")], "remove": ["x-debug", "x-a"],
        }));
        let mut one = modifier(&json!({"set": [header("X-Route", "one")], "add": [header("x-a", "one")]}));
        let mut other = HeaderModifier::default();
        settle(&mut rule, &mut [&mut one, &mut other]);
        assert_eq!(rule, modifier(&json!({"set": [header("x-other", "rule")], "remove": ["x-debug"]})));
        let first =
            json!({"set": [header("X-Route", "one")], "add": [header("x-a", "one")], "remove": ["x-a"]});
        assert_eq!(one, modifier(&first));
        assert_eq!(other, modifier(&json!({"set": [header("x-route", "rule")], "remove": ["x-a"]})));
    }

    #[test]
    fn what_all_do_alike_is_taken_out_and_else_nothing() {
        let change = modifier(&json!({"remove": ["a"]}));
        let mut alike = [change.clone(), change.clone()];
        assert_eq!(common(&mut alike), change);
        assert_eq!(alike, [HeaderModifier::default(), HeaderModifier::default()]);
        let mut different = [change.clone(), HeaderModifier::default()];
        assert_eq!(common(&mut different), HeaderModifier::default());
        assert_eq!(different[0], change);
        assert_eq!(common([]), HeaderModifier::default());
    }
}
