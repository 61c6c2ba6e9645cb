//! Which virtual host an authority belongs to, as Envoy decides it: the exact domain, else the longest
//! `*suffix`, else the longest `prefix*`, else `*`. Case does not matter.
//!
//! Cost: one hash of the authority, and a comparison for each wildcard; nothing where `*` is all there is.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Route;
use super::redirect::split_port;

/// Routes for some authorities.
#[derive(Debug)]
pub struct VirtualHost {
    /// `*`, `reviews.shop`, `*.shop`, `reviews.*`.
    pub domains: Vec<String>,
    /// First match wins.
    pub routes: Vec<Route>,
}

/// A domain that two virtual hosts, or one twice, claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the domain {0:?} stands twice; each may stand only once in a route configuration")]
pub struct DuplicateDomain(pub String);

/// Virtual hosts, by their place in the list, by domain.
#[derive(Debug, Default)]
pub(super) struct Domains {
    exact: HashMap<String, usize>,
    /// What stands after the star, longest first.
    suffixes: Vec<(String, usize)>,
    /// What stands before the star, longest first.
    prefixes: Vec<(String, usize)>,
    any: Option<usize>,
    ignore_port: bool,
}

impl Domains {
    pub(super) fn new(hosts: &[VirtualHost], ignore_port: bool) -> Result<Self, DuplicateDomain> {
        let mut domains = Self { ignore_port, ..Self::default() };
        for (index, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                domains.insert(&domain.to_ascii_lowercase(), index)?;
            }
        }
        domains.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        domains.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(domains)
    }

    fn insert(&mut self, domain: &str, index: usize) -> Result<(), DuplicateDomain> {
        let taken = if domain == "*" {
            self.any.replace(index).is_some()
        } else if let Some(suffix) = domain.strip_prefix('*') {
            insert_wildcard(&mut self.suffixes, suffix, index)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            insert_wildcard(&mut self.prefixes, prefix, index)
        } else {
            self.exact.insert(domain.to_owned(), index).is_some()
        };
        if taken { Err(DuplicateDomain(domain.to_owned())) } else { Ok(()) }
    }

    /// The virtual host of an authority.
    pub(super) fn find(&self, authority: &str) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let host = if self.ignore_port { split_port(authority).0 } else { authority };
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        // A star stands for at least one character.
        let longer = |wildcard: &str| host.len() > wildcard.len();
        let ends = |(suffix, _): &&(String, usize)| longer(suffix) && host.ends_with(suffix.as_str());
        let begins = |(prefix, _): &&(String, usize)| longer(prefix) && host.starts_with(prefix.as_str());
        let exact = self.exact.get(host.as_ref());
        let wildcard = || self.suffixes.iter().find(ends).or_else(|| self.prefixes.iter().find(begins));
        exact.or_else(|| wildcard().map(|(_, index)| index)).or(self.any.as_ref()).copied()
    }
}

fn insert_wildcard(list: &mut Vec<(String, usize)>, part: &str, index: usize) -> bool {
    let taken = list.iter().any(|(other, _)| other == part);
    list.push((part.to_owned(), index));
    taken
}
