//! The pod's redirection: one nftables table that leads its calls through the proxy.
//!
//! ```text
//! output      127.0.0.1:15002, [::1]:15002 --> 15001      the capture check, before every exemption
//!             proxy, to this pod itself, marked --> 15006  a call that came back to the pod that made it
//!             proxy | loopback | DNS | excluded            untouched
//!             all other TCP --> 15001
//! prerouting  15021 --> 15006                              the kubelet's probe: the other capture check
//!             15020 | excluded                             untouched
//!             where somebody listens --> 15006
//! ```
//!
//! *Where somebody listens* is asked of the kernel (`socket wildcard`): a port that is closed, or bound to
//! 127.0.0.1 alone, is refused exactly as without the proxy, and a TCP probe stays truthful. A kernel without
//! nft_socket redirects all ([`Inbound::Everything`]).
//!
//! Only a connection's first packet comes by here; what was established before stays as it was, and so does
//! what was redirected when the table is replaced.

mod nft;

use std::fmt::Write;
use std::net::IpAddr;

use crate::cli::redirect::{Cidr, Options};
use crate::ports::{CHECK_PORT, INBOUND_PORT, OUTBOUND_PORT, TO_OURSELVES};

pub use nft::{Failed, install};

/// The table's name, in the family `inet`.
const TABLE: &str = "fairlead";

/// `/metrics`: not redirected, so that a scrape says what is wrong even where nothing else works.
const METRICS_PORT: u16 = 15020;

/// `/ready`: always redirected.
const READY_PORT: u16 = 15021;

/// TCP's; UDP is never redirected.
const DNS_PORT: u16 = 53;

/// What comes in is redirected...
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// ...where somebody listens.
    Listening,
    /// ...whatever it wants: the kernel cannot tell where somebody listens.
    Everything,
}

impl Inbound {
    /// The word for it in logs and output.
    pub fn word(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Everything => "everything",
        }
    }
}

/// The text for `nft -f -`: makes the table, or replaces it, in one transaction.
pub fn script(options: &Options, inbound: Inbound) -> String {
    let uid = options.proxy_uid;
    let mut text = format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");

    let mut rules = vec![
        format!("ip daddr 127.0.0.1 tcp dport {CHECK_PORT} redirect to :{OUTBOUND_PORT}"),
        format!("ip6 daddr ::1 tcp dport {CHECK_PORT} redirect to :{OUTBOUND_PORT}"),
        NOT_THE_FIRST.to_owned(),
        format!(
            "meta skuid {uid} oifname \"lo\" meta priority 0:{TO_OURSELVES} meta l4proto tcp redirect to :{INBOUND_PORT}"
        ),
        format!("meta skuid {uid} accept"),
        "oifname \"lo\" accept".to_owned(),
        format!("tcp dport {DNS_PORT} accept"),
    ];
    rules.extend(options.exclude_outbound_ports.iter().map(|port| format!("tcp dport {port} accept")));
    rules.extend(options.exclude_outbound_cidrs.iter().map(|cidr| excluded("daddr", *cidr)));
    rules.push(format!("meta l4proto tcp redirect to :{OUTBOUND_PORT}"));
    chain(&mut text, "outbound", "output", &rules);

    // `local`: what a container in the pod sends through the pod to elsewhere is not for the pod.
    let lead_in = match inbound {
        Inbound::Listening => "fib daddr type local meta l4proto tcp socket wildcard { 0, 1 }",
        Inbound::Everything => "fib daddr type local meta l4proto tcp",
    };
    let mut rules = vec![
        NOT_THE_FIRST.to_owned(),
        format!("tcp dport {READY_PORT} redirect to :{INBOUND_PORT}"),
        format!("tcp dport {METRICS_PORT} accept"),
    ];
    rules.extend(options.exclude_inbound_ports.iter().map(|port| format!("tcp dport {port} accept")));
    rules.extend(options.exclude_inbound_cidrs.iter().map(|cidr| excluded("saddr", *cidr)));
    rules.push(format!("{lead_in} redirect to :{INBOUND_PORT}"));
    chain(&mut text, "inbound", "prerouting", &rules);

    text.push_str("}\n");
    text
}

/// A connection that is older than the table begins, for the table, in its middle: it is left alone.
const NOT_THE_FIRST: &str = "tcp flags & (fin | syn | rst | ack) != syn accept";

/// A rule each, for sets of overlapping ranges are refused by some versions of nft.
fn excluded(side: &str, cidr: Cidr) -> String {
    let family = match cidr.address {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    };
    format!("{family} {side} {cidr} accept")
}

fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    // The number, not the name dstnat, which the output hook does not know.
    let _ = write!(text, "\tchain {name} {{\n\t\ttype nat hook {hook} priority -100; policy accept;\n");
    for rule in rules {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text.push_str("\t}\n");
}

#[cfg(test)]
mod tests;
