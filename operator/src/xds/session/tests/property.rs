//! Whatever happens in whatever order: in the end the client has what it should, and on the way
//! the promises of the session hold.

use proptest::prelude::*;

use super::client::Client;
use super::{Plain, Talk};
use crate::xds::session::*;

#[derive(Clone, Debug)]
enum Event {
    Put(ResourceKind, String, u8),
    Remove(ResourceKind, String),
    Want(ResourceKind, Vec<String>, Vec<String>),
    /// Hand the client what the session has to say.
    Deliver,
    Answer(bool),
    Reconnect,
    Release,
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["10.0.0.1:80", "10.0.0.2:80", "shop/a:80", "shop/b:80"]).prop_map(str::to_owned)
}

fn wanted() -> impl Strategy<Value = String> {
    prop_oneof![4 => name(), 1 => Just("*".to_owned())]
}

fn kind() -> impl Strategy<Value = ResourceKind> {
    prop::sample::select(ResourceKind::ALL.to_vec())
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (kind(), name(), 0..3_u8).prop_map(|(kind, name, version)| Event::Put(kind, name, version)),
        3 => (kind(), name()).prop_map(|(kind, name)| Event::Remove(kind, name)),
        5 => (kind(), prop::collection::vec(wanted(), 0..3), prop::collection::vec(wanted(), 0..2))
            .prop_map(|(kind, add, drop)| Event::Want(kind, add, drop)),
        6 => Just(Event::Deliver),
        6 => prop::bool::weighted(0.9).prop_map(Event::Answer),
        1 => Just(Event::Reconnect),
        1 => Just(Event::Release),
    ]
}

fn deliver(talk: &mut Talk, client: &mut Client) {
    while let Some(response) = talk.session.next(&talk.plain) {
        let same_type = |other: &Response| other.type_url() == response.type_url();
        assert!(!client.unanswered.iter().any(same_type), "two responses of one type under way");
        client.unanswered.push(response);
    }
}

fn run(protocol: Protocol, events: Vec<Event>) {
    let mut talk = Talk { session: Session::new(protocol, Limits::default()), plain: Plain::default() };
    let mut client = Client::new(protocol);
    for event in events {
        match event {
            Event::Put(kind, name, version) => {
                talk.put(kind, &name, &version.to_string());
            }
            Event::Remove(kind, name) => {
                talk.remove(kind, &name);
            }
            Event::Want(kind, add, drop) => {
                let drop: Vec<String> = drop.into_iter().filter(|name| !add.contains(name)).collect();
                client.want(&mut talk.session, kind, &add, &drop);
            }
            Event::Deliver => deliver(&mut talk, &mut client),
            Event::Answer(good) => client.answer(&mut talk.session, good),
            Event::Reconnect => {
                talk.session = Session::new(protocol, Limits::default());
                client.reconnect(&mut talk.session);
            }
            Event::Release => talk.session.release(),
        }
    }
    settle(&mut talk, &mut client);
    check(&talk.plain, &client);
}

/// Lets everything come to rest; a client that answers is never held for good.
fn settle(talk: &mut Talk, client: &mut Client) {
    for round in 0..20 {
        deliver(talk, client);
        if client.unanswered.is_empty() {
            // Only what a reconnecting client has may still wait for a route request that never comes.
            if !talk.session.holds() {
                return;
            }
            talk.session.release();
        }
        while !client.unanswered.is_empty() {
            client.answer(&mut talk.session, true);
        }
        assert!(round < 19, "never comes to rest");
    }
}

fn check(plain: &Plain, client: &Client) {
    for (kind, view) in &client.views {
        if !view.opened {
            continue;
        }
        let covered: Vec<String> = view
            .wildcard
            .then(|| plain.names(*kind))
            .into_iter()
            .flatten()
            .map(|name| name.to_string())
            .collect();
        for name in view.wants.iter().chain(&covered) {
            let now = plain.version(*kind, name);
            let refused = view.refused.get(name);
            if now.is_some() && refused == now.as_ref() || now.is_none() && view.keeps_old {
                continue;
            }
            let absent_is_silent = client.protocol == Protocol::State && !kind.sends_full_state();
            if now.is_some() || !absent_is_silent {
                assert_eq!(view.has.get(name), now.as_ref(), "{kind:?} {name} of {client:#?}");
            }
        }
        // State of the world has no word for a route or endpoints that are gone.
        let silent = client.protocol == Protocol::State && !kind.sends_full_state();
        if silent || view.keeps_old {
            continue;
        }
        for name in view.has.keys() {
            assert!(view.wants.contains(name) || covered.contains(name), "{kind:?} {name} is left over");
        }
    }
}

/// Some seconds' worth; a hundred times as many were run when the session was written.
const CASES: u32 = 2000;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn delta_ends_up_right(events in prop::collection::vec(event(), 0..60)) {
        run(Protocol::Delta, events);
    }

    #[test]
    fn state_of_the_world_ends_up_right(events in prop::collection::vec(event(), 0..60)) {
        run(Protocol::State, events);
    }
}
