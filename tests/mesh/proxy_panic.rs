//! Too few endpoints are left: all are used, and the OutlierDetection says so for as long as it lasts.

use fairlead_tests::backend::Behaviour;
use fairlead_tests::client::get;
use fairlead_tests::until::eventually;
use fairlead_tests::world::{SidecarFlags, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_is_a_condition_while_it_lasts() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 2).await;
    world.apply(
        "outlier",
        "apiVersion: fairlead.dev/v1alpha1
kind: OutlierDetection
metadata: {name: reviews, namespace: shop}
spec:
  targetRefs: [{name: reviews}]
  consecutiveErrors: 1
  ejection: {baseTime: 1s, maxTime: 1s, maxPercent: 100, minHealthyPercent: 60}
",
    );
    world.start_operator().await;
    let called = &["shop/reviews:9080"];
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", called)).await;
    let _other = world.sidecar(&SidecarFlags::calling("shop/batch", called)).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    let object = ("OutlierDetection", "shop", "reviews");
    world.programmed(object.0, object.1, object.2).await;
    let (condition, _) = world.condition(object, "EndpointsHealthy", "True").await;
    assert_eq!(condition["reason"], "EnoughEndpoints");

    backends[0].set(Behaviour::Status(503));
    let call = || async {
        get(address, "/").await.unwrap();
    };
    let condition = |status: &'static str| {
        let world = &world;
        async move {
            eventually(&format!("EndpointsHealthy={status}"), || async {
                call().await;
                let object = world.object(object.0, object.1, object.2).await?;
                let conditions = object["status"]["conditions"].as_array()?.clone();
                conditions.into_iter().find(|it| it["type"] == "EndpointsHealthy" && it["status"] == status)
            })
            .await
        }
    };
    let (panic, took) = condition("False").await;
    println!("panic is visible after {took:?}");
    assert_eq!(panic["reason"], "Panic");
    assert_eq!(
        panic["message"],
        "1 of 2 sidecars use all endpoints, ejected ones too, since fewer than 60 percent are left: \
         shop/frontend those of shop/reviews:9080"
    );
    backends[0].set(Behaviour::Ok);
    condition("True").await;
}
