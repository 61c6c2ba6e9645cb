//! Fairlead in the cluster as `helm install` leaves it: one installation, which all tests of a run share.
//!
//! ```text
//! Installed::get() --> images loaded on every node, chart installed or upgraded, operator ready
//!        .meshed() --> a namespace for one test whose pods get a sidecar
//! ```
//!
//! A test that changes the installation stands in `e2e/alone` and says so with [`Installed::changed`].

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::Value;

use crate::cluster::{Cluster, call, kubectl, load_image};
use crate::program;

/// Where the operator is.
pub const NAMESPACE: &str = "fairlead-system";
/// The operator's pods.
const SELECTOR: &str = "app.kubernetes.io/name=fairlead,app.kubernetes.io/component=operator";
/// The release's name.
pub const RELEASE: &str = "fairlead";

/// The installation.
#[derive(Debug)]
pub struct Installed(());

impl Installed {
    /// The one of this run, made when the first test asks for it.
    pub fn get() -> &'static Self {
        static DONE: OnceLock<Result<(), String>> = OnceLock::new();
        let done = DONE.get_or_init(|| {
            load_images();
            upgrade(&[])
        });
        if let Err(error) = done {
            panic!("{error}");
        }
        &Self(())
    }

    /// For a test that changes the installation: when the guard goes, also because the test failed, the
    /// installation is as it was.
    #[must_use]
    pub fn changed(&self) -> Changed {
        Changed(())
    }

    /// A namespace whose new pods get a sidecar.
    pub fn meshed(&self) -> Cluster {
        let cluster = Cluster::new();
        // The container that redirects a pod's calls needs NET_ADMIN.
        let labels = ["fairlead.dev/inject=enabled", "pod-security.kubernetes.io/enforce=privileged"];
        kubectl(&["label", "namespace", &cluster.namespace, labels[0], labels[1]], "").unwrap();
        cluster
    }

    /// `kubectl ARGUMENTS` in the operator's namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        kubectl(&[&["-n", NAMESPACE], arguments].concat(), "")
    }

    /// Has so many replicas of the operator run, and waits until that is so.
    pub fn scale(&self, replicas: u32) {
        let deployment = "deployment/fairlead-operator";
        self.kubectl(&["scale", deployment, &format!("--replicas={replicas}")]).unwrap();
        if replicas == 0 {
            self.kubectl(&["wait", "pods", "-l", SELECTOR, "--for=delete", "--timeout=60s"]).unwrap();
        } else {
            self.kubectl(&["rollout", "status", deployment, "--timeout=120s"]).unwrap();
        }
    }

    /// The names of the operator's pods that do not end.
    pub fn pods(&self) -> Vec<String> {
        let pods = self.kubectl(&["get", "pods", "-l", SELECTOR, "-o", "json"]).unwrap();
        let pods: Value = serde_json::from_str(&pods).unwrap();
        let lives = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let items = pods["items"].as_array().into_iter().flatten().filter(lives);
        items.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What one of the operator's pods answers at its port 15015: `/metrics`, `/readyz`.
    pub fn page(&self, pod: &str, path: &str) -> Result<String, String> {
        kubectl(
            &["get", "--raw", &format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:15015/proxy{path}")],
            "",
        )
    }
}

/// The installation is not what the tests share; it will be again when this is dropped.
#[derive(Debug)]
pub struct Changed(());

impl Drop for Changed {
    fn drop(&mut self) {
        if let Err(error) = upgrade(&[]) {
            assert!(std::thread::panicking(), "{error}");
            println!("the installation could not be restored: {error}");
        }
    }
}

/// Installs the chart, or upgrades what is installed, with the values of the tests and `more` flags
/// (`--set`, `webhook.failurePolicy=Ignore`), and waits until the operator is ready.
pub fn upgrade(more: &[&str]) -> Result<(), String> {
    let chart = chart();
    // An image of the same name with other content must restart the pods.
    let images = format!("operator.podAnnotations.images={}", images_digest());
    let values = [
        "image.operator.pullPolicy=Never",
        "image.proxy.pullPolicy=Never",
        "operator.resources.requests.cpu=20m",
        "operator.log=info\\,fairlead_operator=debug",
        &images,
    ];
    let mut arguments = vec!["upgrade", "--install", RELEASE, &chart, "-n", NAMESPACE, "--create-namespace"];
    arguments.extend(["--wait", "--timeout", "120s"]);
    for value in values {
        arguments.extend(["--set-string", value]);
    }
    arguments.extend(more);
    helm(&arguments).map(drop).map_err(|error| format!("{error}\n{}", trouble()))
}

/// `helm ARGUMENTS`: its output, or its errors.
pub fn helm(arguments: &[&str]) -> Result<String, String> {
    call("helm", arguments, "")
}

/// The chart's folder.
pub fn chart() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/fairlead").to_owned()
}

/// Loads the images of operator and proxy on every node.
fn load_images() {
    for name in ["operator", "proxy"] {
        let archive = images().join(format!("{name}.tar"));
        assert!(archive.exists(), "{} is missing: make image", archive.display());
        load_image(&archive);
    }
}

/// Loads the same images under another tag, as if they were the next version, and returns the tag.
pub fn load_next_images() -> String {
    let version = env!("CARGO_PKG_VERSION");
    // As long as the version: what the archive says of sizes stays true.
    let tag = "9".repeat(version.len());
    for name in ["operator", "proxy"] {
        let mut archive = fs::read(images().join(format!("{name}.tar"))).unwrap();
        let this = format!("\"localhost/fairlead-{name}:{version}\"");
        let next = format!("\"localhost/fairlead-{name}:{tag}\"");
        // The manifest stands last.
        let at = archive.windows(this.len()).rposition(|window| window == this.as_bytes()).unwrap();
        archive[at..at + next.len()].copy_from_slice(next.as_bytes());
        let file = images().join(format!("{name}-next.tar"));
        fs::write(&file, archive).unwrap();
        load_image(&file);
    }
    tag
}

/// Where `make image` puts them.
fn images() -> PathBuf {
    program::folder().parent().expect("target/debug lies in target").join("images")
}

fn images_digest() -> String {
    let stamp = |name: &str| fs::read_to_string(images().join(format!(".{name}.stamp"))).unwrap_or_default();
    ["operator", "proxy"].map(|name| stamp(name).chars().take(12).collect::<String>()).join("-")
}

/// What a person would look at first when the operator does not become ready.
fn trouble() -> String {
    let look = |arguments: &[&str]| kubectl(arguments, "").unwrap_or_else(|error| error);
    let log = ["logs", "-n", NAMESPACE, "deployment/fairlead-operator", "--tail=30", "--all-pods"];
    look(&["get", "pods,events", "-n", NAMESPACE]) + &look(&log)
}
