//! Against an API server made of axum: it lists, watches, fails and takes statuses.

mod api_server;

use serde_json::json;

use self::api_server::ApiServer;
use super::*;

const LONG: Duration = Duration::from_secs(30);

struct Fixture {
    server: ApiServer,
    events: mpsc::Receiver<Event>,
}

fn route(generation: i64, extra: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute",
        "metadata": {"name": "reviews", "namespace": "shop", "uid": "u", "generation": generation,
                     "resourceVersion": "7", "managedFields": [{"manager": "kubectl"}]},
        "spec": {"parentRefs": [{"name": "reviews"}]},
    });
    object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    object
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
           "metadata": {"name": name, "namespace": "shop", "resourceVersion": "3"},
           "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "name": "http"}]}})
}

impl Fixture {
    fn start(server: ApiServer) -> Self {
        let (tell, events) = mpsc::channel(100);
        #[allow(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(follow_all(server.client(), tell, Arc::default(), Duration::from_millis(20)));
        Self { server, events }
    }

    async fn next(&mut self) -> Event {
        tokio::time::timeout(LONG, self.events.recv()).await.expect("an event in time").unwrap()
    }

    /// The changes until everything was read once.
    async fn synced(&mut self) -> Vec<Change> {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Event::Changes(changes) => all.extend(changes),
                Event::Synced => return all,
                Event::Faults(_) => {}
            }
        }
    }

    async fn changes(&mut self) -> Vec<Change> {
        loop {
            if let Event::Changes(changes) = self.next().await {
                return changes;
            }
        }
    }
}

fn names(changes: &[Change]) -> Vec<String> {
    let mut names: Vec<String> = changes
        .iter()
        .map(|change| match change {
            Change::Service(key, it) => format!("Service {key} {}", it.is_some()),
            Change::EndpointSlice(key, it) => format!("EndpointSlice {key} {}", it.is_some()),
            Change::ReferenceGrant(key, it) => format!("ReferenceGrant {key} {}", it.is_some()),
            Change::HasGrants(exist) => format!("ReferenceGrants {exist}"),
            Change::Pod(key, it) => format!("Pod {key} {}", it.is_some()),
            Change::Namespace(name, it) => format!("Namespace {name} {}", it.is_some()),
            Change::Declared(object, it) => format!("{object} {}", it.is_some()),
        })
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn all_kinds_are_read_before_it_is_said() {
    let server = ApiServer::start().await;
    server.put("services", service("reviews"));
    server.put("namespaces", json!({"metadata": {"name": "shop", "resourceVersion": "1"}}));
    server.put(
        "pods",
        json!({"metadata": {"name": "p", "namespace": "shop", "resourceVersion": "1"}, "spec": {}}),
    );
    server.put("serviceroutes", route(4, &json!({"status": {"observedGeneration": 3}})));
    server.hold("endpointslices");
    let mut fixture = Fixture::start(server);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match fixture.next().await {
            Event::Changes(changes) => seen.extend(changes),
            other => panic!("{other:?} before all kinds were read"),
        }
    }
    assert_eq!(
        names(&seen),
        [
            "Namespace shop true",
            "Pod shop/p true",
            "Service shop/reviews true",
            "ServiceRoute shop/reviews true"
        ]
    );
    let declared = seen.iter().find_map(|change| match change {
        Change::Declared(_, declared) => declared.clone(),
        _ => None,
    });
    let declared = declared.unwrap();
    assert_eq!((declared.generation, declared.status.observed_generation), (4, Some(3)));
    assert_eq!(declared.written.pointer("/metadata/managedFields"), None);
    assert_eq!(declared.written.get("status"), None);
    fixture.server.release("endpointslices");
    assert_eq!(fixture.synced().await, []);
}

#[tokio::test]
async fn events_are_followed() {
    let server = ApiServer::start().await;
    let mut fixture = Fixture::start(server);
    fixture.synced().await;
    fixture.server.event("services", "ADDED", service("a")).await;
    assert_eq!(names(&fixture.changes().await), ["Service shop/a true"]);
    fixture.server.event("services", "DELETED", service("a")).await;
    assert_eq!(names(&fixture.changes().await), ["Service shop/a false"]);
    // One that does not fit is told, and stops nothing.
    let mut bad = route(1, &json!({}));
    bad["spec"] = json!({"parentRefs": 7});
    fixture.server.event("serviceroutes", "ADDED", bad).await;
    let changes = fixture.changes().await;
    let Change::Declared(_, Some(declared)) = &changes[0] else { panic!("{changes:?}") };
    assert!(declared.content.as_ref().unwrap_err()[0].contains("apply it again"));
    fixture.server.event("serviceroutes", "MODIFIED", route(2, &json!({}))).await;
    let changes = fixture.changes().await;
    let Change::Declared(_, Some(declared)) = &changes[0] else { panic!("{changes:?}") };
    assert!(declared.content.is_ok());
}

#[tokio::test]
async fn a_watch_that_fails_keeps_what_it_told_and_catches_up() {
    let server = ApiServer::start().await;
    server.put("services", service("a"));
    server.put("services", service("b"));
    let mut fixture = Fixture::start(server);
    fixture.synced().await;
    fixture.server.event("services", "MODIFIED", service("b")).await;
    assert_eq!(names(&fixture.changes().await), ["Service shop/b true"]);
    fixture.server.fail("services", 500);
    fixture.server.remove("services", "a");
    fixture.server.put("services", service("c"));
    fixture.server.expire("services").await;
    // While it fails, a fault is told and nothing goes.
    loop {
        match fixture.next().await {
            Event::Faults(faults) if faults.iter().any(|fault| fault.place == "Service") => break,
            Event::Changes(changes) => panic!("{changes:?}"),
            _ => {}
        }
    }
    fixture.server.fail("services", 200);
    let changes = fixture.changes().await;
    assert_eq!(names(&changes), ["Service shop/a false", "Service shop/b true", "Service shop/c true"]);
}

#[tokio::test]
async fn a_missing_kind_is_told_with_what_to_do() {
    let server = ApiServer::start().await;
    server.fail("serviceroutes", 404);
    let mut fixture = Fixture::start(server);
    loop {
        if let Event::Faults(faults) = fixture.next().await {
            let fault = faults.iter().find(|fault| fault.place == "ServiceRoute").unwrap();
            assert!(fault.message.contains("apply Fairlead's CustomResourceDefinitions"), "{fault}");
            break;
        }
    }
    fixture.server.fail("serviceroutes", 200);
    fixture.synced().await;
}

fn grant(name: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
           "metadata": {"name": name, "namespace": "bank", "resourceVersion": "3"},
           "spec": {"from": [{"group": "fairlead.dev", "kind": "ServiceRoute", "namespace": "shop"}],
                    "to": [{"group": "", "kind": "Service"}]}})
}

#[tokio::test]
async fn grants_are_read_in_the_version_that_is_served_and_need_not_exist() {
    let server = ApiServer::start().await;
    let mut fixture = Fixture::start(server);
    assert_eq!(fixture.synced().await, [], "a kind that does not exist is complete");
    fixture.server.fail("v1/referencegrants", 200);
    assert_eq!(names(&fixture.changes().await), ["ReferenceGrants true"]);
    fixture.server.event("referencegrants", "ADDED", grant("a")).await;
    let changes = fixture.changes().await;
    assert_eq!(names(&changes), ["ReferenceGrant bank/a true"]);
    let Change::ReferenceGrant(_, Some(grant)) = &changes[0] else { panic!("{changes:?}") };
    assert_eq!((grant.from.len(), grant.to.len()), (1, 1));
    fixture.server.fail("v1/referencegrants", 404);
    fixture.server.expire("referencegrants").await;
    assert_eq!(names(&fixture.changes().await), ["ReferenceGrant bank/a false", "ReferenceGrants false"]);
}

#[tokio::test]
async fn grants_that_cannot_be_read_are_waited_for() {
    let server = ApiServer::start().await;
    server.fail("referencegrants", 403);
    server.put("referencegrants", grant("a"));
    let mut fixture = Fixture::start(server);
    loop {
        match fixture.next().await {
            Event::Faults(faults) if faults.iter().any(|fault| fault.place == "ReferenceGrant") => break,
            Event::Synced => panic!("not everything was read"),
            _ => {}
        }
    }
    fixture.server.fail("referencegrants", 200);
    assert_eq!(names(&fixture.synced().await), ["ReferenceGrant bank/a true", "ReferenceGrants true"]);
}
