//! The Kubernetes cluster of the e2e tests, through `kubectl`.
//!
//! `make e2e` starts it (`tests/cluster`) and runs the test binary in its network. Each test works in a
//! namespace of its own, which ends with it.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::operator::Operator;
use crate::program;

/// A namespace of the cluster for one test.
#[derive(Debug)]
pub struct Cluster {
    /// Its name.
    pub namespace: String,
    /// Where the logs of the test's programs are.
    pub logs: PathBuf,
}

impl Cluster {
    /// Makes the namespace; fails when there is no cluster.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            std::env::var_os("KUBECONFIG").is_some(),
            "no cluster: run `make e2e`, or `make cluster-up` and tests/cluster/cluster run TEST"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("test-{}-{number}", std::process::id());
        let cluster = Self { namespace, logs: crate::program::logs() };
        kubectl(&["create", "namespace", &cluster.namespace], "").expect("a new namespace");
        cluster
    }

    /// Starts the operator on the cluster, as soon as no other test has one: two would write the same status.
    /// One that an earlier run left installed goes.
    pub async fn operator(&self) -> OnlyOperator {
        let turn = self.turn().await;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let flags = ["--namespace", &self.namespace];
        let operator = Operator::start_with(None, [any; 3], &flags, &self.logs).await;
        OnlyOperator { operator, _turn: turn }
    }

    /// The right to run operators that write statuses; others of this test run wait.
    pub async fn turn(&self) -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::const_new(());
        let turn = ONE.lock().await;
        install_crds();
        kubectl(
            &["delete", "deployment", "fairlead-operator", "-n", "fairlead-system", "--ignore-not-found"],
            "",
        )
        .unwrap_or_else(|error| panic!("{error}"));
        turn
    }

    /// Applies YAML in this namespace.
    pub fn apply(&self, yaml: &str) {
        self.kubectl(&["apply", "-f", "-"], yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    }

    /// `kubectl ARGUMENTS` in this namespace with `input`: its output, or its errors.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        kubectl(&[&["-n", &self.namespace], arguments].concat(), input)
    }

    /// An object as JSON.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        let text =
            self.kubectl(&["get", kind, name, "-o", "json"], "").unwrap_or_else(|error| panic!("{error}"));
        serde_json::from_str(&text).unwrap()
    }

    /// `kubectl wait`: for example `--for=condition=Programmed` of `serviceroute/reviews`.
    pub fn wait(&self, object: &str, condition: &str) {
        let condition = format!("--for={condition}");
        self.kubectl(&["wait", &condition, "--timeout=60s", object], "")
            .unwrap_or_else(|error| panic!("{object}: {condition}: {error}"));
    }
}

/// The operator, with the right to be the only one.
#[derive(Debug)]
pub struct OnlyOperator {
    operator: Operator,
    _turn: MutexGuard<'static, ()>,
}

impl std::ops::Deref for OnlyOperator {
    type Target = Operator;

    fn deref(&self) -> &Operator {
        &self.operator
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for arguments in [["get", "all"], ["get", "events"]] {
                println!("{}", self.kubectl(&arguments, "").unwrap_or_else(|error| error));
            }
        }
        let _ = kubectl(&["delete", "namespace", &self.namespace, "--wait=false"], "");
    }
}

/// Installs our CRDs, once a test run.
pub fn install_crds() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/generated");
        let folder = folder.display().to_string();
        kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &folder], "")
            .unwrap_or_else(|error| panic!("{error}"));
        // Helm takes over only what says that it is its own.
        kubectl(&["label", "--overwrite", "-f", &folder, "app.kubernetes.io/managed-by=Helm"], "")
            .unwrap_or_else(|error| panic!("{error}"));
        let release =
            ["meta.helm.sh/release-name=fairlead", "meta.helm.sh/release-namespace=fairlead-system"];
        kubectl(&["annotate", "--overwrite", "-f", &folder, release[0], release[1]], "")
            .unwrap_or_else(|error| panic!("{error}"));
        kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "-f", &folder], "")
            .unwrap_or_else(|error| panic!("{error}"));
    });
}

/// Builds the image of `fairlead-test-server` and loads it on every node; its name.
pub fn load_test_server() -> &'static str {
    const NAME: &str = "localhost/fairlead-test-server:1";
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let server = (program::path("fairlead-test-server"), "/server");
        build_image(NAME, "fairlead-test-server.tar", &[server], &["--entrypoint", "/server"]);
    });
    NAME
}

/// Builds an image of these files and the libraries that they load, and loads it on every node.
pub fn build_image(name: &str, archive: &str, content: &[(PathBuf, &str)], flags: &[&str]) {
    let archive = program::folder().join(archive);
    let content = content.iter().map(|(file, place)| format!("{}:{place}", file.display()));
    let mut build = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/image"));
    run(build.arg(name).arg(&archive).args(flags).arg("--with-libraries").args(content));
    load_image(&archive);
}

/// Loads an image archive on every node.
pub fn load_image(archive: &Path) {
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster");
    run(Command::new(cluster).arg("load").arg(archive));
}

/// An address of the node that the tests run on, which its pods and other nodes reach.
pub fn node_address() -> IpAddr {
    let path = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
    let addresses = kubectl(&["get", "nodes", "-o", path], "").unwrap_or_else(|error| panic!("{error}"));
    addresses.split(' ').next().and_then(|address| address.parse().ok()).expect("a node has an address")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `kubectl ARGUMENTS`, in no namespace: its output, or its errors.
pub fn kubectl(arguments: &[&str], input: &str) -> Result<String, String> {
    call("kubectl", arguments, input)
}

/// Any program of the cluster's PATH: its output, or its errors.
pub fn call(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(input.as_bytes())
        .map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
