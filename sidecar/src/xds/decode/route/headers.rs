//! Changes to headers, of several levels made one.
//!
//! Envoy applies the levels one after the other, each removing first and then adding in order. What a
//! header comes to is always one of two things: what it was with some values behind, or some values alone.
//! So any number of levels fits into one [`HeaderChanges`].

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue as EnvoyValue, HeaderValueOption};
use http::{HeaderName, HeaderValue};
use indexmap::IndexMap;

use crate::route::HeaderChanges;
use crate::xds::decode::{Rejection, literal};

/// `*_headers_to_add` and `*_headers_to_remove` of one level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level<'a> {
    add: &'a [HeaderValueOption],
    remove: &'a [String],
}

impl<'a> Level<'a> {
    pub(super) fn new(add: &'a [HeaderValueOption], remove: &'a [String]) -> Self {
        Self { add, remove }
    }
}

/// What each header comes to.
#[derive(Debug, Default)]
pub(super) struct Changes(IndexMap<HeaderName, Change>);

#[derive(Debug, Default)]
struct Change {
    /// Whether what was there is gone.
    replaced: bool,
    values: Vec<HeaderValue>,
}

impl Changes {
    /// The changes of these levels, the first applied first.
    pub(super) fn of(levels: &[Level<'_>]) -> Result<HeaderChanges, Rejection> {
        let mut changes = Self::default();
        for level in levels {
            for name in level.remove {
                changes.at(name)?.replace(None);
            }
            for option in level.add {
                changes.add(option)?;
            }
        }
        Ok(changes.into_one())
    }

    fn at(&mut self, name: &str) -> Result<&mut Change, Rejection> {
        // Envoy: "`:`-prefixed or Host headers may not be modified"; that is what rewrites are for.
        let known = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| name != http::header::HOST);
        let known =
            known.ok_or_else(|| Rejection::new(format!("{name:?} is no header that may be changed")))?;
        Ok(self.0.entry(known).or_default())
    }

    fn add(&mut self, option: &HeaderValueOption) -> Result<(), Rejection> {
        let Some(header) = option.header.as_ref() else { return Err(Rejection::new("a header is missing")) };
        let action = action(option).map_err(|error| error.within(&header.key))?;
        let value = value(header).map_err(|error| error.within(&header.key))?;
        let change = self.at(&header.key)?;
        if value.is_empty() && !option.keep_empty_value {
            return Ok(());
        }
        match action {
            Append::Beside => change.values.push(value),
            Append::Instead => change.replace(Some(value)),
        }
        Ok(())
    }

    fn into_one(self) -> HeaderChanges {
        let mut one = HeaderChanges::default();
        for (name, Change { replaced, values }) in self.0 {
            let mut values = values.into_iter();
            if replaced {
                match values.next() {
                    Some(value) => one.set.push((name.clone(), value)),
                    None => one.remove.push(name.clone()),
                }
            }
            one.add.extend(values.map(|value| (name.clone(), value)));
        }
        one
    }
}

impl Change {
    fn replace(&mut self, value: Option<HeaderValue>) {
        self.replaced = true;
        self.values = value.into_iter().collect();
    }
}

enum Append {
    Beside,
    Instead,
}

fn action(option: &HeaderValueOption) -> Result<Append, Rejection> {
    #[expect(deprecated, reason = "other servers still send it")]
    if let Some(append) = option.append {
        return Ok(if append.value { Append::Beside } else { Append::Instead });
    }
    match HeaderAppendAction::try_from(option.append_action) {
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) => Ok(Append::Beside),
        Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => Ok(Append::Instead),
        Ok(HeaderAppendAction::AddIfAbsent | HeaderAppendAction::OverwriteIfExists) | Err(_) => {
            let instead = "it must be APPEND_IF_EXISTS_OR_ADD or OVERWRITE_IF_EXISTS_OR_ADD";
            Err(Rejection::unsupported("this append_action", instead))
        }
    }
}

fn value(header: &EnvoyValue) -> Result<HeaderValue, Rejection> {
    let value = if header.value.is_empty() && !header.raw_value.is_empty() {
        HeaderValue::from_bytes(&header.raw_value)
    } else {
        HeaderValue::from_str(&literal("value", &header.value)?)
    };
    value.map_err(|_| Rejection::new("the value has bytes that a header cannot carry"))
}
