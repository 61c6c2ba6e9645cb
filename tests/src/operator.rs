//! The operator as a test runs it.

use std::net::SocketAddr;
use std::path::Path;

use crate::program::Program;
use crate::until::answers;

/// A running operator.
#[derive(Debug)]
pub struct Operator {
    /// The program.
    pub program: Program,
    /// Where sidecars connect.
    pub xds: SocketAddr,
    /// `/objects`, `/clients`, `/snapshot`.
    pub admin: SocketAddr,
    /// `/healthz`, `/readyz`, `/metrics`.
    pub metrics: SocketAddr,
}

impl Operator {
    /// Starts it on a folder, or on the cluster of KUBECONFIG, with its xDS, admin and metrics addresses, and
    /// waits until it is ready.
    pub async fn start(source: Option<&Path>, listen: [SocketAddr; 3], logs: &Path) -> Self {
        Self::start_with(source, listen, &[], logs).await
    }

    /// The same with more flags.
    pub async fn start_with(
        source: Option<&Path>,
        [xds, admin, metrics]: [SocketAddr; 3],
        more: &[&str],
        logs: &Path,
    ) -> Self {
        let mut arguments = Vec::new();
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        if let Some(source) = source {
            add("--source", source.display().to_string());
        }
        // Sidecars of these tests are programs beside it, not pods: they have no tokens.
        if !more.contains(&"--identity") {
            add("--identity", "none".to_owned());
        }
        add("--xds-listen", xds.to_string());
        add("--admin-listen", admin.to_string());
        add("--metrics-listen", metrics.to_string());
        arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
        let program = Program::start("fairlead-operator", "operator", logs, &arguments);
        let xds = program.address("xds", "-").await;
        let admin = program.address("admin", "-").await;
        let metrics = program.address("metrics", "-").await;
        answers("the operator is ready", metrics, "/readyz").await;
        Self { program, xds, admin, metrics }
    }
}
