//! The small system that the demo shows: instances and callers in this process, the operator and the
//! sidecars beside it, and the folder of YAML between them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use super::caller::{Caller, fine, page};
use super::instance::Instance;
use super::program::Program;

/// The port of every service of the demo.
const PORT: u16 = 9080;

/// The port of an application that has a sidecar in front of it.
const APPLICATION_PORT: u16 = 19080;

/// The network that examples/demo/ names; another is taken when somebody has it.
const NETWORK: &str = "127.77.0.";

/// The files that the operator starts with.
const FILES: [(&str, &str); 5] = [
    ("services.yaml", include_str!("../../../examples/demo/services.yaml")),
    ("reviews-endpoints.yaml", include_str!("../../../examples/demo/reviews-endpoints.yaml")),
    ("reviews-route.yaml", include_str!("../../../examples/demo/reviews-route.yaml")),
    ("reviews-outlier.yaml", include_str!("../../../examples/demo/reviews-outlier.yaml")),
    ("orders-limit.yaml", include_str!("../../../examples/demo/orders-limit.yaml")),
];

/// How often something that is about to happen is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Everything that runs.
#[derive(Debug)]
pub struct Stage {
    /// reviews-1, -2, -3.
    pub reviews: Vec<Instance>,
    /// The next version of reviews.
    pub next_version: Instance,
    /// The application behind the sidecar of orders.
    pub orders: Instance,
    /// An application that calls reviews through its sidecar.
    pub frontend: Caller,
    /// The same application, calling orders.
    pub buyer: Caller,
    /// Another application, with a sidecar of its own, that calls reviews.
    pub mobile: Caller,
    operator: Program,
    sidecars: Vec<Sidecar>,
    operator_admin: SocketAddr,
    network: u8,
    folder: TempDir,
}

#[derive(Debug)]
struct Sidecar {
    pod: &'static str,
    program: Program,
    admin: SocketAddr,
    /// What is worth reading there: the endpoints that it calls, or the limits that it enforces.
    page: &'static str,
}

impl Stage {
    /// Starts everything and waits until it is ready.
    pub async fn start() -> Result<Self> {
        // Goes at a good end only: whoever asks why something failed reads the logs in it.
        let folder = tempfile::Builder::new().prefix("fairlead-demo-").disable_cleanup(true).tempdir()?;
        let (source, logs) = (folder.path().join("source"), folder.path().join("logs"));
        fs::create_dir(&source)?;
        fs::create_dir(&logs)?;
        let network = free_network().context("every network 127.77.N.0 is in use")?;
        for (name, yaml) in FILES {
            fs::write(source.join(name), in_network(yaml, network))?;
        }

        let mut reviews = Vec::new();
        for number in 1..=3 {
            let name = format!("reviews-{number}");
            reviews.push(Instance::start(&name, host(network, 10 + number, PORT)).await?);
        }
        let next_version = Instance::start("reviews-v2", host(network, 21, PORT)).await?;
        let orders = Instance::start("orders-1", host(network, 31, APPLICATION_PORT)).await?;

        let arguments = ["--source", &source.display().to_string()].map(str::to_owned);
        let listen = ["--xds-listen", "--admin-listen", "--metrics-listen"].map(loopback).concat();
        let arguments = [arguments.to_vec(), listen].concat();
        let mut operator = Program::start("fairlead-operator", "operator", &logs, &arguments)?;
        let xds = operator.address("xds", "-").await?;
        let operator_admin = operator.address("admin", "-").await?;
        let operator_metrics = operator.address("metrics", "-").await?;
        until_fine(operator_metrics, "/readyz").await;

        let call = |service: &str| ["--upstream".to_owned(), format!("shop/{service}:{PORT}=127.0.0.1:0")];
        let serve = format!("{}={}", host(network, 31, PORT), orders.address);
        let mut front =
            sidecar("shop/frontend-0", xds, &logs, &[call("reviews"), call("orders")].concat()).await?;
        let mut mobile = sidecar("shop/mobile-0", xds, &logs, &call("reviews")).await?;
        let back = sidecar("shop/orders-0", xds, &logs, &["--inbound".to_owned(), serve]).await?;
        let reviews_name = format!("shop/reviews:{PORT}");
        Ok(Self {
            reviews,
            next_version,
            orders,
            frontend: Caller::new(front.program.address("upstream", &reviews_name).await?),
            buyer: Caller::new(front.program.address("upstream", &format!("shop/orders:{PORT}")).await?),
            mobile: Caller::new(mobile.program.address("upstream", &reviews_name).await?),
            operator,
            sidecars: vec![front, mobile, back],
            operator_admin,
            network,
            folder,
        })
    }

    /// What runs where.
    pub fn describe(&self) -> String {
        let folder = self.folder.path().join("source");
        let mut lines = format!("the YAML is in {}\n", folder.display());
        lines += &format!(
            "operator                   pid {:<7} http://{}/objects\n",
            self.operator.id(),
            self.operator_admin
        );
        for Sidecar { pod, program, admin, page } in &self.sidecars {
            lines += &format!("sidecar of {pod:<15} pid {:<7} http://{admin}{page}\n", program.id());
        }
        lines +=
            &format!("frontend calls reviews at {}, orders at {}", self.frontend.address, self.buyer.address);
        lines
    }

    /// What to try while it keeps running.
    pub fn invitation(&self) -> String {
        format!(
            "{}\ncurl {}/info is a call of the frontend; edit the YAML and call again.\nIt keeps running; Ctrl-C ends it.",
            self.describe(),
            self.frontend.address
        )
    }

    /// Where the programs' logs are.
    pub fn logs(&self) -> String {
        self.folder.path().join("logs").display().to_string()
    }

    /// The current text of a file of the source.
    pub fn read(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(self.file(file))?)
    }

    /// Writes a file of the source, whole, as an editor that saves does.
    pub fn write(&self, file: &str, yaml: &str) -> Result<()> {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, in_network(yaml, self.network))?;
        Ok(fs::rename(draft, self.file(file))?)
    }

    /// Removes a file of the source.
    pub fn remove(&self, file: &str) -> Result<()> {
        Ok(fs::remove_file(self.file(file))?)
    }

    /// Starts the fourth instance of reviews, which nobody lists yet; returns it with its address.
    pub async fn fourth(&mut self) -> Result<String> {
        let instance = Instance::start("reviews-4", host(self.network, 14, PORT)).await?;
        let address = instance.address.ip().to_string();
        self.reviews.push(instance);
        Ok(address)
    }

    /// An object with its status, as the operator tells it.
    pub async fn object(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let list = page(self.operator_admin, "/objects").await?;
        let items = list.get("items").and_then(Value::as_array).context("/objects is no List")?;
        let wanted = |object: &&Value| {
            object.get("kind").is_some_and(|one| one == kind)
                && object.pointer("/metadata/name").is_some_and(|one| one == name)
        };
        Ok(items.iter().find(wanted).cloned())
    }

    /// Waits until every sidecar that the object concerns runs it as it is now; `acked n/n`.
    pub async fn programmed(&self, kind: &str, name: &str) -> Result<String> {
        loop {
            let object = self.object(kind, name).await?.with_context(|| format!("no {kind} {name}"))?;
            let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64);
            let (acked, subscribed) = (number("/status/rollout/acked"), number("/status/rollout/subscribed"));
            let current = number("/status/rollout/generation") == number("/metadata/generation");
            if let (Some(acked), Some(subscribed)) = (acked, subscribed)
                && current
                && subscribed > 0
                && acked == subscribed
            {
                return Ok(format!("acked {acked}/{subscribed}"));
            }
            sleep(LOOK).await;
        }
    }

    /// Ends the programs, and keeps the folder with their logs if `clean` is false.
    pub async fn end(mut self, clean: bool) {
        for sidecar in &mut self.sidecars {
            sidecar.program.end().await;
        }
        self.operator.end().await;
        self.folder.disable_cleanup(!clean);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("source").join(name)
    }
}

async fn sidecar(
    pod: &'static str,
    xds: SocketAddr,
    logs: &std::path::Path,
    carries: &[String],
) -> Result<Sidecar> {
    let own = ["--operator".to_owned(), format!("http://{xds}"), "--pod".to_owned(), pod.to_owned()];
    let workers = ["--workers", "1"].map(str::to_owned);
    let listen = ["--admin-listen", "--metrics-listen", "--ready-listen"].map(loopback).concat();
    let arguments = [&own, &workers[..], carries, &listen].concat();
    let mut program = Program::start("fairlead-proxy", &pod.replace('/', "-"), logs, &arguments)?;
    let admin = program.address("admin", "-").await?;
    let ready = program.address("ready", "-").await?;
    until_fine(ready, "/ready").await;
    let page = if carries.iter().any(|flag| flag == "--upstream") { "/clusters" } else { "/config" };
    Ok(Sidecar { pod, program, admin, page })
}

async fn until_fine(address: SocketAddr, path: &str) {
    while !fine(address, path).await {
        sleep(LOOK).await;
    }
}

fn loopback(flag: &str) -> Vec<String> {
    vec![flag.to_owned(), "127.0.0.1:0".to_owned()]
}

fn host(network: u8, number: u8, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 77, network, number), port))
}

fn in_network(yaml: &str, network: u8) -> String {
    yaml.replace(NETWORK, &format!("127.77.{network}."))
}

/// The first network in which nobody listens where the first instance wants to.
fn free_network() -> Option<u8> {
    (0..=255).find(|network| TcpListener::bind(host(*network, 11, PORT)).is_ok())
}
