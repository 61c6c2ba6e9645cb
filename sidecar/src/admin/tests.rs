use super::*;

use std::time::Duration;

use crate::metrics::{Direction, Ended, table};
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
    assert!(!admin.readiness.is_news(&said), "it is in the log");
    assert!((0..100).filter(|number| admin.readiness.is_news(&number.to_string())).count() < 100);
    drain.advance(Phase::Draining);
    assert_eq!(admin.readiness.ready(direct).unwrap_err(), "draining\n");
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &admin.registry).unwrap();
    for line in ["fairlead_draining 1", "fairlead_xds_connected 0", "fairlead_xds_nacks_total 0"] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn the_table_of_metrics_is_what_is_exported() {
    let metrics = Metrics::default();
    let (service, rule) = (Arc::from("shop/reviews:9080"), Arc::from("-"));
    let handles = metrics.handles(Direction::Outbound, &service, &rule);
    let latency = Some((Duration::ZERO, Duration::ZERO));
    let ended = Ended { status: None, flag: "DC", total: Duration::ZERO, upstream: latency };
    metrics.request_ended(&handles, &ended);
    metrics.retried(&handles);
    metrics.retry_skipped(&handles, "budget_spent");
    metrics.connection_is(Direction::Outbound, "http1");
    let _open = metrics.connection(Direction::Outbound);
    metrics.opaque_bytes(Direction::Outbound, &service);
    metrics.passed_through("unknown");
    metrics.held(Direction::Outbound, "answered", Duration::ZERO);

    let (_, ready_visitors) = mpsc::channel(1);
    let (_, metrics_visitors) = mpsc::channel(1);
    let (addresses, capture, first) = (Vec::new(), Arc::default(), Vec::new());
    let pod = Pod { addresses, capture, first, ready_visitors, metrics_visitors };
    let config: Arc<ArcSwap<ProxyConfig>> = Arc::default();
    let options = Options { operator: "http://127.0.0.1:1".parse().unwrap(), pod: "shop/web".into() };
    let (_client, xds, _retired) = Client::new(options, Arc::clone(&config));
    let admin = Admin::new(Vec::new(), config, xds, &metrics, Drain::default(), Some(&pod));
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &admin.registry).unwrap();

    for described in table::METRICS {
        let line = format!("# TYPE {} {}\n", described.name, described.kind);
        assert!(page.contains(&line), "{line} is not in\n{page}");
    }
    assert_eq!(page.matches("# TYPE ").count(), table::METRICS.len(), "{page}");
    let told: std::collections::BTreeMap<_, Vec<_>> = table::METRICS
        .iter()
        .map(|described| (described.name, described.labels.iter().map(|(label, _)| *label).collect()))
        .collect();
    for sample in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = sample.split_once('{').unwrap_or((sample.split(' ').next().unwrap(), ""));
        let base = ["_total", "_count", "_sum", "_bucket"].iter().find_map(|end| name.strip_suffix(end));
        let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
        let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
        let labels: Vec<_> = names.filter(|label| *label != "le").collect();
        assert_eq!(told[base.unwrap_or(name)], labels, "{sample}");
    }
}
