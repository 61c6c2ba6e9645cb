use super::*;

/// Everything there is, once.
fn touched() -> Metrics {
    let metrics = Metrics::default();
    metrics.stream_opened("delta");
    metrics.pushed("cds", 3);
    metrics.nacked("rds");
    metrics.refused();
    metrics.unidentified("unauthenticated");
    metrics.token_reviewed(Outcome::Done);
    metrics.compiled(Scope::Config, Duration::from_millis(2));
    metrics.objects([(ObjectLabel { kind: "ServiceRoute", condition: "Accepted", status: "True" }, 1)]);
    metrics.source_objects("Service", 1);
    metrics.source_errors(0);
    metrics.watch_failed();
    metrics.status_written(StatusWrite::Written);
    metrics.holds_lease(true);
    metrics.injected("injected");
    metrics.missed_pods([("no_sidecar", 1)]);
    metrics.certificates_end(Some(jiff::Timestamp::UNIX_EPOCH), None);
    metrics.trust_written(Outcome::Done);
    metrics
}

#[test]
fn text_has_the_values() {
    let text = touched().text();
    for line in [
        "fairlead_operator_xds_streams{protocol=\"delta\"} 1",
        "fairlead_operator_xds_pushes_total{type=\"cds\"} 1",
        "fairlead_operator_xds_pushed_resources_total{type=\"cds\"} 3",
        "fairlead_operator_xds_nacks_total{type=\"rds\"} 1",
        "fairlead_operator_compile_seconds_count{scope=\"config\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn the_table_is_what_is_exported() {
    let text = touched().text();
    for described in table::METRICS {
        let name = described.name;
        assert!(text.contains(&format!("# TYPE {name} {}\n", described.kind)), "{name} in\n{text}");
        let suffix = match described.kind {
            "counter" => "_total",
            "histogram" => "_count",
            _ => "",
        };
        let series = format!("{name}{suffix}");
        let sample = text.lines().find(|line| line.split(['{', ' ']).next() == Some(&series)).unwrap();
        let labels = sample.split_once('{').map_or("", |(_, labels)| labels);
        let labels: Vec<_> = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
        let told: Vec<_> = described.labels.iter().map(|(label, _)| *label).collect();
        assert_eq!(labels, told, "{sample}");
    }
    assert_eq!(text.matches("# TYPE ").count(), table::METRICS.len(), "{text}");
}
