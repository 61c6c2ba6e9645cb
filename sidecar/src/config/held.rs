//! A resource that is asked for: awaited, absent or here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::pieces::{Listener, News, Piece};
use crate::cluster::{ClusterSettings, EndpointSettings};
use crate::route::RouteTable;

/// A resource that is asked for.
#[derive(Debug)]
pub(super) struct Held<T> {
    /// The last good one.
    pub value: Value<T>,
    /// Why what came after it could not be used.
    pub refused: Option<Arc<str>>,
}

/// What is known of a resource.
#[derive(Debug)]
pub(super) enum Value<T> {
    /// Nothing yet.
    Awaited,
    /// That it does not exist.
    Absent,
    /// All of it.
    Here(T),
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { value: Value::Awaited, refused: None }
    }
}

/// What a [`Piece`] may be.
pub(super) trait Opened: Sized {
    fn open(piece: Piece) -> Option<Self>;

    /// What stands for a resource of this name that does not exist; none: nothing does.
    fn absent(_name: &Arc<str>) -> Option<Self> {
        None
    }
}

impl Opened for Arc<Listener> {
    fn open(piece: Piece) -> Option<Self> {
        if let Piece::Listener(listener) = piece { Some(listener) } else { None }
    }
}

impl Opened for Arc<RouteTable> {
    fn open(piece: Piece) -> Option<Self> {
        if let Piece::Routes(routes) = piece { Some(routes) } else { None }
    }

    /// No rules: every request is answered 404, as Envoy does.
    fn absent(name: &Arc<str>) -> Option<Self> {
        RouteTable::new(Arc::clone(name), Vec::new(), Vec::new(), false).ok().map(Arc::new)
    }
}

impl Opened for Arc<ClusterSettings> {
    fn open(piece: Piece) -> Option<Self> {
        if let Piece::Cluster(settings) = piece { Some(settings) } else { None }
    }
}

impl Opened for Arc<[EndpointSettings]> {
    fn open(piece: Piece) -> Option<Self> {
        if let Piece::Endpoints(endpoints) = piece { Some(endpoints) } else { None }
    }
}

/// Takes in what has become known of one resource, if it is asked for.
pub(super) fn take_in<T: Opened>(all: &mut HashMap<Arc<str>, Held<T>>, name: &Arc<str>, news: News) {
    let Some(held) = all.get_mut(name) else { return };
    match news {
        News::Refused(reason) => held.refused = Some(reason),
        News::Absent => {
            let value = T::absent(name).map_or(Value::Absent, Value::Here);
            *held = Held { value, refused: None };
        }
        News::Here(piece) => {
            if let Some(value) = T::open(piece) {
                *held = Held { value: Value::Here(value), refused: None };
            }
        }
    }
}

/// Asks for these names and forgets all others.
pub(super) fn keep_exactly<T>(held: &mut HashMap<Arc<str>, Held<T>>, names: HashSet<Arc<str>>) {
    held.retain(|name, _| names.contains(name));
    for name in names {
        held.entry(name).or_default();
    }
}
