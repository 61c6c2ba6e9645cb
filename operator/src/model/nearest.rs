//! Which of the names that exist was probably meant.

/// `; did you mean NAME?` for the name nearest to `wanted`, or nothing when none is near.
pub fn hint<'a>(wanted: &str, existing: impl IntoIterator<Item = &'a str>) -> String {
    let most = wanted.chars().count().div_ceil(3).max(1);
    existing
        .into_iter()
        // Names of Kubernetes objects are short; the bound keeps 10,000 Services cheap.
        .filter(|name| name.len().abs_diff(wanted.len()) <= most || is_part(name, wanted))
        .map(|name| (distance(wanted, name), name))
        // A part counts as one letter off; of two such names the one with the fewer other letters wins.
        .map(|(letters, name)| (if is_part(name, wanted) { 1 } else { letters }, letters, name))
        .filter(|(distance, ..)| *distance <= most)
        .min()
        .map_or_else(String::new, |(.., name)| format!("; did you mean {name}?"))
}

/// `reviews` for `reviews-v2`, and the other way round.
fn is_part(name: &str, wanted: &str) -> bool {
    let continued =
        |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('-'));
    continued(name, wanted) || continued(wanted, name)
}

/// How many characters have to be added, removed or replaced (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(right.chars()) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            *cell = replaced.min(before + 1).min(*cell + 1);
            before = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("reviews", "reviews"), 0);
        assert_eq!(distance("reviews", "reviewz"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }

    #[test]
    fn the_nearest_is_named() {
        let names = ["reviews", "ratings", "details"];
        assert_eq!(hint("reveiws", names), "; did you mean reviews?");
        assert_eq!(hint("reviews-v2", names), "; did you mean reviews?");
        assert_eq!(hint("reviews-v3", ["reviews", "reviews-v2"]), "; did you mean reviews-v2?");
        assert_eq!(hint("orders", names), "");
        assert_eq!(hint("x", []), "");
    }
}
