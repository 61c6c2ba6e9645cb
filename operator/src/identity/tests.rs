use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use tokio::sync::Notify;

use super::review::Unreachable;
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A token of this payload; only the payload matters here.
fn token(exp: Timestamp) -> String {
    let payload = format!("{{\"exp\":{},\"x\":\"??>>~~\"}}", exp.as_second());
    let text = serde_json::to_value(k8s_openapi::ByteString(payload.into_bytes())).unwrap();
    let text = text.as_str().unwrap().replace('+', "-").replace('/', "_");
    format!("e30.{}.c2ln", text.trim_end_matches('='))
}

fn good() -> TokenReviewStatus {
    let extra = [("pod-name", "reviews-1"), ("pod-uid", "u-1")];
    let extra =
        extra.map(|(name, value)| (format!("authentication.kubernetes.io/{name}"), vec![value.to_owned()]));
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec![AUDIENCE.to_owned()]),
        user: Some(UserInfo {
            username: Some("system:serviceaccount:shop:reviews".to_owned()),
            extra: Some(BTreeMap::from(extra)),
            ..UserInfo::default()
        }),
        error: None,
    }
}

#[derive(Debug, Default)]
struct Fake {
    calls: AtomicUsize,
    down: AtomicBool,
    holds: AtomicBool,
    go: Notify,
    says: Mutex<Option<TokenReviewStatus>>,
}

#[derive(Debug)]
struct Shared(Arc<Fake>);

impl Reviewer for Shared {
    fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, Unreachable>> {
        Box::pin(async move {
            self.0.calls.fetch_add(1, Ordering::SeqCst);
            if self.0.holds.load(Ordering::SeqCst) {
                self.0.go.notified().await;
            }
            if self.0.down.load(Ordering::SeqCst) {
                return Err(Unreachable("connection refused".into()));
            }
            Ok(self.0.says.lock().unwrap().clone().unwrap_or_else(good))
        })
    }
}

fn identities() -> (Arc<Fake>, Identities) {
    let fake = Arc::new(Fake::default());
    (fake.clone(), Identities::new(Box::new(Shared(fake)), Arc::default()))
}

fn calls(fake: &Fake) -> usize {
    fake.calls.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_good_token_says_who_it_is() {
    let (fake, identities) = identities();
    let authorization = format!("Bearer {}", token(at(3600)));
    let caller = identities.identify(Some(&authorization), at(0)).await.unwrap();
    assert_eq!((&*caller.namespace, &*caller.service_account), ("shop", "reviews"));
    assert_eq!(caller.pod, Some(Pod { name: "reviews-1".into(), uid: "u-1".into() }));
    assert_eq!(caller.expires, at(3600));
    // Remembered for a minute, then asked again.
    identities.identify(Some(&authorization), at(59)).await.unwrap();
    assert_eq!(calls(&fake), 1);
    identities.identify(Some(&authorization), at(60)).await.unwrap();
    assert_eq!(calls(&fake), 2);
    // A clock that goes back asks again.
    identities.identify(Some(&authorization), at(-10)).await.unwrap();
    assert_eq!(calls(&fake), 3);
}

#[tokio::test]
async fn never_past_its_expiry() {
    let (fake, identities) = identities();
    let authorization = format!("Bearer {}", token(at(30)));
    identities.identify(Some(&authorization), at(29)).await.unwrap();
    assert_eq!(identities.identify(Some(&authorization), at(30)).await, Err(Unknown::Expired));
    assert_eq!(calls(&fake), 1);
}

#[tokio::test]
async fn what_is_not_enough_is_refused_with_the_reason() {
    let (_, identities) = identities();
    for none in [None, Some("Basic abc"), Some("Bearer"), Some("Bearer  "), Some("")] {
        assert_eq!(identities.identify(none, at(0)).await, Err(Unknown::NoToken));
    }
    let long = format!("Bearer {}", "x".repeat(TOKEN_BYTES + 1));
    assert!(matches!(identities.identify(Some(&long), at(0)).await, Err(Unknown::Refused(_))));
    let not = |change: fn(&mut TokenReviewStatus)| {
        let mut status = good();
        change(&mut status);
        Caller::read(&status, &token(at(10))).unwrap_err()
    };
    assert!(not(|it| it.authenticated = None).contains("does not know it"));
    assert!(
        not(|it| {
            it.authenticated = Some(false);
            it.error = Some("token has expired".into());
        })
        .contains("expired")
    );
    assert!(not(|it| it.audiences = None).contains("audience fairlead"));
    assert!(not(|it| it.audiences = Some(vec!["https://kubernetes".into()])).contains("audience"));
    assert!(not(|it| it.user = None).contains("whose"));
    assert!(not(|it| it.user.as_mut().unwrap().username = Some("alice".into())).contains("service account"));
    for garbage in ["", "a.b", "a.!.c", "e30.e30.c2ln"] {
        assert!(Caller::read(&good(), garbage).unwrap_err().contains("expires"), "{garbage}");
    }
    let mut no_pod = good();
    no_pod.user.as_mut().unwrap().extra = None;
    assert_eq!(Caller::read(&no_pod, &token(at(10))).unwrap().pod, None);
}

#[tokio::test]
async fn one_question_a_token_and_refusals_are_remembered_for_a_while() {
    let (fake, identities) = identities();
    *fake.says.lock().unwrap() = Some(TokenReviewStatus::default());
    fake.holds.store(true, Ordering::SeqCst);
    let authorization = format!("Bearer {}", token(at(3600)));
    let ask = || identities.identify(Some(&authorization), at(0));
    let release = async {
        while calls(&fake) == 0 {
            tokio::task::yield_now().await;
        }
        fake.go.notify_one();
    };
    let (answers, ()) = tokio::join!(futures::future::join_all((0..50).map(|_| ask())), release);
    assert!(answers.iter().all(|answer| matches!(answer, Err(Unknown::Refused(_)))));
    assert_eq!(calls(&fake), 1);
    fake.holds.store(false, Ordering::SeqCst);
    *fake.says.lock().unwrap() = None;
    assert!(identities.identify(Some(&authorization), at(9)).await.is_err());
    assert!(identities.identify(Some(&authorization), at(10)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn without_the_api_server_nobody_new_is_known_and_it_is_asked_again() {
    let (fake, identities) = identities();
    fake.down.store(true, Ordering::SeqCst);
    let authorization = format!("Bearer {}", token(at(3600)));
    let answer = identities.identify(Some(&authorization), at(0)).await;
    assert!(matches!(answer, Err(Unknown::Unavailable(_))), "{answer:?}");
    // It does not answer at all.
    fake.down.store(false, Ordering::SeqCst);
    fake.holds.store(true, Ordering::SeqCst);
    let answer = identities.identify(Some(&authorization), at(0)).await;
    assert!(matches!(answer, Err(Unknown::Unavailable(_))), "{answer:?}");
    fake.holds.store(false, Ordering::SeqCst);
    assert!(identities.identify(Some(&authorization), at(0)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn strangers_are_bounded() {
    let (fake, identities) = identities();
    fake.holds.store(true, Ordering::SeqCst);
    let tokens: Vec<String> = (0..WAITING + 100).map(|number| format!("Bearer stranger-{number}")).collect();
    let ask = tokens.iter().map(|token| identities.identify(Some(token), at(0)));
    let all = futures::future::join_all(ask);
    let watch = async {
        while calls(&fake) < AT_ONCE {
            tokio::task::yield_now().await;
        }
        assert_eq!(calls(&fake), AT_ONCE);
    };
    let (answers, ()) = tokio::join!(all, watch);
    assert!(answers.iter().all(|answer| matches!(answer, Err(Unknown::Unavailable(_)))));
    let told = answers.iter().filter(|it| it.as_ref().is_err_and(|it| it.to_string().contains("too many")));
    assert_eq!(told.count(), 100);
}

#[tokio::test]
async fn answers_are_bounded_and_no_token_is_kept() {
    let (_, identities) = identities();
    for number in 0..KEPT + 50 {
        let exp = token(at(3600));
        let _ = identities.identify(Some(&format!("Bearer {exp}{number}")), at(0)).await;
    }
    assert_eq!(identities.answers.lock().unwrap().len(), KEPT);
    let _ = identities.identify(Some(&format!("Bearer {}", token(at(3600)))), at(61)).await;
    assert_eq!(identities.answers.lock().unwrap().len(), 1);
    assert!(!format!("{identities:?}").contains("e30."));
}
