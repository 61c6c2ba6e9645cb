//! A program under test: started from the test's own target folder, its words read, ended with the test.
//!
//! ```text
//! start --> (lines "listening KIND NAME ADDR" -> addresses) --> kill | terminate + wait | drop = kill
//!            output, errors -> LOGS/name.log
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::until::eventually;

/// How long a program may take to say where it listens: an unoptimised operator that first reads 10,000
/// Services takes some seconds, and many more on a machine that is busy otherwise.
const START: Duration = Duration::from_secs(60);

/// A running program. Dropped, it is killed; when the test fails, the end of its log is printed.
#[derive(Debug)]
pub struct Program {
    /// What the test calls it; the name of its log.
    pub name: String,
    /// Where its output and its errors are.
    pub log: PathBuf,
    child: Child,
    said: watch::Receiver<Vec<Listening>>,
}

/// One line `listening KIND NAME ADDR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// `xds`, `admin`, `metrics`, `ready`, `upstream`, `inbound`.
    pub kind: String,
    /// `shop/reviews:9080`, `-`.
    pub name: String,
    /// Where it really listens.
    pub address: SocketAddr,
}

impl Program {
    /// Starts `binary` (`fairlead-operator`) with `arguments`; its log goes to `logs`.
    pub fn start(binary: &str, name: &str, logs: &Path, arguments: &[String]) -> Self {
        Self::start_file(&path(binary), name, logs, arguments)
    }

    /// Starts any program of this machine, such as Envoy.
    pub fn start_file(file: &Path, name: &str, logs: &Path, arguments: &[String]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let log = logs.join(format!("{name}.{}.log", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let mut file_log = fs::File::create(&log).unwrap();
        writeln!(file_log, "$ {} {}", file.display(), arguments.join(" ")).unwrap();
        println!("log of {name}: {}", log.display());

        // The kernel kills it when the thread that started it ends, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(file).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file_log.try_clone().unwrap());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", file.display()));
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (say, said) = watch::channel(Vec::new());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = writeln!(file_log, "{line}");
                if let Some(listening) = Listening::parse(&line) {
                    say.send_modify(|all| all.push(listening));
                }
            }
        });
        Self { name: name.to_owned(), log, child, said }
    }

    /// The address behind `listening KIND NAME`, as soon as it was said.
    pub async fn address(&self, kind: &str, name: &str) -> SocketAddr {
        let mut said = self.said.clone();
        let find = |all: &Vec<Listening>| all.iter().any(|one| one.kind == kind && one.name == name);
        let heard = tokio::time::timeout(START, said.wait_for(find)).await;
        match heard {
            Ok(Ok(all)) => {
                all.iter().find(|one| one.kind == kind && one.name == name).expect("was found").address
            }
            Ok(Err(_)) => {
                panic!("{} ended before it said \"listening {kind} {name}\":\n{}", self.name, self.tail())
            }
            Err(_) => panic!("{} did not say \"listening {kind} {name}\":\n{}", self.name, self.tail()),
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that was ever resident, in KiB.
    pub fn most_resident_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).expect("a live process has it");
        line.split_whitespace().nth(1).expect("it has a value").parse().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).expect("a pid fits");
        let _ = kill_process(Pid::from_raw(id).expect("a pid is not 0"), signal);
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("{name} ends"), || std::future::ready(self.child.try_wait().unwrap())).await.0
    }

    /// SIGTERM, then waits for its end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// The whole log so far.
    pub fn read_log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let log = self.read_log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("---- end of {}\n{}\n----", self.log.display(), self.tail());
        }
    }
}

impl Listening {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("listening ")?.split(' ');
        let (kind, name, address) = (words.next()?, words.next()?, words.next()?);
        Some(Self { kind: kind.to_owned(), name: name.to_owned(), address: address.parse().ok()? })
    }
}

/// The folder of this test's programs: `target/debug`.
pub fn folder() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let folder = this.parent().expect("a program lies in a folder");
    // A test lies in target/PROFILE/deps, other programs in target/PROFILE.
    if folder.ends_with("deps") {
        folder.parent().expect("deps lies in PROFILE").to_owned()
    } else {
        folder.to_owned()
    }
}

/// The program's file, which must be there and not older than the sources that it was built from.
pub fn path(binary: &str) -> PathBuf {
    let file = folder().join(binary);
    let build = "build it first: `make test`, or `cargo build --workspace`";
    let Ok(built) = fs::metadata(&file).and_then(|metadata| metadata.modified()) else {
        panic!("{} is missing: {build}", file.display());
    };
    // Cargo writes beside each program the sources that went into it.
    let list = file.with_extension("d");
    let sources =
        fs::read_to_string(&list).unwrap_or_else(|error| panic!("{}: {error}: {build}", list.display()));
    for source in sources.split_whitespace().skip(1) {
        let changed = fs::metadata(source).and_then(|metadata| metadata.modified());
        assert!(
            changed.is_ok_and(|changed| changed <= built),
            "{} is older than {source}: {build}",
            file.display()
        );
    }
    file
}

/// A folder for the logs of the current test, emptied: `target/debug/logs/TEST`.
pub fn logs() -> PathBuf {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed").replace("::", ".");
    let logs = folder().join("logs").join(test);
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).unwrap();
    logs
}

/// Says a figure to whoever runs the tests, also when the test passes (what it prints is kept for failures).
pub fn measured(what: &str) {
    let _ = writeln!(std::io::stderr(), "measured: {what}");
}

/// The Python of `make setup`'s environment, which has gRPC and the packages of tests/requirements.txt.
pub fn python() -> PathBuf {
    let python = std::env::var_os("FAIRLEAD_PYTHON").map(PathBuf::from);
    python
        .filter(|file| file.exists())
        .expect("FAIRLEAD_PYTHON names the Python of `make setup`: run `make test`")
}

/// The Envoy program of the same environment.
pub fn envoy() -> PathBuf {
    let find = "import envoy, pathlib; print(pathlib.Path(envoy.__path__[0]))";
    let output = Command::new(python()).args(["-c", find]).output().unwrap();
    let folder = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    let file = folder.join("_bin").join("envoy");
    assert!(file.exists(), "no Envoy in {}", folder.display());
    file
}
