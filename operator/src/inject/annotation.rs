//! The annotations of a pod that are ours. A value that makes no sense refuses the pod: one that was silently
//! ignored would be found out in production. A name that we do not know only warns, for a newer version may.

use std::net::IpAddr;

use fairlead_crds::duration::GatewayDuration;
use serde_json::{Map, Value};

use super::quantity::Quantity;
use crate::model::nearest;

/// What all our names begin with.
pub const PREFIX: &str = "fairlead.dev/";
/// `"false"`: no sidecar.
pub const OPT_OUT: &str = "fairlead.dev/inject";
/// Set by us: the version that injected.
pub const INJECTED: &str = "fairlead.dev/injected";

/// CPU of the sidecar at rest.
pub(super) const CPU_REQUEST: &str = "10m";
/// CPU that it may take: the number of its workers follows from it.
pub(super) const CPU_LIMIT: &str = "1";
/// Memory of the sidecar at rest.
pub(super) const MEMORY_REQUEST: &str = "32Mi";
/// With thousands of connections and bodies kept for retries.
pub(super) const MEMORY_LIMIT: &str = "256Mi";

/// An annotation, for who writes one.
#[derive(Debug, Clone, Copy)]
pub struct Annotation {
    /// Without its prefix.
    pub name: &'static str,
    /// What it means.
    pub means: &'static str,
    /// What holds without it.
    pub default: &'static str,
}

/// All of them; docs/reference/annotations.md is made of this.
pub const ANNOTATIONS: [Annotation; 13] = [
    describe(
        "inject",
        "`\"false\"`: no sidecar; decided by the API server, so such a pod starts also when the operator is away",
        "`\"true\"`",
    ),
    describe(
        "exclude-inbound-ports",
        "ports of the application that are not redirected: `3306,6379`",
        "none",
    ),
    describe("exclude-outbound-ports", "ports that calls go to directly", "none"),
    describe(
        "exclude-inbound-cidrs",
        "callers whose calls are not redirected: `10.1.0.0/16,fd00:1::/64`",
        "none",
    ),
    describe("exclude-outbound-cidrs", "addresses that calls go to directly", "none"),
    describe(
        "log-level",
        "`off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,fairlead_proxy::xds=debug`",
        "`info`",
    ),
    describe(
        "drain-time",
        "how long what is in flight may take after the application has ended: `20s`, `1m30s`; 24h at most",
        "`2s`",
    ),
    describe(
        "workers",
        "threads that carry calls, 1 to 64; a connection, HTTP/2 with all its streams, stays with one",
        "the CPU limit, rounded up",
    ),
    describe("proxy-cpu-request", "CPU that is reserved for the sidecar", CPU_REQUEST),
    describe("proxy-cpu-limit", "CPU that it may take", CPU_LIMIT),
    describe("proxy-memory-request", "memory that is reserved for it", MEMORY_REQUEST),
    describe("proxy-memory-limit", "memory that it may take", MEMORY_LIMIT),
    describe("injected", "set by the injection: the version that did it", "none"),
];

const fn describe(name: &'static str, means: &'static str, default: &'static str) -> Annotation {
    Annotation { name, means, default }
}

fn known() -> impl Iterator<Item = &'static str> {
    ANNOTATIONS.iter().map(|annotation| annotation.name)
}

/// More threads than that help nobody.
const MOST_WORKERS: u16 = 64;
/// Longer than any `terminationGracePeriodSeconds` that people use.
const LONGEST_DRAIN: u64 = 24 * 60 * 60;
/// Where the kubelet asks whether the sidecar is ready: what is excluded is never captured, so it never were.
const READY_PORT: u16 = 15021;

/// What a pod's annotations ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wishes {
    pub(super) exclude_inbound_ports: Vec<u16>,
    pub(super) exclude_outbound_ports: Vec<u16>,
    pub(super) exclude_inbound_cidrs: Vec<String>,
    pub(super) exclude_outbound_cidrs: Vec<String>,
    pub(super) log_level: Option<String>,
    pub(super) drain_time: Option<String>,
    pub(super) workers: Option<u16>,
    pub(super) cpu_request: Option<Quantity>,
    pub(super) cpu_limit: Option<Quantity>,
    pub(super) memory_request: Option<Quantity>,
    pub(super) memory_limit: Option<Quantity>,
}

/// What the annotations ask for; what is wrong with them; what of them has no effect.
pub(super) fn read(pod: &Value) -> (Wishes, Vec<String>, Vec<String>) {
    let empty = Map::new();
    let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object).unwrap_or(&empty);
    let mut reader = Reader { annotations, problems: Vec::new() };
    reader.read("inject", |text| match text {
        "true" => Ok(()),
        _ => Err("write \"true\" or \"false\"".to_owned()),
    });
    let wishes = Wishes {
        exclude_inbound_ports: reader.read("exclude-inbound-ports", inbound_ports).unwrap_or_default(),
        exclude_outbound_ports: reader.read("exclude-outbound-ports", ports).unwrap_or_default(),
        exclude_inbound_cidrs: reader.read("exclude-inbound-cidrs", cidrs).unwrap_or_default(),
        exclude_outbound_cidrs: reader.read("exclude-outbound-cidrs", cidrs).unwrap_or_default(),
        log_level: reader.read("log-level", log_level),
        drain_time: reader.read("drain-time", drain_time),
        workers: reader.read("workers", workers),
        cpu_request: reader.read("proxy-cpu-request", cpu),
        cpu_limit: reader.read("proxy-cpu-limit", cpu),
        memory_request: reader.read("proxy-memory-request", memory),
        memory_limit: reader.read("proxy-memory-limit", memory),
    };
    let problems = reader.problems;
    let mut warnings: Vec<String> = unknown(annotations.keys().map(String::as_str)).collect();
    let labels = pod.pointer("/metadata/labels").and_then(Value::as_object).unwrap_or(&empty);
    warnings.extend(
        labels
            .keys()
            .filter(|name| name.starts_with(PREFIX))
            .map(|name| format!("label {name} has no effect on a pod; write it as an annotation")),
    );
    (wishes, problems, warnings)
}

/// A sentence for each of these annotations that begins like ours and is none.
pub fn unknown<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    names.filter_map(|name| {
        let short = name.strip_prefix(PREFIX)?;
        if known().any(|name| name == short) {
            return None;
        }
        let hint = nearest::hint(short, known()).replace("mean ", &format!("mean {PREFIX}"));
        Some(format!("annotation {name} is unknown and has no effect{hint}"))
    })
}

struct Reader<'a> {
    annotations: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn read<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        debug_assert!(known().any(|known| known == name), "{name} is not in the table");
        let value = self.annotations.get(&format!("{PREFIX}{name}"))?;
        let parsed = match value.as_str() {
            Some(text) => parse(text.trim()),
            None => Err("write the value in quotes".to_owned()),
        };
        match parsed {
            Ok(parsed) => Some(parsed),
            Err(advice) => {
                self.problems.push(format!("annotation {PREFIX}{name}: {value} makes no sense; {advice}"));
                None
            }
        }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn ports(text: &str) -> Result<Vec<u16>, String> {
    let port = |item: &str| match item.parse() {
        Ok(0) | Err(_) => {
            Err("write ports from 1 to 65535 with commas between, for instance 3306,6379".to_owned())
        }
        Ok(port) => Ok(port),
    };
    let mut ports = list(text).map(port).collect::<Result<Vec<u16>, _>>()?;
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

fn inbound_ports(text: &str) -> Result<Vec<u16>, String> {
    let ports = ports(text)?;
    if ports.contains(&READY_PORT) {
        return Err(format!(
            "leave out {READY_PORT}: by it the sidecar sees that inbound calls are captured"
        ));
    }
    Ok(ports)
}

fn cidrs(text: &str) -> Result<Vec<String>, String> {
    let mut cidrs = list(text).map(cidr).collect::<Result<Vec<_>, _>>()?;
    cidrs.sort_unstable();
    cidrs.dedup();
    Ok(cidrs)
}

fn cidr(item: &str) -> Result<String, String> {
    let advice =
        || "write address ranges with commas between, for instance 10.1.0.0/16,fd00:1::/64".to_owned();
    let (address, length) =
        item.split_once('/').map_or((item, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().map_err(|_| advice())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Ok(bits), |length| length.parse::<u32>().map_err(|_| advice()))?;
    if length > bits {
        return Err(advice());
    }
    let network = network(address, length);
    if network != address {
        return Err(format!("{item} has bits behind its length; write {network}/{length}"));
    }
    Ok(format!("{address}/{length}"))
}

/// The first address of the range.
fn network(address: IpAddr, length: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or_default();
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or_default();
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// `info`, or `info,fairlead_proxy::xds=debug`. Every word that is no level would be taken for a module's name,
/// and log nothing.
fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let fine = |part: &str| {
        let (module, level) = part.split_once('=').map_or(("", part), |(module, level)| (module, level));
        let simple = |one: char| one.is_ascii_alphanumeric() || one == '_' || one == ':';
        module.chars().all(simple) && LEVELS.contains(&level)
    };
    match !text.is_empty() && text.split(',').all(fine) {
        true => Ok(text.to_owned()),
        false => Err(format!("write one of {}, or info,fairlead_proxy::xds=debug", LEVELS.join(", "))),
    }
}

fn drain_time(text: &str) -> Result<String, String> {
    let duration: GatewayDuration = text.parse().map_err(|error| format!("{error}"))?;
    match duration.get().as_secs() > LONGEST_DRAIN {
        true => Err("write 24h or less".to_owned()),
        false => Ok(text.to_owned()),
    }
}

fn workers(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|workers| (1..=MOST_WORKERS).contains(workers))
        .ok_or_else(|| format!("write a number of threads from 1 to {MOST_WORKERS}"))
}

fn cpu(text: &str) -> Result<Quantity, String> {
    Quantity::parse(text)
        .filter(|cpu| cpu.at_least_milli(1))
        .ok_or_else(|| "write an amount of CPU, for instance 100m or 2".to_owned())
}

fn memory(text: &str) -> Result<Quantity, String> {
    // 128 alone is bytes, and 128m a fraction of one: nobody means that.
    let least = Quantity::parse("1Mi");
    Quantity::parse(text)
        .filter(|memory| Some(memory) >= least.as_ref())
        .ok_or_else(|| "write an amount of memory of 1Mi or more, for instance 128Mi".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_one(name: &str, value: &str) -> (Wishes, Vec<String>) {
        let (wishes, problems, warnings) =
            read(&json!({"metadata": {"annotations": {format!("{PREFIX}{name}"): value}}}));
        assert_eq!(warnings, Vec::<String>::new());
        (wishes, problems)
    }

    #[test]
    fn values_are_read() {
        assert_eq!(
            read_one("exclude-inbound-ports", " 6379, 3306,3306 ").0.exclude_inbound_ports,
            [3306, 6379]
        );
        assert_eq!(read_one("exclude-outbound-ports", "15021").0.exclude_outbound_ports, [15021]);
        let (wishes, problems) =
            read_one("exclude-outbound-cidrs", "10.1.0.0/16,10.0.0.1,fd00:1::/64,0.0.0.0/0,::/0");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(
            wishes.exclude_outbound_cidrs,
            ["0.0.0.0/0", "10.0.0.1/32", "10.1.0.0/16", "::/0", "fd00:1::/64"]
        );
        assert_eq!(
            read_one("log-level", "info,fairlead_proxy::xds=debug").0.log_level.unwrap(),
            "info,fairlead_proxy::xds=debug"
        );
        assert_eq!(read_one("drain-time", "1m30s").0.drain_time.unwrap(), "1m30s");
        assert_eq!(read_one("workers", "4").0.workers, Some(4));
        assert_eq!(read_one("proxy-cpu-limit", "1500m").0.cpu_limit.unwrap().units(), 2);
        assert_eq!(read_one("exclude-inbound-ports", "").0, Wishes::default());
        assert_eq!(read_one("inject", "true"), (Wishes::default(), Vec::new()));
    }

    #[test]
    fn nonsense_says_what_to_write() {
        for (name, value, advice) in [
            ("inject", "no", "write \"true\" or \"false\""),
            ("exclude-inbound-ports", "http", "write ports from 1 to 65535"),
            ("exclude-inbound-ports", "15021", "leave out 15021"),
            ("exclude-outbound-ports", "0", "write ports from 1 to 65535"),
            ("exclude-outbound-ports", "70000", "write ports from 1 to 65535"),
            ("exclude-inbound-cidrs", "10.1.2.3/16", "write 10.1.0.0/16"),
            ("exclude-inbound-cidrs", "10.1.0.0/33", "write address ranges"),
            ("exclude-outbound-cidrs", "example.com", "write address ranges"),
            ("log-level", "verbose", "write one of off, error"),
            ("log-level", "", "write one of off, error"),
            ("drain-time", "30", "write 30s"),
            ("drain-time", "48h", "write 24h or less"),
            ("workers", "0", "write a number of threads"),
            ("proxy-cpu-request", "fast", "write an amount of CPU"),
            ("proxy-memory-limit", "128", "write an amount of memory of 1Mi or more"),
            ("proxy-memory-limit", "128m", "write an amount of memory of 1Mi or more"),
        ] {
            let (_, problems) = read_one(name, value);
            assert_eq!(problems.len(), 1, "{name}: {value}");
            assert!(
                problems[0].starts_with(&format!("annotation {PREFIX}{name}: \"{value}\" makes no sense; ")),
                "{problems:?}"
            );
            assert!(problems[0].contains(advice), "{problems:?}");
        }
    }

    #[test]
    fn an_unknown_name_gets_its_nearest() {
        let names = [
            "fairlead.dev/exclude-inbound-port",
            "fairlead.dev/colour",
            "other.dev/x",
            "fairlead.dev/workers",
        ];
        assert_eq!(
            unknown(names.into_iter()).collect::<Vec<_>>(),
            [
                "annotation fairlead.dev/exclude-inbound-port is unknown and has no effect; did you mean fairlead.dev/exclude-inbound-ports?",
                "annotation fairlead.dev/colour is unknown and has no effect",
            ]
        );
        let (.., warnings) =
            read(&json!({"metadata": {"labels": {"fairlead.dev/inject": "false", "app": "x"}}}));
        assert_eq!(warnings, ["label fairlead.dev/inject has no effect on a pod; write it as an annotation"]);
    }
}
