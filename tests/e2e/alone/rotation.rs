//! The installed operator's certificates are changed twice, as an administrator has it done, and nobody notices.

use fairlead_tests::cluster::kubectl;
use fairlead_tests::installed::{Installed, NAMESPACE, upgrade};
use fairlead_tests::until::{LIMIT, blocking};

use super::shop::{Shop, URL, ends_well};

const SECRET: &str = "secret/fairlead-operator-tls";

#[test]
fn certificates_rotate_twice_under_load_and_old_sidecars_are_fed() {
    let installed = Installed::get();
    let _changed = installed.changed();
    upgrade(&["--set-string", "operator.trustDelay=10s"]).unwrap();
    let shop = Shop::open();
    let cluster = &shop.cluster;
    let caller = cluster.caller("frontend");
    shop.mark("0");
    let mut load = caller.load(URL, 200);
    load.goes_on(200);

    let mut pods = cluster.pods("web");
    pods.push("frontend".to_owned());
    for round in ["1", "2"] {
        let before = roots(&shop);
        let rotate = format!("fairlead.dev/rotate={round}");
        kubectl(&["annotate", "--overwrite", "-n", NAMESPACE, SECRET, &rotate], "").unwrap();
        blocking("both roots are distributed", || count(&roots(&shop)) == 2);
        // A kubelet brings a changed ConfigMap into a pod within two minutes, and at once when the pod changes.
        for pod in &pods {
            cluster.kubectl(&["annotate", "--overwrite", "pod", pod, &format!("round={round}")], "").unwrap();
        }
        shop.mark(round);
        shop.is_marked(&caller, round);
        let rotated = format!("jsonpath={{.metadata.annotations.fairlead\\.dev/rotated}}={round}");
        let limit = format!("--timeout={}s", 2 * LIMIT.as_secs());
        let wait = ["wait", "-n", NAMESPACE, SECRET, &format!("--for={rotated}"), &limit];
        kubectl(&wait, "").unwrap_or_else(|error| panic!("{error}"));
        blocking("the old root is gone", || count(&roots(&shop)) == 1 && roots(&shop) != before);
        load.goes_on(200);
    }
    // Every stream is opened anew, to replicas that have never used another certificate.
    installed.kubectl(&["rollout", "restart", "deployment/fairlead-operator"]).unwrap();
    installed.kubectl(&["rollout", "status", "deployment/fairlead-operator", "--timeout=120s"]).unwrap();
    shop.are_connected(&pods);
    shop.mark("end");
    shop.is_marked(&caller, "end");
    ends_well(load, "two rotations");
}

/// What sidecars trust.
fn roots(shop: &Shop) -> String {
    shop.cluster.get("configmap", "fairlead-ca")["data"]["ca.crt"].as_str().unwrap().to_owned()
}

fn count(roots: &str) -> usize {
    roots.matches("BEGIN CERTIFICATE").count()
}
