//! A sidecar as a test runs it.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::client;
use crate::program::{self, Program};
use crate::until::answers;

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// The program.
    pub program: Program,
    /// `/config`, `/clusters`, `/drain`.
    pub admin: SocketAddr,
    /// `/metrics`.
    pub metrics: SocketAddr,
    /// `/ready`.
    pub ready: SocketAddr,
}

/// How a sidecar is started.
#[derive(Debug, Clone)]
pub struct SidecarFlags {
    /// `shop/frontend`.
    pub pod: String,
    /// Services that it listens for, each on a port of the system's choice.
    pub upstreams: Vec<String>,
    /// Endpoint address and the application behind it.
    pub inbounds: Vec<(SocketAddr, SocketAddr)>,
    /// Worker threads.
    pub workers: u32,
    /// The xDS server; none: the world's operator.
    pub operator: Option<SocketAddr>,
    /// Files that it may have open; none: as many as the test.
    pub files: Option<u64>,
    /// More flags.
    pub more: Vec<String>,
}

impl SidecarFlags {
    /// A sidecar of `pod` that calls these.
    pub fn calling(pod: &str, upstreams: &[&str]) -> Self {
        Self {
            pod: pod.to_owned(),
            upstreams: upstreams.iter().map(ToString::to_string).collect(),
            inbounds: Vec::new(),
            workers: 1,
            operator: None,
            files: None,
            more: Vec::new(),
        }
    }

    /// A sidecar of `pod` that takes calls at `listen` for the application at `application`.
    pub fn serving(pod: &str, listen: SocketAddr, application: SocketAddr) -> Self {
        Self { inbounds: vec![(listen, application)], ..Self::calling(pod, &[]) }
    }

    /// That may have so many files open.
    pub fn files(mut self, files: u64) -> Self {
        self.files = Some(files);
        self
    }

    /// With so many worker threads.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }
}

impl Sidecar {
    /// Starts one and waits until all that it listens for is in force.
    pub async fn start(flags: &SidecarFlags, operator: SocketAddr, logs: &Path) -> Self {
        let sidecar = Self::start_unready(flags, operator, logs).await;
        answers("the sidecar is ready", sidecar.ready, "/ready").await;
        sidecar
    }

    /// Starts one and waits only until it listens.
    pub async fn start_unready(flags: &SidecarFlags, operator: SocketAddr, logs: &Path) -> Self {
        let mut arguments = vec!["--operator".to_owned(), format!("http://{operator}")];
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        add("--pod", flags.pod.clone());
        add("--workers", flags.workers.to_string());
        for upstream in &flags.upstreams {
            add("--upstream", format!("{upstream}=127.0.0.1:0"));
        }
        for (listen, application) in &flags.inbounds {
            add("--inbound", format!("{listen}={application}"));
        }
        for listen in ["--admin-listen", "--metrics-listen", "--ready-listen"] {
            add(listen, "127.0.0.1:0".to_owned());
        }
        arguments.extend(flags.more.clone());
        let mut command = program::path("fairlead-proxy");
        if let Some(files) = flags.files {
            let binary = command.display().to_string();
            arguments.splice(..0, [format!("--nofile={files}:{files}"), "--".to_owned(), binary]);
            command = "prlimit".into(); // Becomes the program.
        }
        let program = Program::start_file(&command, &flags.pod.replace('/', "-"), logs, &arguments);
        let admin = program.address("admin", "-").await;
        let metrics = program.address("metrics", "-").await;
        let ready = program.address("ready", "-").await;
        Self { program, admin, metrics, ready }
    }

    /// Where it takes calls to `shop/reviews:9080`.
    pub async fn upstream(&self, service: &str) -> SocketAddr {
        self.program.address("upstream", service).await
    }

    /// A page of its admin port, as JSON.
    pub async fn page(&self, path: &str) -> Value {
        client::get(self.admin, path).await.unwrap().json()
    }

    /// A line of `/metrics`, by the text that it begins with.
    pub async fn metric(&self, start: &str) -> Option<f64> {
        let text = client::get(self.metrics, "/metrics").await.unwrap().text();
        text.lines().find(|line| line.starts_with(start))?.rsplit(' ').next()?.parse().ok()
    }
}
