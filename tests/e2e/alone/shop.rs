//! What goes on while the mesh is changed: three servers behind a route that marks its answers, and somebody who
//! calls them two hundred times a second.

use fairlead_tests::cluster::Cluster;
use fairlead_tests::installed::Installed;
use fairlead_tests::until::blocking;
use fairlead_tests::workload::{Caller, InPod, Server};
use serde_json::Value;

/// Where the servers are.
pub const URL: &str = "http://web:8080/";

/// A meshed namespace with the servers.
pub struct Shop {
    pub cluster: Cluster,
}

impl Shop {
    /// Servers, route and all.
    pub fn open() -> Self {
        let shop = Self { cluster: Installed::get().meshed() };
        shop.cluster.serve(&Server { service: "web", name: "web", replicas: 3, containers: &[Server::HTTP] });
        shop
    }

    /// A gRPC server beside them.
    pub fn with_grpc(&self) {
        self.cluster.serve(&Server {
            service: "chat",
            name: "chat",
            replicas: 1,
            containers: &[Server::GRPC],
        });
    }

    /// Has the route mark every answer with this word, and waits until each sidecar does.
    pub fn mark(&self, word: &str) {
        self.cluster.apply(&format!(
            "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{name: web}}]
  rules:
  - backendRefs: [{{name: web, port: 8080}}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-mark, value: \"{word}\"}}]}}
"
        ));
        self.cluster.wait("serviceroute/web", "condition=Programmed");
    }

    /// Fails unless the caller's calls have the mark.
    pub fn is_marked(&self, caller: &Caller<'_>, word: &str) {
        let said = caller.calls(URL, 10, &[]);
        assert_eq!((&said["failed"], &said["last_headers"]["x-mark"]), (&0.into(), &word.into()), "{said}");
    }

    /// Restarts the servers one after the other.
    pub fn restart(&self) {
        self.cluster.kubectl(&["rollout", "restart", "deployment/web"], "").unwrap();
        self.cluster.rolled_out("web");
    }

    /// Waits until the sidecars of these pods are connected.
    pub fn are_connected(&self, pods: &[String]) {
        for pod in pods {
            blocking(&format!("{pod} is connected"), || self.cluster.is_connected(pod));
        }
    }
}

/// Ends a load; not one of its calls may have failed.
pub fn ends_well(load: InPod, what: &str) {
    let said = load.stop();
    println!("{} calls during {what}", said["calls"]);
    assert_eq!(said["failed"], 0, "{what}: {said}");
}

/// The image of a pod's sidecar.
pub fn sidecar_image(pod: &Value) -> &str {
    let init = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    let sidecar = init.into_iter().find(|container| container["name"] == "fairlead-proxy");
    sidecar.and_then(|container| container["image"].as_str()).unwrap_or_default()
}
