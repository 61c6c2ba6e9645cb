use super::*;

use crate::xds::client::{Client, Options};

#[tokio::test]
async fn not_ready_says_what_is_missing_and_draining_is_not_ready() {
    let config: Arc<ArcSwap<ProxyConfig>> = Arc::default();
    let options = Options { operator: "http://127.0.0.1:1".parse().unwrap(), pod: "shop/web".into() };
    let (_client, xds, _retired) = Client::new(options, Arc::clone(&config));
    let wanted =
        vec![("upstream shop/reviews:9080=127.0.0.1:9080".to_owned(), Arc::from("shop/reviews:9080"))];
    let drain = Drain::default();
    let admin = Admin::new(wanted, config, xds, &Metrics::default(), drain.clone(), None);
    let direct = Came::Directly("10.0.0.9:1".parse().unwrap());
    let said = admin.readiness.ready(direct).unwrap_err();
    assert!(said.contains("no stream to the operator yet"), "{said}");
    assert!(said.contains("upstream shop/reviews:9080=127.0.0.1:9080: awaited"), "{said}");
    drain.advance(Phase::Draining);
    assert_eq!(admin.readiness.ready(direct).unwrap_err(), "draining\n");
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &admin.registry).unwrap();
    for line in ["fairlead_draining 1", "fairlead_xds_connected 0", "fairlead_xds_nacks_total 0"] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
}
