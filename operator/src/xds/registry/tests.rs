//! Who wants what, through connections and losses.

use super::*;
use ResourceKind::{Cluster, Listener};

const CLOSED: Ending = Ending::Closed;

fn named(registry: &mut Registry, node: &str) -> (StreamId, Arc<Mailbox>) {
    let (id, mailbox) = registry.open(Protocol::Delta, None, None);
    registry.name(id, &node.into(), None, Instant::now());
    (id, mailbox)
}

fn subscribed(registry: &mut Registry, node: &str, name: &str) -> (StreamId, Arc<Mailbox>) {
    let (id, mailbox) = named(registry, node);
    registry.apply(id, vec![Change::Subscribed(Cluster, name.into())]);
    (id, mailbox)
}

fn nodes(registry: &Registry, kind: ResourceKind, name: &str) -> Vec<String> {
    registry.subscribers(kind, name).iter().map(|subscriber| subscriber.stream.node.to_string()).collect()
}

#[test]
fn only_who_wants_it_hears_of_a_change() {
    let mut registry = Registry::default();
    let (_, a) = subscribed(&mut registry, "a", "shop/a:80");
    let (_, b) = subscribed(&mut registry, "b", "shop/b:80");
    let (all, everything) = named(&mut registry, "all");
    registry.apply(all, vec![Change::Wildcard(Cluster, true)]);
    registry.publish([
        (Cluster, "shop/a:80".into()),
        (Cluster, "shop/c:80".into()),
        (Listener, "10.0.0.1:80".into()),
    ]);
    assert_eq!(a.take(), [(Cluster, "shop/a:80".into())].into());
    assert_eq!(b.take().len(), 0);
    assert_eq!(everything.take().len(), 2);
    registry.apply(all, vec![Change::Wildcard(Cluster, false)]);
    registry.publish([(Cluster, "shop/a:80".into())]);
    assert_eq!(everything.take().len(), 0);
}

#[test]
fn a_wildcard_covers_addresses_only_of_listeners() {
    let mut registry = Registry::default();
    let (all, _) = named(&mut registry, "all");
    registry.apply(all, vec![Change::Wildcard(Listener, true)]);
    assert_eq!(nodes(&registry, Listener, "10.0.0.1:80"), ["all"]);
    assert_eq!(nodes(&registry, Listener, "shop/a:80").len(), 0);
}

#[test]
fn who_says_goodbye_is_forgotten_and_who_vanishes_is_not_for_a_while() {
    let mut registry = Registry::default();
    let now = Instant::now();
    let (a, _) = subscribed(&mut registry, "a", "x");
    let (b, mailbox) = subscribed(&mut registry, "b", "x");
    registry.close(a, CLOSED, now);
    assert_eq!(nodes(&registry, Cluster, "x"), ["b"]);
    registry.close(b, Ending::Lost, now);
    assert_eq!((nodes(&registry, Cluster, "x"), registry.open_streams()), (vec!["b".to_owned()], 0));
    registry.publish([(Cluster, "x".into())]);
    assert_eq!(mailbox.take().len(), 0);
    registry.expire(now + REMEMBERED / 2);
    assert_eq!(nodes(&registry, Cluster, "x").len(), 1);
    registry.expire(now + REMEMBERED);
    assert_eq!(nodes(&registry, Cluster, "x").len(), 0);
}

#[test]
fn a_client_that_comes_back_counts_once() {
    let mut registry = Registry::default();
    let now = Instant::now();
    let (old, _) = subscribed(&mut registry, "a", "x");
    registry.apply(old, vec![Change::Acked(Cluster, "x".into(), Some("1".into()))]);
    // Back before the old stream is known to be lost.
    let (new, _) = subscribed(&mut registry, "a", "x");
    assert_eq!(registry.subscribers(Cluster, "x").iter().map(|it| it.id).collect::<Vec<_>>(), [new]);
    registry.close(old, Ending::Lost, now);
    registry.expire(now + RESUMED * 2);
    assert_eq!(registry.streams().count(), 1);
    // Back after it is known.
    registry.close(new, Ending::Lost, now);
    let (third, _) = named(&mut registry, "a");
    // It has not asked for it again yet: the lost stream speaks for it, for a moment.
    registry.expire(now);
    assert_eq!(nodes(&registry, Cluster, "x"), ["a"]);
    registry.expire(now + RESUMED * 2);
    assert_eq!(nodes(&registry, Cluster, "x").len(), 0);
    assert_eq!(registry.streams().map(|(id, _)| id).collect::<Vec<_>>(), [third]);
}

#[test]
fn the_clients_own_number_says_which_of_its_streams_is_the_later() {
    let mut registry = Registry::default();
    let mut numbered = |number| {
        let (id, _) = registry.open(Protocol::Delta, None, None);
        registry.name(id, &"a".into(), Some(number), Instant::now());
        registry.apply(id, vec![Change::Subscribed(Cluster, "x".into())]);
        id
    };
    // The later stream's first request overtook that of the earlier one.
    let (later, _) = (numbered(8), numbered(7));
    assert_eq!(registry.subscribers(Cluster, "x").iter().map(|it| it.id).collect::<Vec<_>>(), [later]);
}

#[test]
fn whose_pod_is_gone_is_not_waited_for() {
    let mut registry = Registry::default();
    let (lost, _) = subscribed(&mut registry, "shop/a", "x");
    let (open, _) = subscribed(&mut registry, "shop/a", "x");
    registry.close(lost, Ending::Lost, Instant::now());
    let before = registry.movements();
    registry.dismiss("shop/a");
    registry.dismiss("shop/b");
    assert_eq!(registry.streams().map(|(id, _)| id).collect::<Vec<_>>(), [open]);
    assert_ne!(registry.movements(), before);
}

#[test]
fn answers_are_kept_until_the_next() {
    let mut registry = Registry::default();
    let (id, _) = subscribed(&mut registry, "a", "x");
    let answer = |registry: &Registry| registry.subscribers(Cluster, "x")[0].answer.cloned().unwrap();
    let (one, two): (Option<Arc<str>>, Option<Arc<str>>) = (Some("1".into()), Some("2".into()));
    registry.apply(id, vec![Change::Acked(Cluster, "x".into(), one.clone())]);
    registry.apply(id, vec![Change::Nacked(Cluster, "x".into(), two.clone(), "no".into())]);
    let nacked = Some(Box::new((two.clone(), "no".into())));
    assert_eq!(answer(&registry), Answer { acked: Some(one), nacked });
    registry.apply(id, vec![Change::Acked(Cluster, "x".into(), two.clone())]);
    assert_eq!(answer(&registry), Answer { acked: Some(two), nacked: None });
    assert!(registry.take_touched().contains(&(Cluster, "x".into())));
    registry.apply(id, vec![Change::Forgotten(Cluster, "x".into())]);
    assert_eq!(nodes(&registry, Cluster, "x").len(), 0);
}

#[test]
fn a_client_in_panic_touches_its_clusters_when_it_begins_and_when_it_ends() {
    let mut registry = Registry::default();
    let (id, _) = subscribed(&mut registry, "shop/a", "shop/b:80");
    registry.take_touched();
    let told = |registry: &mut Registry, clusters: &[&str]| {
        let clusters = clusters.iter().map(|name| Arc::from(*name)).collect();
        registry.apply(id, vec![Change::Panicking(clusters)]);
        registry.take_touched()
    };
    assert_eq!(told(&mut registry, &["shop/b:80"]), [(Cluster, "shop/b:80".into())].into());
    let subscribers = registry.subscribers(Cluster, "shop/b:80");
    assert_eq!(subscribers[0].stream.panicking.iter().map(|name| &**name).collect::<Vec<_>>(), ["shop/b:80"]);
    let both = [(Cluster, "shop/b:80".into()), (Cluster, "shop/c:80".into())].into();
    assert_eq!(told(&mut registry, &["shop/c:80"]), both);
    assert_eq!(told(&mut registry, &[]), [(Cluster, "shop/c:80".into())].into());
}

#[test]
fn a_start_without_us_is_kept_with_the_stream() {
    let mut registry = Registry::default();
    let (id, _) = subscribed(&mut registry, "shop/a", "shop/b:80");
    assert!(!registry.subscribers(Cluster, "shop/b:80")[0].stream.started_without_config);
    registry.apply(id, vec![Change::StartedWithoutConfig]);
    assert!(registry.subscribers(Cluster, "shop/b:80")[0].stream.started_without_config);
}
