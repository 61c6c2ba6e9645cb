//! The flags of a sidecar in a pod, whose traffic is redirected to it.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;

use super::Refused;

/// What kubelet asks a gRPC service for.
const GRPC_PROBE: &str = "/grpc.health.v1.Health/Check";

/// As typed.
#[derive(Debug, Args)]
pub struct CaptureFlags {
    /// Carry the traffic that `fairlead-proxy redirect` sends here: calls of this pod (port 15001) and to it (15006)
    #[arg(long, env = "FAIRLEAD_CAPTURE", requires = "pod_ips")]
    pub capture: bool,
    /// The pod's addresses, at which its Services list it; may be repeated
    #[arg(long, env = "FAIRLEAD_POD_IPS", value_name = "IP", value_delimiter = ',', requires = "capture")]
    pub pod_ips: Vec<IpAddr>,
    /// What kubelet asks of the application, free of limits and of draining: 8080/healthz, or 9000 for gRPC; may be repeated
    #[arg(
        long,
        env = "FAIRLEAD_PROBES",
        value_name = "PORT/PATH|PORT",
        value_delimiter = ',',
        requires = "capture"
    )]
    pub probes: Vec<Probe>,
}

/// What was meant.
#[derive(Debug, Clone)]
pub struct Capture {
    /// Of the pod, at least one.
    pub pod_ips: Vec<IpAddr>,
    /// Requests that are answered as without us.
    pub probes: Arc<[Probe]>,
}

/// A probe that the pod declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The application's port.
    pub port: u16,
    /// Without its query.
    pub path: String,
}

impl CaptureFlags {
    /// None: nothing is redirected.
    pub(super) fn check(self) -> Result<Option<Capture>, Refused> {
        if !self.capture {
            return Ok(None);
        }
        for ip in &self.pod_ips {
            if ip.is_loopback() || ip.is_unspecified() {
                return Err(Refused(format!("--pod-ips {ip}: write the pod's own address, status.podIPs")));
            }
        }
        Ok(Some(Capture { pod_ips: self.pod_ips, probes: self.probes.into() }))
    }
}

impl Probe {
    /// Whether a request for `path` at `port` is this probe.
    pub fn is(&self, port: u16, path: &str) -> bool {
        self.port == port && self.path == path
    }
}

impl FromStr for Probe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, path) = match text.find('/') {
            Some(slash) => text.split_at(slash),
            None => (text, GRPC_PROBE),
        };
        let Some(port) = port.parse().ok().filter(|port| *port > 0) else {
            return Err(format!(
                "`{port}` is not a port (1 to 65535); write PORT/PATH, for example 8080/healthz, or PORT alone for gRPC and TCP"
            ));
        };
        let path = path.split('?').next().unwrap_or(path);
        // A comma would end the item.
        Ok(Self { port, path: path.replace("%2C", ",") })
    }
}
