//! One of our programs as a child process: found beside this one, its addresses read from its output.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// How long a program may take to listen; it takes milliseconds.
const START_LIMIT: Duration = Duration::from_secs(15);

/// A running program; it is killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    log: PathBuf,
    child: Child,
    /// Kept open: a program whose output nobody can read would end at its next word.
    output: Lines<BufReader<ChildStdout>>,
    addresses: Vec<(String, String, SocketAddr)>,
}

impl Program {
    /// Starts `program` with `arguments`; what it says beside its addresses is in `LOGS/NAME.log`.
    pub fn start(program: &str, name: &str, logs: &Path, arguments: &[String]) -> Result<Self> {
        let own = std::env::current_exe().context("where am I?")?;
        let file = own.with_file_name(program);
        if !file.exists() {
            bail!("{} is missing: cargo build --workspace (or make demo) builds it", file.display());
        }
        let log = logs.join(format!("{name}.log"));
        let errors = File::create(&log)?;
        let mut command = Command::new(&file);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", file.display()))?;
        let output = child.stdout.take().context("no output")?;
        let output = BufReader::new(output).lines();
        Ok(Self { name: name.to_owned(), log, child, output, addresses: Vec::new() })
    }

    /// The address of `listening KIND NAME ADDR`, as soon as it is said.
    pub async fn address(&mut self, kind: &str, name: &str) -> Result<SocketAddr> {
        let wanted =
            |(one_kind, one_name, _): &&(String, String, SocketAddr)| one_kind == kind && one_name == name;
        loop {
            if let Some((.., address)) = self.addresses.iter().find(wanted) {
                return Ok(*address);
            }
            let line = timeout(START_LIMIT, self.output.next_line()).await;
            let Ok(Ok(Some(line))) = line else {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("{} did not say \"listening {kind} {name}\"; it said:\n{log}", self.name);
            };
            let words: Vec<_> = line.split(' ').collect();
            if let ["listening", kind, name, address] = words.as_slice() {
                self.addresses.push(((*kind).to_owned(), (*name).to_owned(), address.parse()?));
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Ends it.
    pub async fn end(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill().await;
    }
}
