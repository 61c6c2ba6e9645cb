use super::*;

use std::cell::Cell;
use std::rc::Rc;

/// A handle of a shared connection: capacity, open.
#[derive(Debug, Clone)]
struct Handle(Rc<Cell<u32>>, Rc<Cell<bool>>);

impl Handle {
    fn new(capacity: u32) -> Self {
        Self(Rc::new(Cell::new(capacity)), Rc::new(Cell::new(true)))
    }
}

impl Shareable for Handle {
    fn capacity(&self) -> u32 {
        self.0.get()
    }

    fn is_open(&self) -> bool {
        self.1.get()
    }
}

type Machine = Admission<u32, Handle, &'static str>;

fn limits(connections: u32, pending: u32) -> Limits {
    Limits { connections, pending, ..Limits::NONE }
}

fn machine(connections: u32, pending: u32) -> Machine {
    let mut machine = Machine::default();
    machine.set_limits(limits(connections, pending));
    machine
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[test]
fn exact_at_the_limit_and_first_in_first_out() {
    let now = start();
    let mut pool = machine(2, 2);
    for _ in 0..2 {
        let answer = pool.ask(address(1), 0, Want::Exclusive, now, || "open");
        assert!(matches!(answer, Answer::Open { evicted: None }), "{answer:?}");
    }
    for name in ["first", "second"] {
        let answer = pool.ask(address(2), 1, Want::Exclusive, now, || name);
        assert!(matches!(answer, Answer::Wait { evicted: None, .. }), "{answer:?}");
    }
    assert!(matches!(pool.ask(address(1), 0, Want::Exclusive, now, || "third"), Answer::Full));

    let Returned::Grant(who, Grant::Reuse(to, 7)) = pool.put_back(address(1), 0, 7, now) else { panic!() };
    assert_eq!((who, to), ("first", address(1)));
    let Some((who, Grant::Slot)) = pool.closed() else { panic!() };
    assert_eq!(who, "second");
    assert_eq!((pool.open(), pool.pending()), (2, 0));
}

#[test]
fn zero_pending_never_queues() {
    let mut pool = machine(1, 0);
    assert!(matches!(pool.ask(address(1), 0, Want::Exclusive, start(), || "a"), Answer::Open { .. }));
    assert!(matches!(pool.ask(address(1), 0, Want::Exclusive, start(), || "b"), Answer::Full));
}

#[test]
fn idle_is_last_in_first_out_and_own_worker_first() {
    let now = start();
    let mut pool = machine(9, 9);
    for (worker, number) in [(0, 1), (0, 2), (1, 3)] {
        assert!(matches!(pool.ask(address(1), worker, Want::Exclusive, now, || ""), Answer::Open { .. }));
        let _ = number;
    }
    for (worker, number) in [(0, 1), (0, 2), (1, 3)] {
        assert!(matches!(pool.put_back(address(1), worker, number, now), Returned::Kept));
    }
    let mut reused = Vec::new();
    for worker in [0, 1, 1] {
        if let Answer::Reuse(number) = pool.ask(address(1), worker, Want::Exclusive, now, || "") {
            reused.push(number);
        }
    }
    assert_eq!(reused, [2, 3, 1], "own newest, own, then another worker's");
    assert_eq!(pool.open(), 3);
}

#[test]
fn what_was_idle_for_too_long_is_not_used_again() {
    let now = start();
    let mut pool = Machine::default();
    pool.set_limits(Limits { idle: Duration::from_secs(1), ..Limits::NONE });
    for number in [1, 2] {
        assert!(matches!(pool.ask(address(1), number, Want::Exclusive, now, || ""), Answer::Open { .. }));
    }
    assert!(matches!(pool.put_back(address(1), 1, 1, now), Returned::Kept));
    let half = now + Duration::from_millis(500);
    assert!(matches!(pool.put_back(address(1), 2, 2, half), Returned::Kept));
    let later = now + Duration::from_secs(1);
    assert!(
        matches!(pool.ask(address(1), 1, Want::Exclusive, later, || ""), Answer::Reuse(2)),
        "not its own, too old one"
    );
    assert!(matches!(pool.ask(address(1), 1, Want::Exclusive, later, || ""), Answer::Open { .. }));
    assert_eq!(pool.expire(later, Some(Duration::from_secs(1)), |_| true).0, [1]);
}

#[test]
fn an_idle_connection_elsewhere_makes_room() {
    let now = start();
    let mut pool = machine(1, 0);
    assert!(matches!(pool.ask(address(1), 0, Want::Exclusive, now, || ""), Answer::Open { .. }));
    assert!(matches!(pool.put_back(address(1), 0, 5, now), Returned::Kept));
    let answer = pool.ask(address(2), 0, Want::Exclusive, now, || "");
    assert!(matches!(answer, Answer::Open { evicted: Some(5) }), "{answer:?}");
    assert!(pool.closed().is_none(), "the evicted one");
    assert_eq!(pool.open(), 1);
}

#[test]
fn who_leaves_is_not_granted() {
    let now = start();
    let mut pool = machine(1, 5);
    assert!(matches!(pool.ask(address(1), 0, Want::Exclusive, now, || ""), Answer::Open { .. }));
    let Answer::Wait { ticket, .. } = pool.ask(address(1), 0, Want::Exclusive, now, || "gone") else {
        panic!()
    };
    let Answer::Wait { .. } = pool.ask(address(1), 0, Want::Exclusive, now, || "stays") else { panic!() };
    assert!(pool.leave(ticket));
    assert!(!pool.leave(ticket));
    let Some((who, Grant::Slot)) = pool.closed() else { panic!() };
    assert_eq!(who, "stays");
}

#[test]
fn raised_limit_lets_in_who_waits_and_a_lowered_one_closes() {
    let now = start();
    let mut pool = machine(1, 5);
    for name in ["a", "b", "c"] {
        pool.ask(address(1), 0, Want::Exclusive, now, || name);
    }
    let grants = pool.set_limits(limits(2, 5));
    assert_eq!(grants.iter().map(|(who, _)| *who).collect::<Vec<_>>(), ["b"]);
    pool.set_limits(limits(1, 5));
    assert!(matches!(pool.put_back(address(1), 0, 1, now), Returned::Close(1)));
    assert!(pool.closed().is_none(), "two were open, one is allowed");
    assert!(matches!(pool.put_back(address(1), 0, 2, now), Returned::Grant("c", Grant::Reuse(_, 2))));
}

#[test]
fn one_opens_and_the_others_join() {
    let now = start();
    let mut pool = machine(4, 0);
    assert!(matches!(pool.ask(address(1), 0, Want::Shared, now, || "opener"), Answer::Open { .. }));
    for name in ["x", "y"] {
        assert!(matches!(pool.ask(address(1), 0, Want::Shared, now, || name), Answer::Join(_)));
    }
    assert_eq!(pool.open(), 1);
    let (id, grants) = pool.opened(address(1), 0, Handle::new(2), now);
    assert!(matches!(grants.as_slice(), [("x", Grant::Share(..)), ("y", Grant::AskAgain)]), "{grants:?}");
    // Full of streams: another connection.
    assert!(matches!(pool.ask(address(1), 0, Want::Shared, now, || ""), Answer::Open { .. }));
    assert!(pool.stream_done(address(1), id, now).is_none());
    assert!(matches!(pool.ask(address(1), 0, Want::Shared, now, || ""), Answer::Share(..)));
}

#[test]
fn joined_learn_of_the_failure() {
    let now = start();
    let mut pool = machine(4, 0);
    pool.ask(address(1), 0, Want::Shared, now, || "opener");
    pool.ask(address(1), 0, Want::Shared, now, || "x");
    let grants = pool.not_opened(address(1), 0, Some("refused"));
    assert!(matches!(grants.as_slice(), [("x", Grant::Failed(why))] if why == "refused"));
    assert!(pool.closed().is_none());
    assert_eq!(pool.open(), 0);
}

#[test]
fn a_stream_that_ends_serves_who_waits() {
    let now = start();
    let mut pool = machine(1, 3);
    pool.ask(address(1), 0, Want::Shared, now, || "opener");
    let (id, _) = pool.opened(address(1), 0, Handle::new(1), now);
    assert!(matches!(
        pool.ask(address(2), 1, Want::Shared, now, || "waits"),
        Answer::Wait { evicted: None, .. }
    ));
    let Some((who, Grant::Share(to, ..))) = pool.stream_done(address(1), id, now) else { panic!() };
    assert_eq!((who, to), ("waits", address(1)));
    // Nobody waits any more: it is idle, and gives way to another endpoint.
    assert!(pool.stream_done(address(1), id, now).is_none());
    assert_eq!(pool.idle(), 1);
    let answer = pool.ask(address(2), 0, Want::Shared, now, || "next");
    assert!(matches!(answer, Answer::Wait { evicted: Some(_), .. }), "{answer:?}");
    let Some((who, Grant::Slot)) = pool.closed() else { panic!() };
    assert_eq!(who, "next");
}

#[test]
fn requests_per_connection() {
    let now = start();
    let mut pool = Machine::default();
    pool.set_limits(Limits { requests_per_connection: 2, ..Limits::NONE });
    pool.ask(address(1), 0, Want::Shared, now, || "");
    pool.opened(address(1), 0, Handle::new(100), now);
    assert!(matches!(pool.ask(address(1), 0, Want::Shared, now, || ""), Answer::Share(..)));
    assert!(matches!(pool.ask(address(1), 0, Want::Shared, now, || ""), Answer::Open { .. }));
}

#[test]
fn the_old_and_the_removed_expire() {
    let now = start();
    let mut pool = machine(9, 9);
    for (port, number) in [(1, 1), (1, 2), (2, 3)] {
        pool.ask(address(port), 0, Want::Exclusive, now, || "");
        let at = now + Duration::from_secs(u64::from(number));
        assert!(matches!(pool.put_back(address(port), 0, number, at), Returned::Kept));
        // Taken out again so that each opens its own.
        if number == 1 {
            assert!(matches!(pool.ask(address(port), 0, Want::Exclusive, now, || ""), Answer::Reuse(1)));
        }
    }
    assert!(matches!(pool.put_back(address(1), 0, 1, now + Duration::from_secs(9)), Returned::Kept));
    let later = now + Duration::from_secs(12);
    let (gone, _) = pool.expire(later, Some(Duration::from_secs(10)), |_| true);
    assert_eq!(gone, [2]);
    let (gone, _) = pool.retire(&[address(2)]);
    assert_eq!(gone, [3]);
    assert_eq!(pool.idle(), 1);
    assert!(
        matches!(pool.put_back(address(2), 0, 3, later), Returned::Close(3)),
        "in use when it was retired"
    );
    assert!(matches!(pool.ask(address(2), 0, Want::Exclusive, later, || ""), Answer::Open { .. }));
    assert!(matches!(pool.put_back(address(2), 0, 4, later), Returned::Kept), "it is back");
    // With the last connection goes the memory of who went.
    pool.retire(&[address(3)]);
    assert!(!pool.retired.is_empty());
    while pool.open() > 0 {
        pool.closed();
    }
    assert!(pool.retired.is_empty());
}

/// Against a plain count: whatever happens, never more than the limit is open, nobody waits while there is
/// room, and every slot is accounted for.
#[test]
fn never_over_the_limit_and_nobody_forgotten() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let now = start();
        let limit = random.u32(1..5);
        let mut pool: Admission<u32, Handle, u64> = Admission::default();
        pool.set_limits(limits(limit, 3));
        let (mut held, mut tickets, mut serial) = (Vec::new(), Vec::new(), 0_u64);
        let take = |grant: Option<(u64, Grant<u32, Handle>)>,
                    held: &mut Vec<u32>,
                    tickets: &mut Vec<(u64, Ticket)>| {
            if let Some((who, _)) = grant {
                tickets.retain(|(other, _)| *other != who);
                held.push(0);
            }
        };
        for _ in 0..300 {
            match random.u8(0..5) {
                0 | 1 => {
                    serial += 1;
                    match pool.ask(
                        address(random.u16(1..4)),
                        random.usize(0..2),
                        Want::Exclusive,
                        now,
                        || serial,
                    ) {
                        Answer::Reuse(_) => held.push(0),
                        Answer::Open { evicted } => {
                            held.push(0);
                            if evicted.is_some() {
                                take(pool.closed(), &mut held, &mut tickets);
                            }
                        }
                        Answer::Wait { ticket, .. } => tickets.push((serial, ticket)),
                        Answer::Full => assert_eq!(tickets.len(), 3),
                        other => panic!("{other:?}"),
                    }
                }
                2 if !held.is_empty() => {
                    held.pop();
                    take(pool.closed(), &mut held, &mut tickets);
                }
                3 if !held.is_empty() => {
                    held.pop();
                    match pool.put_back(address(random.u16(1..4)), 0, 0, now) {
                        Returned::Kept => {}
                        Returned::Close(_) => take(pool.closed(), &mut held, &mut tickets),
                        Returned::Grant(who, grant) => take(Some((who, grant)), &mut held, &mut tickets),
                    }
                }
                4 if !tickets.is_empty() => {
                    let (_, ticket) = tickets.swap_remove(random.usize(0..tickets.len()));
                    assert!(pool.leave(ticket));
                }
                _ => {}
            }
            assert!(pool.open() <= limit);
            assert_eq!(pool.open() as usize, held.len() + pool.idle());
            assert_eq!(pool.pending(), tickets.len());
            assert!(tickets.is_empty() || (pool.open() == limit && pool.idle() == 0));
        }
    }
}
