//! What takes too long for every run: `make soak`, half an hour of load while everything happens, and a table of what
//! came of it. `make e2e` leaves it out.

use std::time::Instant;

use fairlead_tests::cluster::{Cluster, kubectl};
use fairlead_tests::installed::{Installed, NAMESPACE};
use fairlead_tests::program::measured;
use fairlead_tests::workload::InPod;
use serde_json::Value;

use crate::alone::shop::{Shop, URL};

/// Calls a second.
const RATE: u32 = 200;

#[test]
fn half_an_hour_of_everything() {
    let installed = Installed::get();
    let _changed = installed.changed();
    let shop = Shop::open();
    shop.with_grpc();
    let (caller, streaming, uploading) =
        (shop.cluster.caller("frontend"), shop.cluster.caller("streaming"), shop.cluster.caller("uploading"));
    shop.mark("before");
    let mut table = Table::default();
    table.memory("start", &shop.cluster);

    for round in ["first", "second"] {
        let (mut load, start) = (caller.load(URL, RATE), Instant::now());
        load.goes_on(RATE.into());
        for _ in 0..20 {
            shop.restart();
        }
        load.goes_on(RATE.into());
        table.row(&format!("20 rolling restarts, {round} time"), start, load, "calls");
        table.memory("restarts", &shop.cluster);
    }

    let (mut load, start) = (caller.load(URL, RATE), Instant::now());
    let stream = streaming.begin(&["stream", "chat:9000", "300"]);
    load.goes_on(RATE.into());
    installed.scale(0);
    let gone = Instant::now();
    let said = uploading.run(&["upload", "http://web:8080/seen", &(1_u64 << 30).to_string()]);
    table.said(&format!(
        "1 GiB uploaded in {:.0} s: {:?}",
        gone.elapsed().as_secs_f64(),
        said.as_ref().map(|said| said.trim())
    ));
    table.memory("upload", &shop.cluster);
    table.failed |= said.is_err();
    table.row("a gRPC stream of 300 s", start, stream, "messages");
    // By the calls, which are no faster than they should be.
    while gone.elapsed().as_secs() < 600 {
        load.goes_on(RATE.into());
    }
    table.memory("absence", &shop.cluster);
    installed.scale(2);
    shop.mark("after");
    shop.is_marked(&caller, "after");
    load.goes_on(RATE.into());
    table.row("600 s without an operator", start, load, "calls");
    table.memory("end", &shop.cluster);
    assert!(!table.failed, "see the table");
}

/// What is printed as it comes, so that a run that is cut short has said something.
#[derive(Default)]
struct Table {
    failed: bool,
}

impl Table {
    /// Ends what ran, and says how many requests it made and how many failed.
    fn row(&mut self, what: &str, start: Instant, ran: InPod, requests: &str) {
        let said = ran.stop();
        let seconds = start.elapsed().as_secs();
        self.failed |= said["failed"] != 0;
        self.said(&format!(
            "{what:<36} {seconds:>5} s {:>8} {requests:<9} {:>4} failed",
            said[requests], said["failed"]
        ));
        if said["failed"] != 0 {
            self.said(&format!("    {}", said["failures"]));
        }
    }

    /// The memory of each operator and each sidecar.
    fn memory(&self, when: &str, cluster: &Cluster) {
        let operator = memory(NAMESPACE, "operator");
        let sidecar = memory(&cluster.namespace, "fairlead-proxy");
        self.said(&format!("memory at {when:<10} operators {operator:?} MiB, sidecars {sidecar:?} MiB"));
    }

    fn said(&self, line: &str) {
        measured(line);
    }
}

/// Memory in use, in MiB, of every container of this name in a namespace, as the kubelets count it.
fn memory(namespace: &str, container: &str) -> Vec<u64> {
    let nodes = kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"], "").unwrap();
    let mut found = Vec::new();
    for node in nodes.split_whitespace() {
        let stats =
            kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")], "").unwrap();
        let stats: Value = serde_json::from_str(&stats).unwrap();
        let pods = stats["pods"].as_array().into_iter().flatten();
        let pods = pods.filter(|pod| pod["podRef"]["namespace"] == namespace);
        let containers = pods.flat_map(|pod| pod["containers"].as_array().into_iter().flatten());
        let counted = containers
            .filter(|one| one["name"] == container)
            .filter_map(|one| one["memory"]["workingSetBytes"].as_u64());
        found.extend(counted.map(|bytes| bytes >> 20));
    }
    found.sort_unstable();
    found
}
