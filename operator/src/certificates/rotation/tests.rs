use proptest::prelude::*;

use super::*;

const SETTLE: Duration = Duration::from_secs(300);

fn terms() -> Terms {
    Terms::new(SETTLE)
}

fn at(days: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap()
}

fn life(from: Timestamp, life: Duration) -> Life {
    Life { from, until: later(from, signed(life)) }
}

/// A world without cryptography: each root and leaf has a number.
#[derive(Debug, Default)]
struct World {
    held: Held,
    /// The roots' numbers, as in `held`.
    roots: Vec<u32>,
    /// Which root signed the leaf.
    leaf_by: u32,
    made: u32,
}

impl World {
    fn apply(&mut self, step: Step, now: Timestamp) {
        match step {
            Step::AddRoot => {
                self.made += 1;
                self.roots.insert(0, self.made);
                self.held.roots.insert(0, life(now, terms().root));
                self.held.signs = true;
                self.held.asked = false;
                if let Some(leaf) = &mut self.held.leaf {
                    leaf.signer = leaf.signer.map(|at| at + 1);
                }
            }
            Step::IssueLeaf => {
                self.leaf_by = self.roots[0];
                let life = life(now, terms().leaf);
                self.held.leaf = Some(Leaf { life, signer: Some(0), names_fit: true });
            }
            Step::DropOldRoots => {
                self.roots.truncate(1);
                self.held.roots.truncate(1);
            }
            Step::Wait(_) => {}
        }
    }
}

#[test]
fn the_first_one_makes_root_and_leaf() {
    let mut world = World::default();
    for step in [Step::AddRoot, Step::IssueLeaf] {
        assert_eq!(next(&world.held, None, &terms(), at(0)), step);
        world.apply(step, at(0));
    }
    assert_eq!(next(&world.held, None, &terms(), at(0)), Step::Wait(at(20)));
    assert_eq!(next(&world.held, None, &terms(), at(20)), Step::IssueLeaf);
}

/// Runs for years. A bundle takes `pace` seconds to be carried by everything; the slowest client reads it a
/// settle time later, and the slowest replica serves a new leaf a settle time after it was made. At any time
/// every client believes every replica.
fn run(days: i64, pace: impl Fn(u32) -> i64, asks: &[i64]) -> (World, Vec<(i64, Step)>) {
    let mut world = World::default();
    let mut steps = Vec::new();
    let mut now = at(0);
    // When the bundle is carried; when the slowest client reads which roots; when the slowest replica has the
    // leaf.
    let (mut carried, mut reads, mut replica) = (None::<Timestamp>, Vec::<(Timestamp, Vec<u32>)>::new(), now);
    let (mut slow_client, mut slow_replica) = (Vec::new(), 0);
    let mut asks: Vec<Timestamp> = asks.iter().map(|day| at(*day)).collect();
    while now < at(days) {
        world.held.asked |= asks.iter().any(|ask| *ask <= now);
        asks.retain(|ask| *ask > now);
        for (_, roots) in reads.extract_if(.., |(when, _)| *when <= now) {
            slow_client = roots;
        }
        if replica <= now {
            slow_replica = world.leaf_by;
        }
        let step = next(&world.held, carried.filter(|since| *since <= now), &terms(), now);
        world.apply(step, now);
        match step {
            Step::Wait(then) => {
                assert!(then > now, "{now} waits until {then}");
                let events = carried.into_iter().chain([replica]).chain(reads.iter().map(|(when, _)| *when));
                now = events
                    .chain(asks.iter().copied())
                    .filter(|when| *when > now)
                    .chain([then])
                    .min()
                    .unwrap();
                continue;
            }
            Step::IssueLeaf => replica = later(now, signed(SETTLE)),
            Step::AddRoot | Step::DropOldRoots => {
                let arrival = later(now, SignedDuration::from_secs(pace(world.made)));
                carried = Some(arrival);
                // What was not carried yet is overwritten: nobody reads it any more.
                reads.retain(|(when, _)| *when <= later(now, signed(SETTLE)));
                reads.push((later(arrival, signed(SETTLE)), world.roots.clone()));
            }
        }
        steps.push((now.duration_since(at(0)).as_hours() / 24, step));
        if slow_client.is_empty() {
            // The first clients and replicas start with what there is.
            (slow_client, slow_replica) = (world.roots.clone(), world.leaf_by);
        }
        for client in [&slow_client, &world.roots] {
            for leaf in [slow_replica, world.leaf_by].into_iter().filter(|leaf| *leaf > 0) {
                assert!(client.contains(&leaf), "{leaf} is not in {client:?} at {now}: {steps:?}");
            }
        }
    }
    (world, steps)
}

#[test]
fn two_whole_rotations_lose_nobody() {
    let (world, steps) = run(600, |_| 60, &[]);
    assert!(world.made >= 3, "{steps:?}");
    let roots: Vec<_> = steps.iter().filter(|(_, step)| *step != Step::IssueLeaf).collect();
    // Two thirds of a year are 243 days.
    assert_eq!(
        roots,
        [
            &(0, Step::AddRoot),
            &(243, Step::AddRoot),
            &(243, Step::DropOldRoots),
            &(486, Step::AddRoot),
            &(486, Step::DropOldRoots),
        ]
    );
}

#[test]
fn asked_for_it_begins_at_once_and_a_second_wish_waits_for_the_end() {
    let (world, steps) = run(40, |_| 60, &[10, 11]);
    assert_eq!(world.made, 3, "{steps:?}");
    assert_eq!(world.roots, [3]);
}

#[test]
fn the_leaf_waits_for_the_bundle() {
    let mut world = World::default();
    world.apply(Step::AddRoot, at(0));
    world.apply(Step::IssueLeaf, at(0));
    world.apply(Step::AddRoot, at(1));
    // Not carried: the leaf is kept until it is nearly over, and no longer: 11/12 of 30 days.
    let urgent = later(at(0), SignedDuration::from_hours(24 * 30 * 11 / 12));
    assert_eq!(next(&world.held, None, &terms(), at(1)), Step::Wait(urgent));
    assert_eq!(next(&world.held, None, &terms(), urgent), Step::IssueLeaf);
    // Carried: the time that kubelets take.
    let settled = later(at(2), signed(SETTLE));
    assert_eq!(next(&world.held, Some(at(2)), &terms(), at(2)), Step::Wait(settled));
    assert_eq!(next(&world.held, Some(at(2)), &terms(), settled), Step::IssueLeaf);
    world.apply(Step::IssueLeaf, settled);
    // The old root stays until every replica has the new leaf.
    let dropped = later(settled, signed(SETTLE));
    assert_eq!(next(&world.held, Some(at(2)), &terms(), settled), Step::Wait(dropped));
    assert_eq!(next(&world.held, Some(at(2)), &terms(), dropped), Step::DropOldRoots);
}

#[test]
fn what_is_damaged_is_made_anew() {
    let good = Leaf { life: life(at(0), terms().leaf), signer: Some(0), names_fit: true };
    let held = Held { roots: vec![life(at(0), terms().root)], signs: true, leaf: Some(good), asked: false };
    let step = |held: Held| next(&held, Some(at(0)), &terms(), at(1));
    assert_eq!(step(Held { signs: false, ..held.clone() }), Step::AddRoot);
    assert_eq!(step(Held { leaf: None, ..held.clone() }), Step::IssueLeaf);
    assert_eq!(step(Held { leaf: Some(Leaf { signer: None, ..good }), ..held.clone() }), Step::IssueLeaf);
    assert_eq!(step(Held { leaf: Some(Leaf { names_fit: false, ..good }), ..held.clone() }), Step::IssueLeaf);
    let over = Leaf { life: life(at(-40), terms().leaf), ..good };
    assert_eq!(step(Held { leaf: Some(over), ..held }), Step::IssueLeaf);
}

proptest! {
    #[test]
    fn nobody_is_lost_whatever_the_pace(
        paces in prop::collection::vec(0_i64..600_000, 1..5),
        mut asks in prop::collection::vec(0_i64..400, 0..4),
    ) {
        asks.sort_unstable();
        run(500, |made| paces[made as usize % paces.len()], &asks);
    }
}
