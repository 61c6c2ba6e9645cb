//! When what is compiled; on paused time.

use serde_json::json;

use super::*;
use crate::model::{EndpointSlice, Kind, ReferenceGrant, Service};

fn service(name: &str) -> Change {
    let api = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 9080, "name": "http"}]},
    }))
    .unwrap();
    let service = Service::from_api(&api).unwrap();
    Change::Service(service.key.clone(), Some(Arc::new(service)))
}

fn slice(service: &str, address: &str) -> Change {
    let api = serde_json::from_value(json!({
        "metadata": {"name": service, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 9080, "name": "http"}],
    }))
    .unwrap();
    let slice = EndpointSlice::from_api(&api).unwrap();
    Change::EndpointSlice(slice.key.clone(), Some(Arc::new(slice)))
}

fn declared(generation: i64, status: i64) -> Change {
    let written = json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute",
        "metadata": {"name": "reviews", "namespace": "shop", "generation": generation},
        "spec": {"parentRefs": [{"name": "reviews"}]},
    });
    let route = serde_json::from_value(written.clone()).unwrap();
    let declared = Declared {
        generation,
        content: Ok(Typed::ServiceRoute(Arc::new(route))),
        written: Arc::new(written),
        status: fairlead_crds::Status {
            observed_generation: Some(status),
            ..fairlead_crds::Status::default()
        },
    };
    Change::Declared(reference(), Some(Arc::new(declared)))
}

fn reference() -> ObjectRef {
    ObjectRef::new(Kind::ServiceRoute, ObjectKey::new("shop", "reviews"))
}

/// A publisher that runs, and what it published so far.
struct Running {
    tell: mpsc::Sender<Event>,
    published: watch::Receiver<Published>,
    hub: Arc<Hub>,
}

impl Running {
    async fn start(changes: Vec<Change>) -> Self {
        let (tell, mut events) = mpsc::channel(100);
        tell.send(Event::Changes(changes)).await.unwrap();
        tell.send(Event::Synced).await.unwrap();
        let mut publisher = Publisher::new(Arc::default(), Arc::new(Presence::new("fairlead-system")));
        let first = publisher.first(&mut events, |_| ()).await.unwrap();
        let hub = Arc::new(Hub::new(first.snapshot.clone()));
        let (publish, published) = watch::channel(first);
        #[allow(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(publisher.run(events, hub.clone(), publish));
        Self { tell, published, hub }
    }

    async fn tell(&self, change: Change) {
        self.tell.send(Event::Changes(vec![change])).await.unwrap();
    }

    /// The next publication, and how long it took.
    async fn next(&mut self) -> (Published, Duration) {
        let start = Instant::now();
        self.published.changed().await.unwrap();
        (self.published.borrow_and_update().clone(), start.elapsed())
    }

    fn endpoints(&self, name: &str) -> Option<Arc<str>> {
        let kind = crate::xds::snapshot::ResourceKind::Endpoints;
        self.hub.snapshot().get(kind, name).map(|resource| resource.version.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_compiled_before_everything_was_read() {
    let (tell, mut events) = mpsc::channel(10);
    let mut publisher = Publisher::new(Arc::default(), Arc::new(Presence::new("fairlead-system")));
    tell.send(Event::Changes(vec![service("reviews")])).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_secs(3600), publisher.first(&mut events, |_| ())).await;
    assert!(waits.is_err());
    tell.send(Event::Synced).await.unwrap();
    let first = publisher.first(&mut events, |_| ()).await.unwrap();
    assert_eq!((first.edition, first.snapshot.mesh().ports.len()), (1, 1));
    drop(tell);
    assert!(
        Publisher::new(Arc::default(), Arc::new(Presence::new("fairlead-system")))
            .first(&mut events, |_| ())
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn configuration_waits_for_a_quiet_moment() {
    let mut running = Running::start(vec![]).await;
    running.tell(service("a")).await;
    tokio::time::sleep(QUIET / 2).await;
    running.tell(service("b")).await;
    let (published, took) = running.next().await;
    assert_eq!((published.edition, published.snapshot.mesh().ports.len()), (2, 2));
    assert!(took >= QUIET && took < QUIET * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn configuration_does_not_wait_for_ever() {
    let mut running = Running::start(vec![]).await;
    let tell = running.tell.clone();
    let writer = async {
        for n in 0.. {
            tell.send(Event::Changes(vec![service(&format!("s{n}"))])).await.unwrap();
            tokio::time::sleep(QUIET / 2).await;
        }
    };
    let took = tokio::select! {
        () = writer => unreachable!(),
        (_, took) = running.next() => took,
    };
    assert!(took >= PATIENCE && took < PATIENCE + QUIET, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn endpoints_wait_for_nothing_and_leave_the_rest_alone() {
    let mut running = Running::start(vec![service("reviews"), service("ratings")]).await;
    let before = (running.endpoints("shop/reviews:9080"), running.endpoints("shop/ratings:9080"));
    running.tell(service("other")).await;
    running.tell(slice("reviews", "10.244.1.5")).await;
    let (published, took) = running.next().await;
    assert_eq!((published.edition, took), (1, Duration::ZERO));
    assert_ne!(running.endpoints("shop/reviews:9080"), before.0);
    assert_eq!(running.endpoints("shop/ratings:9080"), before.1);
    // The same slice again is no change.
    running.tell(slice("reviews", "10.244.1.5")).await;
    let (published, _) = running.next().await;
    assert_eq!((published.edition, published.snapshot.mesh().ports.len()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_written_status_compiles_nothing() {
    let mut running = Running::start(vec![service("reviews"), declared(1, 0)]).await;
    running.tell(declared(1, 1)).await;
    let (published, took) = running.next().await;
    assert_eq!((published.edition, took), (1, Duration::ZERO));
    assert_eq!(published.declared[&reference()].status.observed_generation, Some(1));
    running.tell(declared(2, 1)).await;
    assert_eq!(running.next().await.0.edition, 2);
}

#[tokio::test(start_paused = true)]
async fn a_generation_is_told_with_what_was_compiled_from_it() {
    let mut running = Running::start(vec![service("reviews"), declared(1, 0)]).await;
    running.tell(declared(2, 0)).await;
    running.tell(slice("reviews", "10.244.1.5")).await;
    let (published, _) = running.next().await;
    assert_eq!((published.edition, published.declared[&reference()].generation), (1, 1));
    let (published, _) = running.next().await;
    assert_eq!((published.edition, published.declared[&reference()].generation), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn faults_are_told_at_once() {
    let mut running = Running::start(vec![]).await;
    let fault = Fault { place: "a.yaml".to_owned(), line: Some(3), message: "bad".to_owned() };
    running.tell.send(Event::Faults(vec![fault.clone()])).await.unwrap();
    let (published, took) = running.next().await;
    assert_eq!((&*published.faults, published.edition, took), (&[fault][..], 1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn grants_are_configuration() {
    let running = Running::start(vec![service("reviews")]).await;
    let key = ObjectKey::new("bank", "shop-may");
    let grant = Arc::new(ReferenceGrant { from: vec!["shop".into()], ..ReferenceGrant::default() });
    for (change, anew) in [
        (Change::HasGrants(false), false),
        (Change::ReferenceGrant(key.clone(), Some(grant.clone())), true),
        (Change::ReferenceGrant(key.clone(), Some(grant)), false),
        (Change::HasGrants(true), false),
        (Change::ReferenceGrant(key, None), true),
        (Change::HasGrants(false), true),
    ] {
        let before = running.published.borrow().edition;
        running.tell(change.clone()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(running.published.borrow().edition - before, u64::from(anew), "{change:?}");
    }
}
