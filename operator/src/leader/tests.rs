//! Looks, wins, losses and the passing of time; no API server.

use super::*;

/// The API server's Lease, for several candidates.
#[derive(Default)]
struct Shared {
    lease: Option<Lease>,
    version: u64,
}

impl Shared {
    /// What the API server does with a write; it refuses one made of an older version.
    fn write(&mut self, mut lease: Lease) -> Option<Lease> {
        let known = self.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if lease.metadata.resource_version != known {
            return None;
        }
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        Some(lease)
    }

    fn turn(&mut self, election: &mut Election, now: Instant) -> Role {
        // Each machine has its own idea of the time of day: none is ever compared.
        let wall = u64::try_from(election.identity.len()).unwrap() * 1_000_000 + self.version;
        let wall = Timestamp::from_second(i64::try_from(wall).unwrap()).unwrap();
        if let Some(wanted) = election.look(self.lease.clone(), now, wall) {
            match self.write(wanted) {
                Some(lease) => election.won(&lease, now),
                None => election.lost(),
            }
        }
        election.role(now)
    }
}

fn candidate(replica: &str, port: u16) -> Election {
    let candidate = Candidate {
        namespace: "fairlead-system".to_owned(),
        replica: replica.to_owned(),
        address: SocketAddr::from(([10, 0, 0, 1], port)),
    };
    Election::new(&candidate)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn one_holds_and_the_others_know_who_and_where() {
    let (mut shared, start) = (Shared::default(), Instant::now());
    let (mut a, mut b) = (candidate("a", 1), candidate("bb", 2));
    assert_eq!(shared.turn(&mut a, start), Role::Holder);
    let Role::Follower(Some(holder)) = shared.turn(&mut b, start) else { panic!() };
    assert!(holder.identity.starts_with("a_"));
    assert_eq!(holder.address, Some("10.0.0.1:1".parse().unwrap()));
    // It renews for ever, and the others wait for ever.
    for second in (2..100).step_by(2) {
        assert_eq!(shared.turn(&mut a, start + seconds(second)), Role::Holder);
        assert!(!shared.turn(&mut b, start + seconds(second + 1)).holds());
    }
}

#[test]
fn who_cannot_renew_steps_down_before_another_takes_over() {
    let (mut shared, start) = (Shared::default(), Instant::now());
    let (mut a, mut b) = (candidate("a", 1), candidate("bb", 2));
    assert!(shared.turn(&mut a, start).holds());
    assert!(!shared.turn(&mut b, start).holds());
    let mut held_by_both = 0;
    let (mut down, mut up) = (None, None);
    for tenth in 0..300 {
        let now = start + Duration::from_millis(tenth * 100);
        let (a, b) = (a.role(now).holds(), shared.turn(&mut b, now).holds());
        held_by_both += u32::from(a && b);
        down = down.or((!a).then_some(tenth));
        up = up.or(b.then_some(tenth));
    }
    assert_eq!((held_by_both, down, up), (0, Some(100), Some(150)));
    // When it is back it sees that it is another's.
    let Role::Follower(Some(holder)) = shared.turn(&mut a, start + seconds(30)) else { panic!() };
    assert!(holder.identity.starts_with("bb_"));
}

#[test]
fn a_released_lease_is_taken_at_the_next_look() {
    let (mut shared, start) = (Shared::default(), Instant::now());
    let (mut a, mut b) = (candidate("a", 1), candidate("bb", 2));
    shared.turn(&mut a, start);
    shared.turn(&mut b, start);
    assert_eq!(b.freed(shared.lease.clone().unwrap()), None);
    let free = a.freed(shared.lease.clone().unwrap()).unwrap();
    assert_eq!(free.metadata.annotations, Some(BTreeMap::new()));
    shared.write(free).unwrap();
    assert_eq!(shared.turn(&mut b, start + seconds(1)), Role::Holder);
    let spec = shared.lease.unwrap().spec.unwrap();
    assert_eq!(spec.lease_transitions, Some(2));
}

#[test]
fn of_two_that_take_it_at_once_one_wins() {
    let (mut shared, now) = (Shared::default(), Instant::now());
    let (mut a, mut b) = (candidate("a", 1), candidate("bb", 2));
    let (of_a, of_b) = (a.look(None, now, Timestamp::UNIX_EPOCH), b.look(None, now, Timestamp::UNIX_EPOCH));
    assert!(shared.write(of_b.unwrap()).is_some());
    assert!(shared.write(of_a.unwrap()).is_none());
}

#[test]
fn a_restarted_process_is_another_candidate() {
    let (mut shared, start) = (Shared::default(), Instant::now());
    assert!(shared.turn(&mut candidate("a", 1), start).holds());
    let mut again = candidate("a", 1);
    assert!(!shared.turn(&mut again, start).holds());
    assert!(shared.turn(&mut again, start + DURATION).holds());
}
