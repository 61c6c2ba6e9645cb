//! gRPC's own client (C-core, through Python), which resolves `xds:///` names by itself: its only
//! configuration is where the operator is.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::program;

/// The program, beside this file.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/grpc_calls.py");

/// A running client.
#[derive(Debug)]
pub struct Grpc {
    /// Where its own words are.
    pub log: PathBuf,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Grpc {
    /// Starts it as node `shop/grpc` of this operator; bootstrap file and log go to these folders.
    pub fn start(operator: SocketAddr, folder: &Path, logs: &Path) -> Self {
        let bootstrap = json!({
            "xds_servers": [{
                "server_uri": operator.to_string(),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": "shop/grpc", "cluster": "shop"},
        });
        let (file, log) = (folder.join("grpc.json"), logs.join("grpc.log"));
        fs::write(&file, bootstrap.to_string()).unwrap();
        println!("log of grpc: {}", log.display());
        // The kernel kills it when the thread that started it ends, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program::python()).arg(PROGRAM);
        command.env("GRPC_XDS_BOOTSTRAP", file);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Self { log, input: child.stdin.take().expect("stdin is piped"), output, _child: child }
    }

    /// Makes unary calls to `reviews.shop.svc.cluster.local:9080`, one after the other; who answered each, or
    /// the status of one that failed.
    pub async fn call(&mut self, target: &str, calls: usize, metadata: &[(&str, &str)]) -> Vec<String> {
        let metadata: BTreeMap<_, _> = metadata.iter().copied().collect();
        let asked = json!({"target": target, "calls": calls, "metadata": metadata});
        self.input.write_all(format!("{asked}\n").as_bytes()).await.unwrap();
        let line = self.output.next_line().await.unwrap();
        let line = line.unwrap_or_else(|| panic!("it ended:\n{}", fs::read_to_string(&self.log).unwrap()));
        serde_json::from_str(&line).unwrap()
    }
}
