use super::*;
use crate::model::PodSidecar;

const IMAGE: &str = "localhost/fairlead-proxy:0.1.0";

fn book() -> Book {
    let mut book = Book::new(IMAGE, "fairlead-system");
    for name in ["shop", "kube-system", "fairlead-system"] {
        label(&mut book, name, true);
    }
    label(&mut book, "other", false);
    book
}

fn label(book: &mut Book, name: &str, enabled: bool) {
    let value = if enabled { "enabled" } else { "disabled" };
    let labels = [("fairlead.dev/inject".to_owned(), value.to_owned())].into();
    book.take(Change::Namespace(name.into(), Some(Arc::new(Namespace { labels }))));
}

fn put(book: &mut Book, name: &str, pod: Pod) {
    let (namespace, name) = name.split_once('/').unwrap();
    let pod = Pod { uid: pod.uid.or(Some("1".into())), phase: pod.phase.or(Some("Running".into())), ..pod };
    book.take(Change::Pod(ObjectKey::new(namespace, name), Some(Arc::new(pod))));
}

fn injected() -> Pod {
    Pod { sidecar: Some(PodSidecar { image: IMAGE.into(), started: true }), ..Pod::default() }
}

fn said(book: &mut Book, connected: &[&str], now: Instant) -> Vec<(String, &'static str)> {
    let connected: BTreeSet<_> = connected.iter().map(|name| Arc::from(*name)).collect();
    book.due(Some(&connected), now)
        .sayings
        .into_iter()
        .map(|it| (it.pod.to_string(), it.reason.event()))
        .collect()
}

fn pairs(expected: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    expected.iter().map(|(pod, reason)| ((*pod).to_owned(), *reason)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_pod_is_missed_for_its_reason_and_once() {
    let (mut book, now) = (book(), Instant::now());
    put(&mut book, "shop/bare", Pod::default());
    put(&mut book, "shop/fine", injected());
    put(&mut book, "shop/host", Pod { host_network: true, ..Pod::default() });
    put(&mut book, "shop/static", Pod { cannot_be_injected: true, ..Pod::default() });
    put(&mut book, "shop/done", Pod { phase: Some("Succeeded".into()), ..Pod::default() });
    put(&mut book, "shop/ending", Pod { terminating: true, ..Pod::default() });
    let opted_out = [(OPT_OUT.to_owned(), "false".to_owned()), ("fairlead.dev/x".to_owned(), String::new())];
    put(&mut book, "shop/out", Pod { annotations: opted_out.into(), ..Pod::default() });
    put(
        &mut book,
        "shop/typo",
        Pod { annotations: [("fairlead.dev/worker".to_owned(), "2".to_owned())].into(), ..injected() },
    );
    put(
        &mut book,
        "shop/old",
        Pod { sidecar: Some(PodSidecar { image: "old".into(), started: true }), ..Pod::default() },
    );
    for elsewhere in ["other/bare", "kube-system/bare", "fairlead-system/bare"] {
        put(&mut book, elsewhere, Pod::default());
    }
    let connected = ["shop/fine", "shop/typo", "shop/old"];
    let expected = [
        ("shop/bare", "SidecarMissing"),
        ("shop/host", "HostNetworkNotInjected"),
        ("shop/old", "SidecarOfAnotherVersion"),
        ("shop/typo", "UnknownAnnotation"),
    ];
    assert_eq!(said(&mut book, &connected, now), pairs(&expected));
    assert_eq!(said(&mut book, &connected, now), []);
    // After an hour what is wrong is said again; what is harmless is not.
    let again = [("shop/bare", "SidecarMissing"), ("shop/typo", "UnknownAnnotation")];
    assert_eq!(said(&mut book, &connected, now + AGAIN), pairs(&again));
    // A label says it of a whole namespace, another pod of the same name is another pod.
    label(&mut book, "other", true);
    assert_eq!(said(&mut book, &connected, now), pairs(&[("other/bare", "SidecarMissing")]));
    put(&mut book, "shop/bare", Pod { uid: Some("2".into()), ..Pod::default() });
    assert_eq!(said(&mut book, &connected, now), pairs(&[("shop/bare", "SidecarMissing")]));
    // Gone, it is forgotten.
    book.take(Change::Pod(ObjectKey::new("shop", "bare"), None));
    label(&mut book, "other", false);
    let due = book.due(None, now);
    assert!(!due.counts.contains_key(&Reason::NoSidecar));
    assert_eq!(due.counts[&Reason::HostNetwork], 1);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_nobody_hears_of_is_missed_after_a_while() {
    let (mut book, now) = (book(), Instant::now());
    put(&mut book, "shop/web", injected());
    assert_eq!(said(&mut book, &[], now), []);
    assert_eq!(said(&mut book, &["shop/web"], now + SILENCE), []);
    assert_eq!(said(&mut book, &[], now + SILENCE), [], "the silence begins anew");
    assert_eq!(said(&mut book, &[], now + SILENCE * 2), pairs(&[("shop/web", "SidecarWithoutConfig")]));
    // One that has not started is waited for.
    put(
        &mut book,
        "shop/slow",
        Pod { sidecar: Some(PodSidecar { image: IMAGE.into(), started: false }), ..Pod::default() },
    );
    assert_eq!(said(&mut book, &["shop/web"], now + SILENCE * 9), []);
}

#[tokio::test(start_paused = true)]
async fn many_are_said_little_by_little_and_a_failure_again() {
    let (mut book, now) = (book(), Instant::now());
    for number in 0..25 {
        put(&mut book, &format!("shop/bare-{number:02}"), Pod::default());
    }
    let mut rounds = Vec::new();
    loop {
        let due = book.due(None, now);
        assert_eq!(due.counts[&Reason::NoSidecar], 25);
        rounds.push(due.sayings.len());
        if due.complete {
            book.failed(&due.sayings[0], now);
            break;
        }
    }
    assert_eq!(rounds, [10, 10, 5]);
    assert_eq!(said(&mut book, &[], now), []);
    assert_eq!(said(&mut book, &[], now + LATER), pairs(&[("shop/bare-20", "SidecarMissing")]));
}

#[test]
fn an_event_is_called_by_what_it_says() {
    let saying = |uid: &str, text: &str| Saying {
        pod: ObjectKey::new("shop", "web-1"),
        uid: Some(uid.into()),
        reason: Reason::NoSidecar,
        text: text.into(),
    };
    let name = saying("1", "a").name();
    assert!(name.starts_with("web-1.") && name.len() == 22, "{name}");
    assert_eq!(name, saying("1", "a").name());
    assert_ne!(name, saying("2", "a").name());
    assert_ne!(name, saying("1", "b").name());
}
