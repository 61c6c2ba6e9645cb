//! Who has to be told of the bundle: pure decisions about what the watches see.
//!
//! Nobody is told the same in a hurry twice: who refuses, or changes back what we wrote, is written to with
//! growing delays, and who refuses for an hour is no longer waited for. Another bundle is another matter
//! and begins at once.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Carried;
use super::authority::Bundle;

/// Writes of one round; then the watches are heard again.
const ROUND: usize = 32;
/// The longest delay before a place is written to again, and for how long it must have been quiet before
/// that is forgotten.
const LONGEST: Duration = Duration::from_secs(60);
/// For how long the rotation waits for a place that refuses: a quota, or a policy of its namespace.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// A ConfigMap `fairlead-ca`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Copy {
    /// Its `ca.crt`.
    pub(super) text: Option<String>,
    /// Whether we made it.
    pub(super) ours: bool,
    /// Whether someone made it immutable.
    pub(super) immutable: bool,
    /// So that only what was seen is deleted.
    pub(super) uid: Option<String>,
}

/// The webhook configuration: each webhook's name and `caBundle`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Hook {
    pub(super) webhooks: Vec<(String, String)>,
}

/// What can carry the bundle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The webhook configuration.
    Hook,
    /// The ConfigMap of this namespace.
    Namespace(String),
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// There is none.
    Create,
    /// It has another bundle.
    Put,
    /// It is ours and cannot be changed: it is made again.
    Delete(Option<String>),
}

/// What the watches see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    /// Labelled namespaces; whether they are being deleted.
    pub(super) namespaces: &'a BTreeMap<String, bool>,
    /// The ConfigMaps, by namespace.
    pub(super) copies: &'a BTreeMap<String, Copy>,
    /// The webhook configuration, where there is one.
    pub(super) hook: Option<&'a Hook>,
}

/// What to do next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// The writes that are due.
    pub(super) writes: Vec<(Place, Write)>,
    /// When to look again although nothing changed.
    pub(super) again: Option<Timestamp>,
}

/// What was written lately, and what everything carries.
#[derive(Debug, Default)]
pub(super) struct Spread {
    tries: BTreeMap<Place, Tries>,
    carried: Option<Carried>,
}

#[derive(Clone, Debug)]
struct Tries {
    /// What it is about.
    wanted: Bundle,
    count: u32,
    first: Timestamp,
    last: Timestamp,
}

impl Tries {
    fn next(&self) -> Timestamp {
        let delay = Duration::from_secs(1 << self.count.min(6)).min(LONGEST);
        after(self.last, delay)
    }
}

impl Spread {
    /// What is due now.
    pub(super) fn round(&mut self, sight: Sight<'_>, bundle: &Bundle, now: Timestamp) -> Round {
        let wrong = wrong(sight, bundle);
        self.tries.retain(|place, tries| {
            let lately = wrong.contains_key(place) || now < after(tries.last, LONGEST);
            lately && tries.wanted == *bundle
        });
        let open = |place: &Place| {
            let given_up = |tries: &Tries| now >= after(tries.first, PATIENCE);
            !self.tries.get(place).is_some_and(given_up)
        };
        if !wrong.keys().any(open) {
            self.carry(bundle, now);
        }
        let mut round = Round::default();
        for (place, write) in wrong {
            match self.tries.get(&place).map(Tries::next).filter(|next| *next > now) {
                Some(next) => round.again = round.again.into_iter().chain([next]).min(),
                None => round.writes.push((place, write)),
            }
        }
        // Pods wait for what is missing, and the API server for the webhook.
        round.writes.sort_by_key(|(place, write)| (*place != Place::Hook, *write != Write::Create));
        if round.writes.len() > ROUND {
            round.writes.truncate(ROUND);
            round.again = Some(now);
        }
        for (place, _) in &round.writes {
            let tries = self.tries.entry(place.clone());
            let first = || Tries { wanted: bundle.clone(), count: 0, first: now, last: now };
            let tries = tries.or_insert_with(first);
            (tries.count, tries.last) = (tries.count + 1, now);
        }
        if let Some(next) =
            round.writes.iter().filter_map(|(place, _)| self.tries.get(place)).map(Tries::next).min()
        {
            round.again = round.again.into_iter().chain([next]).min();
        }
        round
    }

    /// Since when everything carries a bundle, and which. What is disturbed later and put right again does
    /// not count: whoever could read it has read it.
    pub(super) fn carried(&self) -> Option<&Carried> {
        self.carried.as_ref()
    }

    /// Forgets everything: another replica does this now.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    fn carry(&mut self, bundle: &Bundle, now: Timestamp) {
        if self.carried.as_ref().is_none_or(|carried| carried.bundle != *bundle) {
            self.carried = Some(Carried { bundle: bundle.clone(), since: now });
        }
    }
}

/// The places that are not as they should be.
fn wrong(sight: Sight<'_>, bundle: &Bundle) -> BTreeMap<Place, Write> {
    let mut wrong = BTreeMap::new();
    let differs = |(_, found): &(String, String)| !bundle.is_in(found);
    if sight.hook.is_some_and(|hook| hook.webhooks.iter().any(differs)) {
        wrong.insert(Place::Hook, Write::Put);
    }
    for (namespace, terminating) in sight.namespaces {
        // Nothing can be made in a namespace that is being deleted, and nobody starts there.
        let write = match sight.copies.get(namespace) {
            _ if *terminating => continue,
            None => Write::Create,
            Some(copy) if copy.text.as_deref().is_some_and(|text| bundle.is_in(text)) => continue,
            Some(copy) if copy.immutable && copy.ours => Write::Delete(copy.uid.clone()),
            Some(_) => Write::Put,
        };
        wrong.insert(Place::Namespace(namespace.clone()), write);
    }
    // A namespace that left the mesh keeps its copy, and keeps it current: pods that run there mount it, and
    // without it their kubelet would not renew their token either, which is in the same volume.
    for (namespace, copy) in sight.copies {
        let old = !copy.text.as_deref().is_some_and(|text| bundle.is_in(text));
        if copy.ours && old && !copy.immutable && !sight.namespaces.contains_key(namespace) {
            wrong.insert(Place::Namespace(namespace.clone()), Write::Put);
        }
    }
    wrong
}

fn after(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(number: u8) -> Bundle {
        let authority = |number: u8| {
            let mut authority = super::super::authority::Authority::default();
            let terms = super::super::rotation::Terms::new(LONGEST);
            let now = at(i64::from(number));
            authority.take(super::super::rotation::Step::AddRoot, &[], &terms, now).unwrap();
            authority.bundle().unwrap()
        };
        authority(number)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[derive(Default)]
    struct Cluster {
        namespaces: BTreeMap<String, bool>,
        copies: BTreeMap<String, Copy>,
        hook: Option<Hook>,
        spread: Spread,
    }

    impl Cluster {
        fn round(&mut self, bundle: &Bundle, now: Timestamp) -> Round {
            let sight =
                Sight { namespaces: &self.namespaces, copies: &self.copies, hook: self.hook.as_ref() };
            self.spread.round(sight, bundle, now)
        }

        /// Does what is due.
        fn obey(&mut self, bundle: &Bundle, now: Timestamp) {
            for (place, write) in self.round(bundle, now).writes {
                let text = Some(bundle.as_str().to_owned());
                match (place, write) {
                    (Place::Hook, _) => {
                        for webhook in &mut self.hook.as_mut().unwrap().webhooks {
                            webhook.1 = bundle.as_str().into();
                        }
                    }
                    (Place::Namespace(name), Write::Delete(_)) => drop(self.copies.remove(&name)),
                    (Place::Namespace(name), Write::Create) => {
                        self.copies.insert(name, Copy { text, ours: true, ..Copy::default() });
                    }
                    (Place::Namespace(name), Write::Put) => self.copies.get_mut(&name).unwrap().text = text,
                }
            }
        }

        fn since(&self, bundle: &Bundle) -> Option<Timestamp> {
            self.spread.carried().filter(|carried| carried.bundle == *bundle).map(|carried| carried.since)
        }
    }

    fn place(name: &str) -> Place {
        Place::Namespace(name.to_owned())
    }

    #[test]
    fn a_labelled_namespace_gets_its_copy_and_keeps_it_without_the_label() {
        let (mut cluster, bundle) = (Cluster::default(), bundle(1));
        cluster.namespaces.insert("shop".into(), false);
        cluster.namespaces.insert("leaving".into(), true);
        assert_eq!(cluster.round(&bundle, at(0)).writes, [(place("shop"), Write::Create)]);
        cluster.spread.reset();
        cluster.obey(&bundle, at(0));
        assert_eq!(cluster.round(&bundle, at(1)).writes, []);
        assert_eq!(cluster.since(&bundle), Some(at(1)));
        // Deleted by someone: at once, if nothing was written there lately.
        cluster.copies.clear();
        assert_eq!(cluster.round(&bundle, at(100)).writes, [(place("shop"), Write::Create)]);
        cluster.obey(&bundle, at(200));
        cluster.copies.insert("foreign".into(), Copy::default());
        cluster.namespaces.remove("shop");
        assert_eq!(cluster.round(&bundle, at(300)).writes, []);
        // None of this moved the time since when everything carries it.
        assert_eq!(cluster.since(&bundle), Some(at(1)));
        // Pods that run on there learn of new roots as well; what is not ours is not touched.
        let next = super::tests::bundle(2);
        assert_eq!(cluster.round(&next, at(400)).writes, [(place("shop"), Write::Put)]);
        cluster.obey(&next, at(500));
        cluster.round(&next, at(501));
        assert_eq!(cluster.since(&next), Some(at(501)));
    }

    #[test]
    fn who_changes_it_back_is_answered_ever_more_slowly() {
        let (mut cluster, bundle) = (Cluster::default(), bundle(1));
        cluster.namespaces.insert("shop".into(), false);
        let (mut now, mut writes) = (at(0), Vec::new());
        while now < at(600) {
            let round = cluster.round(&bundle, now);
            writes.extend(round.writes.iter().map(|_| now.as_second() - at(0).as_second()));
            now = round.again.unwrap();
        }
        assert_eq!(writes[..7], [0, 2, 6, 14, 30, 62, 122]);
        assert!(writes.len() < 17, "{writes:?}");
        // Another bundle is another matter.
        cluster.copies.insert("shop".into(), Copy { ours: true, ..Copy::default() });
        cluster.round(&bundle, at(601));
        let other = self::bundle(2);
        assert_eq!(cluster.round(&other, at(601)).writes, [(place("shop"), Write::Put)]);
        assert_eq!(cluster.round(&other, at(602)).writes, []);
        cluster.copies.clear();
        // Quiet for a while: forgotten.
        cluster.obey(&bundle, at(1000));
        assert_eq!(cluster.round(&bundle, at(1100)).writes, []);
        cluster.copies.clear();
        assert_eq!(cluster.round(&bundle, at(1100)).writes.len(), 1);
    }

    #[test]
    fn everything_carries_it_or_refuses_for_an_hour() {
        let (mut cluster, bundle) = (Cluster::default(), bundle(1));
        cluster.hook =
            Some(Hook { webhooks: vec![("one".into(), String::new()), ("two".into(), String::new())] });
        cluster.namespaces.insert("shop".into(), false);
        assert_eq!(
            cluster.round(&bundle, at(0)).writes,
            [(Place::Hook, Write::Put), (place("shop"), Write::Create)]
        );
        cluster.spread.reset();
        cluster.obey(&bundle, at(0));
        cluster.copies.clear();
        cluster.round(&bundle, at(3599));
        assert_eq!(cluster.since(&bundle), None);
        cluster.round(&bundle, at(3600));
        assert_eq!(cluster.since(&bundle), Some(at(3600)));
    }

    #[test]
    fn a_new_bundle_is_carried_anew() {
        let (mut cluster, one, two) = (Cluster::default(), bundle(1), bundle(2));
        cluster.namespaces.extend((0..100).map(|number| (format!("team-{number}"), false)));
        for second in 0..4 {
            assert_eq!(cluster.since(&one), None);
            cluster.obey(&one, at(second));
        }
        cluster.obey(&one, at(10));
        assert_eq!(cluster.since(&one), Some(at(10)));
        cluster.obey(&two, at(100));
        assert_eq!(cluster.since(&two), None);
        for second in 101..105 {
            cluster.obey(&two, at(second));
        }
        assert_eq!(cluster.since(&two), Some(at(104)));
    }

    #[test]
    fn what_cannot_be_changed_is_replaced_if_it_is_ours() {
        let (mut cluster, bundle) = (Cluster::default(), bundle(1));
        cluster.namespaces.insert("shop".into(), false);
        let frozen = Copy { immutable: true, ours: true, uid: Some("u1".into()), ..Copy::default() };
        cluster.copies.insert("shop".into(), frozen.clone());
        let delete = Write::Delete(Some("u1".into()));
        assert_eq!(cluster.round(&bundle, at(0)).writes, [(place("shop"), delete)]);
        cluster.spread.reset();
        cluster.copies.insert("shop".into(), Copy { ours: false, ..frozen });
        assert_eq!(cluster.round(&bundle, at(0)).writes, [(place("shop"), Write::Put)]);
    }
}
