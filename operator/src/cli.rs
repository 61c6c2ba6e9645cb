//! Flags and environment: what was typed ([`Cli`]) and what it means ([`Settings`]). Everything is
//! checked before a port is bound.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fairlead_crds::GatewayDuration;

use self::injection::InjectionFlags;
pub use self::injection::{Injection, PullPolicy};

mod injection;

/// Compiles ServiceRoutes, RateLimitPolicies and OutlierDetections with Services and their
/// endpoints into Envoy xDS v3, and serves it.
#[derive(Clone, Debug, Parser)]
#[command(name = "fairlead-operator", version)]
pub struct Cli {
    /// Read objects from the YAML files of this directory, and watch it, instead of the Kubernetes
    /// API (in the cluster, or by KUBECONFIG)
    #[arg(long, env = "FAIRLEAD_SOURCE", value_name = "DIR")]
    source: Option<PathBuf>,
    /// Where xDS is served
    #[arg(long, env = "FAIRLEAD_XDS_LISTEN", value_name = "ADDR", default_value = "[::]:15010", value_parser = address)]
    xds_listen: SocketAddr,
    /// Where /objects, /clients and /snapshot are served: a loopback address
    #[arg(long, env = "FAIRLEAD_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:15014", value_parser = address)]
    admin_listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "FAIRLEAD_METRICS_LISTEN", value_name = "ADDR", default_value = "[::]:15015", value_parser = address)]
    metrics_listen: SocketAddr,
    /// The name of this replica in status reports [default: the host's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    replica: Option<String>,
    /// The namespace of the operator: of its Lease, its Secret and its Service
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "fairlead-system")]
    namespace: String,
    /// Where the other replicas reach xDS of this one, IP or IP:PORT [default: the address of --xds-listen, or
    /// loopback where that is every address]
    #[arg(long, env = "POD_IP", value_name = "ADDR", value_parser = advertised)]
    advertise: Option<SocketAddr>,
    /// How xDS clients say who they are: by a service-account token of their pod, over TLS, or not at all
    /// [default: token; none with --source]
    #[arg(long, env = "FAIRLEAD_IDENTITY", value_enum)]
    identity: Option<Identity>,
    /// Where the certificates of the ports come from: self, a Secret that the operator makes and renews, or a
    /// folder with tls.crt, tls.key and ca.crt, such as a mounted Secret of cert-manager; read again when it
    /// changes [default: self]
    #[arg(long, env = "FAIRLEAD_CERTIFICATES", value_name = "self|FOLDER")]
    certificates: Option<String>,
    /// How long a new root is trusted everywhere before a certificate is signed with it, and how long an old
    /// one stays: kubelets take up to two minutes to bring it into running pods [default: 5m]
    #[arg(long, env = "FAIRLEAD_TRUST_DELAY", value_name = "DURATION")]
    trust_delay: Option<GatewayDuration>,
    /// The token, for the audience fairlead, by which other replicas know this one
    #[arg(
        long,
        env = "FAIRLEAD_TOKEN",
        value_name = "FILE",
        default_value = "/var/run/fairlead/token/token"
    )]
    token: PathBuf,
    #[command(flatten)]
    injection: InjectionFlags,
    /// How log lines are written to standard error
    #[arg(long, env = "FAIRLEAD_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Which log lines are written, for instance info or info,fairlead_operator::xds=debug
    #[arg(long, env = "FAIRLEAD_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
}

/// How xDS clients say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Identity {
    /// By a token, over TLS.
    Token,
    /// Not at all, in plain text.
    None,
}

/// Where the certificates of the ports come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificates {
    /// A Secret that the operator makes and renews.
    Own {
        /// How long the rotation waits for running pods.
        trust_delay: Duration,
    },
    /// A folder that somebody else writes.
    Folder(PathBuf),
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A kubelet renews a mounted ConfigMap within two minutes; twice that, and some.
const TRUST_DELAY: Duration = Duration::from_secs(5 * 60);

/// What the flags mean.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where objects come from.
    pub source: Source,
    /// Where xDS is served.
    pub xds: SocketAddr,
    /// Where the admin page is served.
    pub admin: SocketAddr,
    /// Where metrics and readiness are served.
    pub metrics: SocketAddr,
    /// The name of this replica.
    pub replica: String,
    /// The operator's namespace.
    pub namespace: String,
    /// Where other replicas reach this one's xDS; port 0: the port that is bound.
    pub advertise: SocketAddr,
    /// The certificates of a port that asks who its clients are; `None`: it asks nobody, in plain text.
    pub certificates: Option<Certificates>,
    /// The file of the token by which other replicas know this one.
    pub token: PathBuf,
    /// What is injected; none: nothing.
    pub injection: Option<Injection>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log: String,
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The YAML files of a directory.
    Directory(PathBuf),
    /// The Kubernetes API, in the cluster or by KUBECONFIG.
    Kubernetes,
}

/// A flag that makes no sense, and what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Nonsense(String);

impl Cli {
    /// Checks what was typed.
    pub fn interpret(self) -> Result<Settings, Nonsense> {
        let source = match &self.source {
            None => Source::Kubernetes,
            Some(directory) if directory.is_dir() => Source::Directory(directory.clone()),
            Some(path) if path.exists() => {
                return Err(Nonsense(format!(
                    "--source {} is a file; give the directory that it is in",
                    path.display()
                )));
            }
            Some(path) if path.as_os_str().is_empty() => {
                return Err(Nonsense(
                    "--source is empty; give a directory, or leave it out to read the Kubernetes API".into(),
                ));
            }
            Some(path) => {
                return Err(Nonsense(format!(
                    "--source {} does not exist; create the directory first, it may be empty",
                    path.display()
                )));
            }
        };
        let certificates = self.certificates(&source)?;
        if !is_loopback(self.admin_listen.ip()) {
            let (given, port) = (self.admin_listen, self.admin_listen.port());
            return Err(Nonsense(format!(
                "--admin-listen {given} can be reached from outside, and the admin page asks nobody who they are; write 127.0.0.1:{port}"
            )));
        }
        let injection = self.injection.interpret(certificates.is_some())?;
        let webhook = injection.iter().map(|injection| ("--webhook-listen", injection.listen));
        let ports = [
            ("--xds-listen", self.xds_listen),
            ("--admin-listen", self.admin_listen),
            ("--metrics-listen", self.metrics_listen),
        ];
        let ports: Vec<_> = ports.into_iter().chain(webhook).collect();
        for (at, (flag, address)) in ports.iter().enumerate() {
            if let Some((other, _)) = ports.iter().skip(at + 1).find(|(_, other)| collide(*address, *other)) {
                return Err(Nonsense(format!(
                    "{flag} and {other} have the same port {}; give each its own, or 0 for any free one",
                    address.port()
                )));
            }
        }
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&self.log) {
            return Err(Nonsense(format!(
                "--log {:?} is no filter ({error}); write a level such as info, or info,fairlead_operator::xds=debug",
                self.log
            )));
        }
        Ok(Settings {
            injection,
            source,
            xds: self.xds_listen,
            admin: self.admin_listen,
            metrics: self.metrics_listen,
            certificates,
            token: self.token,
            replica: self.replica.filter(|name| !name.is_empty()).unwrap_or_else(host_name),
            namespace: self.namespace,
            advertise: self.advertise.unwrap_or_else(|| reachable(self.xds_listen)),
            log_format: self.log_format,
            log: self.log,
        })
    }
}

impl Cli {
    /// The certificates that identity needs; tokens are sent over TLS only.
    fn certificates(&self, source: &Source) -> Result<Option<Certificates>, Nonsense> {
        let nonsense = |text: &str| Err(Nonsense(text.to_owned()));
        let default = if *source == Source::Kubernetes { Identity::Token } else { Identity::None };
        match self.identity.unwrap_or(default) {
            Identity::Token if *source != Source::Kubernetes => {
                return nonsense(
                    "--identity token asks the Kubernetes API about tokens, and --source has none; leave one of them out",
                );
            }
            Identity::None if self.certificates.is_some() || self.trust_delay.is_some() => {
                return nonsense(
                    "--certificates and --trust-delay are for TLS, which is served with --identity token only; leave them out",
                );
            }
            Identity::None => return Ok(None),
            Identity::Token => {}
        }
        match self.certificates.as_deref() {
            None | Some("self") => {
                let trust_delay = self.trust_delay.as_ref().map_or(TRUST_DELAY, GatewayDuration::get);
                Ok(Some(Certificates::Own { trust_delay }))
            }
            Some(_) if self.trust_delay.is_some() => nonsense(
                "--trust-delay is for certificates that the operator renews itself; leave it out with --certificates FOLDER",
            ),
            Some("") => nonsense("--certificates is empty; write self, or the folder of the certificates"),
            Some(folder) => Ok(Some(Certificates::Folder(folder.into()))),
        }
    }
}

/// An address with a port; `localhost` is understood.
fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        if text.parse::<IpAddr>().is_ok() {
            format!(
                "the port is missing; write {}",
                SocketAddr::new(text.parse().unwrap_or(IpAddr::from([127, 0, 0, 1])), 15010)
            )
        } else if let Some(port) =
            text.strip_prefix(':').or(Some(text)).filter(|port| port.parse::<u16>().is_ok())
        {
            format!("the address is missing; write 127.0.0.1:{port}, or 0.0.0.0:{port} for all")
        } else {
            "not an address; write IP:PORT, for instance 127.0.0.1:15010".to_owned()
        }
    })
}

/// An address with or without a port; without one it is that of xDS.
fn advertised(text: &str) -> Result<SocketAddr, String> {
    let ip = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0));
    ip.or_else(|_| text.parse()).map_err(|_| "not an address; write IP, or IP:PORT".to_owned())
}

/// What can be dialled of an address that is listened on: `[::]` takes IPv4 as well.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback = Ipv4Addr::LOCALHOST.into();
    SocketAddr::new(if listen.ip().is_unspecified() { loopback } else { listen.ip() }, listen.port())
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// The host's name, which in a pod is the pod's.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "operator".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpret(flags: &[&str]) -> Result<Settings, String> {
        let cli = Cli::try_parse_from([&["fairlead-operator"], flags].concat())
            .map_err(|error| error.to_string())?;
        cli.interpret().map_err(|error| error.to_string())
    }

    #[test]
    fn sensible_flags_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().to_str().unwrap();
        let settings = interpret(&[
            "--source",
            source,
            "--xds-listen",
            "127.0.0.1:0",
            "--admin-listen",
            "localhost:0",
            "--metrics-listen",
            "[::1]:0",
        ])
        .unwrap();
        assert_eq!(settings.source, Source::Directory(directory.path().to_owned()));
        assert_eq!(settings.admin.to_string(), "127.0.0.1:0");
        assert_eq!(settings.certificates, None);
        let settings = interpret(&[]).unwrap();
        assert_eq!((settings.source, &*settings.namespace), (Source::Kubernetes, "fairlead-system"));
        assert_eq!(settings.certificates, Some(Certificates::Own { trust_delay: Duration::from_secs(300) }));
        let settings = interpret(&["--certificates", "self", "--trust-delay", "2s"]).unwrap();
        assert_eq!(settings.certificates, Some(Certificates::Own { trust_delay: Duration::from_secs(2) }));
        let settings = interpret(&["--certificates", "/tls"]).unwrap();
        assert_eq!(settings.certificates, Some(Certificates::Folder("/tls".into())));
        assert_eq!(interpret(&["--identity", "none"]).unwrap().certificates, None);
    }

    #[test]
    fn other_replicas_are_told_an_address_that_can_be_dialled() {
        let advertise = |flags: &[&str]| interpret(flags).unwrap().advertise.to_string();
        assert_eq!(advertise(&[]), "127.0.0.1:15010");
        assert_eq!(advertise(&["--xds-listen", "10.0.0.1:7"]), "10.0.0.1:7");
        assert_eq!(advertise(&["--xds-listen", "[::]:7"]), "127.0.0.1:7");
        assert_eq!(advertise(&["--advertise", "10.0.0.2"]), "10.0.0.2:0");
        assert_eq!(advertise(&["--advertise", "10.0.0.2:9"]), "10.0.0.2:9");
        assert_eq!(advertise(&["--advertise", "fd00::2"]), "[fd00::2]:0");
    }

    #[test]
    fn nonsense_is_refused_with_what_to_write() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("reviews.yaml");
        std::fs::write(&file, "").unwrap();
        for (flags, message) in [
            (&["--source", "/does/not/exist"][..], "does not exist; create the directory first"),
            (&["--source", file.to_str().unwrap()], "is a file; give the directory that it is in"),
            (&["--admin-listen", "0.0.0.0:15014"], "write 127.0.0.1:15014"),
            (
                &["--xds-listen", "127.0.0.1:15015"],
                "--xds-listen and --metrics-listen have the same port 15015",
            ),
            (&["--xds-listen", "15010"], "the address is missing; write 127.0.0.1:15010"),
            (&["--xds-listen", "127.0.0.1"], "the port is missing; write 127.0.0.1:15010"),
            (&["--xds-listen", "reviews"], "not an address; write IP:PORT"),
            (&["--log", "fairlead=loud"], "is no filter"),
            (&["--advertise", "operator:15010"], "write IP, or IP:PORT"),
            (
                &["--source", directory.path().to_str().unwrap(), "--identity", "token"],
                "leave one of them out",
            ),
            (&["--identity", "none", "--trust-delay", "1s"], "with --identity token only"),
            (&["--identity", "none", "--certificates", "self"], "with --identity token only"),
            (&["--certificates", "/tls", "--trust-delay", "1s"], "leave it out with --certificates FOLDER"),
            (&["--certificates", ""], "write self, or the folder"),
        ] {
            let error = interpret(flags).unwrap_err();
            assert!(error.contains(message), "{flags:?}: {error}");
        }
    }
}
