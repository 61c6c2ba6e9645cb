//! The known name that was probably meant.

/// `did you mean "rules"?` when one is near enough, else all of them after `introduction`.
pub fn advice<'a>(name: &str, known: impl Iterator<Item = &'a str>, introduction: &str) -> String {
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().map(|candidate| (distance(name, candidate), *candidate)).min();
    match nearest {
        // A third of the letters may differ: more is no longer a slip.
        Some((distance, candidate)) if distance <= name.len().max(candidate.len()) / 3 => {
            format!("did you mean \"{candidate}\"?")
        }
        _ => format!("{introduction} {}", known.join(", ")),
    }
}

/// Levenshtein's distance, letters in any case.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(before);
        for (to, above) in right.iter().zip(row.iter().skip(1)) {
            let cost = usize::from(from != *to);
            before = (diagonal + cost).min(above + 1).min(before + 1);
            diagonal = *above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("rulez", "rules"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("backendrefs", "backendRefs"), 0);
        assert_eq!(distance("ab", "ba"), 2);
    }

    #[test]
    fn a_far_name_lists_all() {
        assert_eq!(
            advice("rulez", ["rules", "parentRefs"].into_iter(), "known are"),
            "did you mean \"rules\"?"
        );
        assert_eq!(
            advice("foo", ["rules", "parentRefs"].into_iter(), "known are"),
            "known are rules, parentRefs"
        );
    }
}
