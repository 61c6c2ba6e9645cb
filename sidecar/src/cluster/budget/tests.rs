//! The budget against a list of everything that happened.

use proptest::prelude::*;

use super::*;

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn budget(percent: f64, min_retries: u32) -> Budget {
    let budget = Budget::default();
    budget.configure(&BudgetSettings { percent, min_retries, ..BudgetSettings::default() });
    budget
}

#[test]
fn a_fifth_of_the_requests_may_be_retried() {
    let (budget, start) = (budget(20.0, 0), start());
    assert!(!budget.withdraw(start));
    for _ in 0..100 {
        budget.request(start);
    }
    assert_eq!((0..100).filter(|_| budget.withdraw(start)).count(), 20);
    assert!(!budget.withdraw(start + ms(9_999)));
    assert!(!budget.withdraw(start + ms(10_000)), "the requests have left the window as well");
}

#[test]
fn the_minimum_rate_holds_whatever_the_percentage() {
    let (budget, start) = (budget(20.0, 10), start());
    assert_eq!((0..100).filter(|_| budget.withdraw(start)).count(), 10);
    assert_eq!((0..100).filter(|_| budget.withdraw(start + ms(999))).count(), 0);
    assert_eq!((0..100).filter(|_| budget.withdraw(start + ms(1000))).count(), 10);
}

#[test]
fn the_window_slides_in_tenths() {
    let (budget, start) = (budget(0.0, 1), start());
    budget.request(start);
    assert!(budget.withdraw(start + ms(850)));
    assert!(!budget.withdraw(start + ms(1799)));
    assert!(
        budget.withdraw(start + ms(1850)),
        "what was counted at 850 leaves when the tenth of 800 ms does"
    );
}

#[test]
fn new_numbers_keep_what_was_counted() {
    let (budget, start) = (budget(20.0, 0), start());
    for _ in 0..10 {
        budget.request(start);
    }
    budget.configure(&BudgetSettings { percent: 50.0, min_retries: 0, ..BudgetSettings::default() });
    assert_eq!((0..10).filter(|_| budget.withdraw(start)).count(), 5);
    let other =
        BudgetSettings { interval: ms(1000), percent: 50.0, min_retries: 0, ..BudgetSettings::default() };
    budget.configure(&other);
    assert!(!budget.withdraw(start), "another window starts empty");
}

proptest! {
    /// Against a list of all that happened: what is counted lies between the last nine tenths and the whole
    /// interval.
    #[test]
    fn the_window_counts_what_a_list_counts(events in prop::collection::vec((0u64..700, any::<bool>()), 1..200)) {
        let interval = ms(1000);
        let (mut window, start) = (Window::default(), start());
        let (mut now, mut list) = (start, Vec::<Instant>::new());
        for (wait, add) in events {
            now += ms(wait);
            if add {
                window.add(now, interval);
                list.push(now);
            }
            let sum = window.sum(now, interval);
            let within = |span: Duration| list.iter().filter(|&&at| now - at < span).count() as u32;
            prop_assert!(sum <= within(interval), "{sum} > {}", within(interval));
            prop_assert!(sum >= within(interval - interval / PARTS), "{sum} < {}", within(interval - interval / PARTS));
        }
    }
}
