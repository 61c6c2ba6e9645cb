//! Differences told in pieces come to the same at the other end.

use proptest::prelude::*;

use super::*;
use crate::model::{Kind, ObjectKey};

fn object(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::ServiceRoute, ObjectKey::new("shop", name))
}

/// Name, generation, and what clients said.
type Told<'a> = (&'a str, i64, &'a [(&'a str, ClientState)]);

fn said(clients: &[(&str, Option<u64>)], objects: &[Told<'_>]) -> Said {
    let clients =
        clients.iter().map(|(node, stream)| ((*node).into(), Client { stream: *stream, open: true }));
    let report = |generation: i64, clients: &[(&str, ClientState)]| Report {
        edition: Edition { uid: "u".into(), generation },
        clients: clients.iter().map(|(node, state)| ((*node).into(), state.clone())).collect(),
    };
    let objects =
        objects.iter().map(|(name, generation, clients)| (object(name), report(*generation, clients)));
    Said {
        clients: Arc::new(clients.collect()),
        objects: objects.map(|(object, report)| (object, Arc::new(report))).collect(),
    }
}

#[test]
fn nothing_new_is_not_told_but_the_first_time() {
    assert_eq!(Said::default().since(None, 10), [Update { last: true, ..Update::default() }]);
    let now = said(&[("a", Some(1))], &[("r", 1, &[("a", ClientState::Acked)])]);
    assert_eq!(now.since(Some(&now.clone()), 10), []);
}

#[test]
fn what_changed_is_told_and_nothing_else() {
    let before = said(
        &[("a", Some(1)), ("b", None)],
        &[("r", 1, &[("a", ClientState::Acked), ("b", ClientState::Pending)]), ("s", 1, &[])],
    );
    let now = said(&[("a", Some(2))], &[("r", 1, &[("a", ClientState::Acked)])]);
    let updates = now.since(Some(&before), 10);
    let told = ObjectUpdate {
        object: object("r"),
        edition: Edition { uid: "u".into(), generation: 1 },
        clients: vec![],
        gone: vec!["b".into()],
    };
    assert_eq!(
        updates,
        [Update {
            clients: vec![("a".into(), Client { stream: Some(2), open: true })],
            gone: vec!["b".into()],
            objects: vec![told],
            removed: vec![object("s")],
            last: true,
        }]
    );
    assert_eq!(now.differences(&before), [object("r"), object("s")].into());
}

#[test]
fn an_object_counts_as_changed_when_one_of_its_clients_moved() {
    let reports: &[Told<'_>] = &[("r", 1, &[("a", ClientState::Acked)]), ("s", 1, &[])];
    let (before, now) = (said(&[("a", Some(1))], reports), said(&[("a", Some(2))], reports));
    assert_eq!(now.differences(&before), [object("r")].into());
}

fn any_said() -> impl Strategy<Value = Said> {
    let state = prop_oneof![
        Just(ClientState::Acked),
        Just(ClientState::Pending),
        Just(ClientState::Nacked("no".into()))
    ];
    let node = (0..6_u32).prop_map(|n| Arc::<str>::from(format!("shop/{n}")));
    let client = (proptest::option::of(0..3_u64), any::<bool>());
    let clients = proptest::collection::btree_map(node.clone(), client, 0..6);
    let report = (0..3_i64, proptest::collection::btree_map(node, state, 0..6));
    let objects = proptest::collection::btree_map(0..4_u32, report, 0..4);
    (clients, objects).prop_map(|(clients, objects)| Said {
        clients: Arc::new(
            clients.into_iter().map(|(node, (stream, open))| (node, Client { stream, open })).collect(),
        ),
        objects: objects
            .into_iter()
            .map(|(name, (generation, clients))| {
                let edition = Edition { uid: "u".into(), generation };
                (object(&name.to_string()), Arc::new(Report { edition, clients }))
            })
            .collect(),
    })
}

proptest! {
    #[test]
    fn pieces_of_any_size_come_to_the_whole(
        states in proptest::collection::vec(any_said(), 1..5),
        entries in 1..8_usize,
    ) {
        let (mut known, mut heard) = (None, Said::default());
        for state in states {
            let updates = state.since(known.as_ref(), entries);
            prop_assert!(updates.iter().rev().skip(1).all(|update| !update.last));
            prop_assert!(updates.last().is_none_or(|update| update.last));
            for update in updates {
                let size = |it: &ObjectUpdate| it.clients.len() + it.gone.len();
                let most = update.clients.len() + update.gone.len() + update.removed.len()
                    + update.objects.iter().map(size).sum::<usize>();
                prop_assert!(most <= entries, "{most} of {entries}");
                heard.apply(update);
            }
            prop_assert_eq!(&heard, &state);
            known = Some(state);
        }
    }
}
