//! What was typed, and what it means: [`Flags`] become [`Options`] before a port is bound.
//!
//! Every flag can be given in the environment; lists are separated by commas there. What makes no sense is
//! refused with what to write instead.

mod capture;
pub mod operator;
pub mod redirect;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};

pub use self::capture::{Capture, CaptureFlags, Probe};
use self::operator::{Operator, OperatorFlags};

/// For what is in flight after SIGTERM.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// The same in a pod: a native sidecar hears SIGTERM when the application's containers have ended, so that nobody
/// is left to wait for but callers of what has gone.
const SHUTDOWN_IN_A_POD: Duration = Duration::from_secs(2);

/// What the program is asked to do. Without a subcommand it carries calls.
#[derive(Debug)]
pub enum Task {
    /// To be the proxy.
    Run(Box<Flags>),
    /// To redirect the pod's traffic.
    Redirect(redirect::Options),
    /// To tell the proxy beside it to drain.
    Drain(Drain),
}

impl Task {
    /// Takes the words of a command line, the program's name first.
    pub fn try_parse_from<I, T>(words: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let command = Flags::command()
            .subcommand(redirect::Options::command().name("redirect"))
            .subcommand(Drain::command().name("drain"))
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true)
            .disable_help_subcommand(true);
        let matches = command.try_get_matches_from(words)?;
        match matches.subcommand() {
            Some(("redirect", words)) => {
                Ok(Self::Redirect(redirect::Options::from_arg_matches(words)?.sorted()))
            }
            Some((_, words)) => Ok(Self::Drain(Drain::from_arg_matches(words)?)),
            None => Ok(Self::Run(Box::new(Flags::from_arg_matches(&matches)?))),
        }
    }
}

/// Tells the proxy beside it to drain, and returns at once: for a preStop hook.
#[derive(Debug, Parser)]
#[command(name = "fairlead-proxy drain", version)]
pub struct Drain {
    /// Where the proxy's admin page is
    #[arg(long, env = "FAIRLEAD_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:15000", value_parser = admin)]
    pub admin_listen: SocketAddr,
}

/// Fairlead's sidecar: carries the calls of one workload, and the calls to it.
#[derive(Debug, Parser)]
#[command(name = "fairlead-proxy", version, about, long_about = None)]
pub struct Flags {
    /// Where the operator is.
    #[command(flatten)]
    pub operator: OperatorFlags,
    /// Who this is: NAMESPACE/NAME
    #[arg(long, env = "FAIRLEAD_POD", value_name = "NAMESPACE/NAME", value_parser = pod)]
    pub pod: String,
    /// Threads that carry calls; the default is one for each CPU. A caller's connection, HTTP/2 with all its streams, stays
    /// with the thread that the kernel gave it to
    #[arg(long, env = "FAIRLEAD_WORKERS", value_name = "N", value_parser = workers)]
    pub workers: Option<usize>,
    /// What arrives at LISTEN_ADDR is a call to this Service port; may be repeated
    #[arg(
        long,
        env = "FAIRLEAD_UPSTREAM",
        value_name = "NAMESPACE/SERVICE:PORT=LISTEN_ADDR",
        value_delimiter = ','
    )]
    pub upstream: Vec<Upstream>,
    /// What arrives at LISTEN_ADDR, an endpoint's address, goes to the application at APP_ADDR; may be repeated
    #[arg(long, env = "FAIRLEAD_INBOUND", value_name = "LISTEN_ADDR=APP_ADDR", value_delimiter = ',')]
    pub inbound: Vec<Inbound>,
    /// Where /config, /clusters and /drain are served; loopback only, for nobody is asked for a password
    #[arg(long, env = "FAIRLEAD_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:15000", value_parser = admin)]
    pub admin_listen: SocketAddr,
    /// Where /metrics is served
    #[arg(long, env = "FAIRLEAD_METRICS_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:15020", value_parser = address)]
    pub metrics_listen: SocketAddr,
    /// Where /ready is served
    #[arg(long, env = "FAIRLEAD_READY_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:15021", value_parser = address)]
    pub ready_listen: SocketAddr,
    /// Where each request leaves a line of JSON: stderr, or a file that is appended to; off unless set
    #[arg(long, env = "FAIRLEAD_ACCESS_LOG", value_name = "stderr|FILE")]
    pub access_log: Option<PathBuf>,
    /// What is logged on stderr: error, warn, info, debug, trace, or a filter such as info,fairlead_proxy::xds=debug
    #[arg(long, env = "FAIRLEAD_LOG", value_name = "LEVEL", default_value = "info", value_parser = log_filter)]
    pub log: String,
    /// How long requests in flight may take to end after SIGTERM: 500ms, 10s, 1m; the default is 10s, and 2s with --capture, where the application has ended before
    #[arg(long, env = "FAIRLEAD_SHUTDOWN_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub shutdown_timeout: Option<Duration>,
    /// In a pod.
    #[command(flatten)]
    pub pod_traffic: CaptureFlags,
}

/// One `--upstream`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `shop/reviews:9080`.
    pub service: Arc<str>,
    /// Where its callers come.
    pub listen: SocketAddr,
}

/// One `--inbound`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// As given: what is printed.
    pub name: Arc<str>,
    /// Where callers come.
    pub listen: SocketAddr,
    /// The application.
    pub application: SocketAddr,
}

/// What was meant.
#[derive(Debug, Clone)]
pub struct Options {
    /// The xDS server.
    pub operator: Operator,
    /// `shop/frontend-1`.
    pub pod: String,
    /// Threads that carry calls, at least one.
    pub workers: usize,
    /// At least one of these or of `inbound`, unless traffic is captured.
    pub upstreams: Vec<Upstream>,
    /// Endpoints of this workload.
    pub inbounds: Vec<Inbound>,
    /// `/config`, `/clusters`, `/drain`.
    pub admin: SocketAddr,
    /// `/metrics`.
    pub metrics: SocketAddr,
    /// `/ready`.
    pub ready: SocketAddr,
    /// None: no access log.
    pub access_log: Option<AccessLogTo>,
    /// For `tracing_subscriber`.
    pub log: String,
    /// For what is in flight after SIGTERM.
    pub shutdown_timeout: Duration,
    /// None: standalone.
    pub capture: Option<Capture>,
}

/// Where the access log goes. Not to standard output, whose lines others read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTo {
    /// Beside the log.
    Stderr,
    /// Appended.
    File(PathBuf),
}

/// A flag that makes no sense, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Flags {
    /// Checks what no flag can say by itself.
    pub fn check(self) -> Result<Options, Refused> {
        let capture = self.pod_traffic.check()?;
        if self.upstream.is_empty() && self.inbound.is_empty() && capture.is_none() {
            return Err(Refused(
                "nothing to do: give at least one --upstream NAMESPACE/SERVICE:PORT=LISTEN_ADDR, one --inbound LISTEN_ADDR=APP_ADDR, or in a pod --capture".into(),
            ));
        }
        let fixed = [
            ("--admin-listen", self.admin_listen),
            ("--metrics-listen", self.metrics_listen),
            ("--ready-listen", self.ready_listen),
        ];
        let upstreams = self.upstream.iter().map(|one| ("--upstream", one.listen));
        let inbounds = self.inbound.iter().map(|one| ("--inbound", one.listen));
        let mut taken: BTreeMap<SocketAddr, &str> = BTreeMap::new();
        for (flag, address) in fixed.into_iter().chain(upstreams).chain(inbounds) {
            if address.port() == 0 {
                continue;
            }
            if let Some(other) = taken.insert(address, flag) {
                return Err(Refused(format!(
                    "{other} and {flag} both want to listen at {address}; give one of them another port, or port 0 for a free one"
                )));
            }
        }
        for one in &self.inbound {
            if one.listen == one.application {
                return Err(Refused(format!(
                    "--inbound {}: the application would be the proxy itself; let it listen at another port, for example {}={}:{}",
                    one.name,
                    one.listen,
                    one.listen.ip(),
                    one.listen.port().wrapping_add(1).max(1024)
                )));
            }
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Options {
            operator: self.operator.check().map_err(Refused)?,
            pod: self.pod,
            workers: self.workers.unwrap_or(cpus),
            upstreams: self.upstream,
            inbounds: self.inbound,
            admin: self.admin_listen,
            metrics: self.metrics_listen,
            ready: self.ready_listen,
            access_log: self.access_log.map(|to| match to.to_str() {
                Some("stderr") => AccessLogTo::Stderr,
                _ => AccessLogTo::File(to),
            }),
            log: self.log,
            shutdown_timeout: self.shutdown_timeout.unwrap_or(if capture.is_some() {
                SHUTDOWN_IN_A_POD
            } else {
                SHUTDOWN
            }),
            capture,
        })
    }
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write NAMESPACE/SERVICE:PORT=LISTEN_ADDR, for example shop/reviews:9080=127.0.0.1:9080";
        let Some((service, listen)) = text.split_once('=') else {
            return Err(format!("there is no `=`; {form}"));
        };
        let Some((name, port)) = service.rsplit_once(':') else {
            return Err(format!("the Service port is missing; {form}"));
        };
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(format!("`{port}` is not the number of a Service port (1 to 65535); {form}"));
        }
        match name.split_once('/') {
            Some((namespace, service)) if is_label(namespace) && is_label(service) => {}
            _ => return Err(format!("`{name}` is not NAMESPACE/SERVICE; {form}")),
        }
        Ok(Self { service: Arc::from(service), listen: address(listen)? })
    }
}

impl FromStr for Inbound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write LISTEN_ADDR=APP_ADDR, for example 127.0.0.1:9081=127.0.0.1:8081";
        let Some((listen, application)) = text.split_once('=') else {
            return Err(format!("there is no `=`; {form}"));
        };
        let (name, listen, application) = (Arc::from(listen), address(listen)?, address(application)?);
        if application.port() == 0 {
            return Err(format!("the application's port is 0: give the port that it listens at; {form}"));
        }
        Ok(Self { name, listen, application })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.service, self.listen)
    }
}

/// A DNS label, as Kubernetes has it.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn pod(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_label(name) => Ok(text.to_owned()),
        _ => Err("write NAMESPACE/NAME in lower case, for example shop/frontend-1".into()),
    }
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1024) => Ok(count),
        _ => Err("write how many threads carry calls, 1 to 1024".into()),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let example = match text.rsplit_once(':') {
            Some(("", port) | ("localhost", port)) => format!("127.0.0.1:{port}"),
            _ => "127.0.0.1:9080 or [::1]:9080".into(),
        };
        format!("`{text}` is not IP:PORT; write for example {example} (port 0: any free one)")
    })
}

fn admin(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "the admin page asks nobody for a password, so it is for loopback only; write 127.0.0.1:{}",
            address.port()
        ));
    }
    Ok(address)
}

fn log_filter(text: &str) -> Result<String, String> {
    match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        _ => {
            Err("write error, warn, info, debug or trace, or a filter such as info,fairlead_proxy::xds=debug"
                .into())
        }
    }
}

/// `500ms`, `10s`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "ms" => Some(Duration::from_millis(1)),
        "s" => Some(Duration::from_secs(1)),
        "m" => Some(Duration::from_secs(60)),
        _ => None,
    };
    match (number.parse::<u32>(), unit) {
        (Ok(number), Some(unit)) => Ok(unit * number),
        _ => Err(format!("`{text}` is not a duration; write a number with a unit, such as 500ms, 10s or 1m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Options, String> {
        let basic = ["fairlead-proxy", "--operator", "http://127.0.0.1:15010", "--pod", "shop/web-1"];
        let flags = Flags::try_parse_from(basic.iter().chain(more)).map_err(|error| error.to_string())?;
        flags.check().map_err(|refused| refused.to_string())
    }

    #[test]
    fn what_is_typed_is_meant() {
        let options = parse(&[
            "--workers",
            "3",
            "--upstream",
            "shop/reviews:9080=127.0.0.1:9080",
            "--upstream",
            "shop/b:1=127.0.0.1:0",
            "--inbound",
            "127.0.0.1:0=127.0.0.1:8081",
            "--access-log",
            "stderr",
            "--shutdown-timeout",
            "500ms",
        ])
        .unwrap();
        assert_eq!(options.workers, 3);
        assert_eq!(options.upstreams[0].to_string(), "shop/reviews:9080=127.0.0.1:9080");
        assert_eq!(&*options.inbounds[0].name, "127.0.0.1:0");
        assert_eq!(options.access_log, Some(AccessLogTo::Stderr));
        assert_eq!(options.shutdown_timeout, Duration::from_millis(500));
        assert!(options.capture.is_none());
    }

    #[test]
    fn in_a_pod() {
        let options = parse(&[
            "--capture",
            "--pod-ips",
            "10.244.1.5,fd00::5",
            "--probes",
            "8080/healthz?full=1,9000,8080/a%2Cb",
        ])
        .unwrap();
        let capture = options.capture.unwrap();
        assert_eq!(
            capture.pod_ips,
            ["10.244.1.5", "fd00::5"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap())
        );
        let probe = |port, path: &str| Probe { port, path: path.into() };
        let probes =
            [probe(8080, "/healthz"), probe(9000, "/grpc.health.v1.Health/Check"), probe(8080, "/a,b")];
        assert_eq!(*capture.probes, probes);
        assert!(
            probes[0].is(8080, "/healthz") && !probes[0].is(8081, "/healthz") && !probes[0].is(8080, "/")
        );
        assert_eq!(options.shutdown_timeout, Duration::from_secs(2));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_write() {
        let upstream = "shop/reviews:9080=127.0.0.1:9080";
        for (flags, wanted) in [
            (&[][..], "nothing to do: give at least one --upstream"),
            (&["--upstream", "reviews"], "there is no `=`; write NAMESPACE/SERVICE:PORT=LISTEN_ADDR"),
            (&["--upstream", "reviews:9080=127.0.0.1:1"], "`reviews` is not NAMESPACE/SERVICE"),
            (&["--upstream", "shop/reviews=127.0.0.1:1"], "the Service port is missing"),
            (&["--upstream", "shop/reviews:http=127.0.0.1:1"], "`http` is not the number of a Service port"),
            (&["--upstream", "shop/reviews:1=localhost:9080"], "write for example 127.0.0.1:9080"),
            (&["--inbound", "127.0.0.1:1=127.0.0.1:0"], "the application's port is 0"),
            (&["--inbound", "127.0.0.1:81=127.0.0.1:81"], "the application would be the proxy itself"),
            (
                &["--upstream", upstream, "--upstream", "shop/a:1=127.0.0.1:9080"],
                "both want to listen at 127.0.0.1:9080",
            ),
            (&["--capture"], "--pod-ips <IP>"),
            (&["--upstream", upstream, "--probes", "8080/"], "--capture"),
            (&["--capture", "--pod-ips", "127.0.0.1"], "write the pod's own address"),
            (&["--capture", "--pod-ips", "10.0.0.1", "--probes", "http/"], "`http` is not a port"),
            (&["--upstream", upstream, "--workers", "0"], "write how many threads carry calls"),
            (&["--upstream", upstream, "--admin-listen", "0.0.0.0:15000"], "write 127.0.0.1:15000"),
            (&["--upstream", upstream, "--log", "=="], "write error, warn, info"),
            (&["--upstream", upstream, "--shutdown-timeout", "5"], "write a number with a unit"),
        ] {
            let said = parse(flags).unwrap_err();
            assert!(said.contains(wanted), "{flags:?}: {said}");
        }
    }

    #[test]
    fn a_subcommand_needs_none_of_the_proxys_flags_and_takes_none() {
        let task = |words: &[&str]| Task::try_parse_from(["fairlead-proxy"].iter().chain(words));
        let Ok(Task::Redirect(options)) = task(&["redirect", "--proxy-uid", "99", "--print"]) else {
            panic!()
        };
        assert!(options.print && options.proxy_uid == 99);
        let Ok(Task::Drain(drain)) = task(&["drain"]) else { panic!() };
        assert_eq!(drain.admin_listen.to_string(), "127.0.0.1:15000");
        let Ok(Task::Run(flags)) = task(&["--operator", "http://127.0.0.1:15010", "--pod", "a/b"]) else {
            panic!()
        };
        assert_eq!(flags.pod, "a/b");
        assert!(task(&["--pod", "a/b", "drain"]).is_err());
        assert!(task(&["--pod", "a/b"]).unwrap_err().to_string().contains("--operator"));
    }
}
