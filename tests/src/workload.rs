//! Workloads in the cluster: servers as Deployments, and a pod that calls them, all of them the test server.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::cluster::{Cluster, load_test_server};
use crate::until::LIMIT;

/// A Service with its Deployment.
#[derive(Debug, Clone)]
pub struct Server<'a> {
    /// Of both, and of the label `app` that the Service selects.
    pub service: &'a str,
    /// The Deployment's name, where a Service has several.
    pub name: &'a str,
    /// How many pods.
    pub replicas: u32,
    /// One container each: its name, its arguments, its port and the protocol that the Service declares for it.
    pub containers: &'a [Container<'a>],
}

/// A container of a [`Server`].
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// Of the container and of the Service's port.
    pub name: &'a str,
    /// The arguments of the test server.
    pub arguments: &'a [&'a str],
    /// Where it listens, and the Service's port.
    pub port: u16,
    /// `appProtocol`; empty: not declared.
    pub protocol: &'a str,
}

impl Server<'_> {
    /// One container that answers HTTP at 8080 (the Service: 8080).
    pub const HTTP: Container<'static> = Container {
        name: "http",
        arguments: &["serve", "0.0.0.0:8080", "2000"],
        port: 8080,
        protocol: "http",
    };

    /// One container that answers gRPC at 9000.
    pub const GRPC: Container<'static> = Container {
        name: "grpc",
        arguments: &["grpc", "0.0.0.0:9000"],
        port: 9000,
        protocol: "kubernetes.io/h2c",
    };

    /// As YAML.
    fn yaml(&self) -> String {
        let image = load_test_server();
        let (name, service, replicas) = (self.name, self.service, self.replicas);
        let mut ports = String::new();
        let mut containers = String::new();
        for Container { name, arguments, port, protocol } in self.containers {
            let declared =
                if protocol.is_empty() { String::new() } else { format!(", appProtocol: {protocol}") };
            ports += &format!("\n  - {{name: {name}, port: {port}{declared}}}");
            let arguments = serde_json::to_string(arguments).unwrap();
            containers += &format!(
                "
      - name: {name}
        image: {image}
        imagePullPolicy: IfNotPresent
        args: {arguments}
        readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}"
            );
        }
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {service}}}
spec:
  selector: {{app: {service}}}
  ports:{ports}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {service}, deployment: {name}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: {service}, deployment: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 20
      containers:{containers}
"
        )
    }
}

impl Cluster {
    /// Applies a server and waits until all its pods are ready.
    pub fn serve(&self, server: &Server<'_>) {
        self.apply(&server.yaml());
        self.rolled_out(server.name);
    }

    /// Waits until a Deployment has what it asks for.
    pub fn rolled_out(&self, deployment: &str) {
        let deployment = format!("deployment/{deployment}");
        self.kubectl(&["rollout", "status", &deployment, "--timeout=120s"], "")
            .unwrap_or_else(|error| panic!("{deployment}: {error}"));
    }

    /// The names of the pods with this label that do not end.
    pub fn pods(&self, app: &str) -> Vec<String> {
        let list = self.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", "json"], "").unwrap();
        let list: Value = serde_json::from_str(&list).unwrap();
        let lives = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let items = list["items"].as_array().into_iter().flatten().filter(lives);
        items.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether the sidecar of a pod has a stream to the operator.
    pub fn is_connected(&self, pod: &str) -> bool {
        let page = format!("/api/v1/namespaces/{}/pods/{pod}:15020/proxy/metrics", self.namespace);
        let page = self.kubectl(&["get", "--raw", &page], "");
        page.is_ok_and(|page| page.lines().any(|line| line == "fairlead_xds_connected 1"))
    }

    /// Reason and note of the events about an object.
    pub fn events(&self, name: &str) -> Vec<(String, String)> {
        let events = self.kubectl(&["get", "events.events.k8s.io", "-o", "json"], "").unwrap();
        let events: Value = serde_json::from_str(&events).unwrap();
        let of =
            events["items"].as_array().unwrap().iter().filter(|event| event["regarding"]["name"] == name);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        of.map(|event| (text(&event["reason"]), text(&event["note"]))).collect()
    }

    /// The names of a pod's init containers.
    pub fn init_containers(&self, pod: &str) -> Vec<String> {
        let pod = self.get("pod", pod);
        let init = pod["spec"]["initContainers"].as_array().into_iter().flatten();
        init.map(|container| container["name"].as_str().unwrap().to_owned()).collect()
    }

    /// A pod to call from, once it is ready.
    pub fn caller(&self, name: &str) -> Caller<'_> {
        let image = load_test_server();
        self.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - {{name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, args: [idle]}}
"
        ));
        self.wait(&format!("pod/{name}"), "condition=Ready");
        Caller { cluster: self, pod: name.to_owned() }
    }
}

/// A pod to call from.
#[derive(Debug)]
pub struct Caller<'c> {
    cluster: &'c Cluster,
    pod: String,
}

impl Caller<'_> {
    /// Runs the test server in the pod; its output, or its errors.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let exec = ["exec", self.pod.as_str(), "-c", "app", "--", "/server"];
        self.cluster.kubectl(&[&exec, arguments].concat(), "")
    }

    /// Makes `count` calls and says what came of them.
    pub fn calls(&self, url: &str, count: usize, flags: &[&str]) -> Value {
        let count = count.to_string();
        let said = self.run(&[&["load", url, "--count", &count, "--rate", "500"], flags].concat());
        let said = said.unwrap_or_else(|error| panic!("{url}: {error}"));
        serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{said}"))
    }

    /// Calls until it is told to stop.
    pub fn load(&self, url: &str, rate: u32) -> InPod {
        self.begin(&["load", url, "--rate", &rate.to_string()])
    }

    /// Runs the test server in the pod beside what else the test does.
    pub fn begin(&self, arguments: &[&str]) -> InPod {
        let mut child = Command::new("kubectl")
            .args([
                "-n",
                &self.cluster.namespace,
                "exec",
                "-i",
                self.pod.as_str(),
                "-c",
                "app",
                "--",
                "/server",
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("stdout is piped"));
        let (say, said) = channel();
        let reading = std::thread::spawn(move || {
            let mut last = String::new();
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(made) = line.strip_prefix("made ").and_then(|made| made.parse().ok()) {
                    let _ = say.send(made); // Who does not listen any more does not want it.
                }
                last = line;
            }
            last
        });
        InPod { child, input, made: 0, said, reading: Some(reading) }
    }
}

/// A load, or another command that goes on, in a pod. Dropped, it ends.
#[derive(Debug)]
pub struct InPod {
    child: Child,
    input: Option<ChildStdin>,
    made: u64,
    said: Receiver<u64>,
    reading: Option<JoinHandle<String>>,
}

impl InPod {
    /// Waits until so many more calls were made.
    pub fn goes_on(&mut self, calls: u64) {
        while let Ok(made) = self.said.try_recv() {
            self.made = made;
        }
        let wanted = self.made + calls;
        while self.made < wanted {
            self.made = self
                .said
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| panic!("the load stands still at {}", self.made));
        }
    }

    /// Lets every caller finish its call, and says what came of all.
    pub fn stop(mut self) -> Value {
        drop(self.input.take());
        let last = self.reading.take().expect("it is stopped once").join().unwrap();
        serde_json::from_str(&last).unwrap_or_else(|_| panic!("no summary: {last}"))
    }
}

impl Drop for InPod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
