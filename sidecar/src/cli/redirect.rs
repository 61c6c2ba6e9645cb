//! The words of `fairlead-proxy redirect`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use clap::Parser;

/// Leads the pod's traffic through the proxy, by one nftables table; needs uid 0 and NET_ADMIN.
///
/// Replaces what an earlier run installed, at once and without touching open connections. Prints
/// `redirecting inbound listening`, or `redirecting inbound everything` where the kernel cannot tell where
/// somebody listens.
#[derive(Debug, Clone, Parser)]
#[command(name = "fairlead-proxy redirect", version)]
pub struct Options {
    /// The user id that the proxy runs as: what it sends is not redirected
    #[arg(long, env = "FAIRLEAD_PROXY_UID", value_name = "UID", default_value_t = 1337, value_parser = uid)]
    pub proxy_uid: u32,
    /// Ports of the pod at which callers reach the application without the proxy
    #[arg(long, env = "FAIRLEAD_EXCLUDE_INBOUND_PORTS", value_name = "PORT,...", value_delimiter = ',', value_parser = port)]
    pub exclude_inbound_ports: Vec<u16>,
    /// Ports, of whomever, that the application reaches without the proxy
    #[arg(long, env = "FAIRLEAD_EXCLUDE_OUTBOUND_PORTS", value_name = "PORT,...", value_delimiter = ',', value_parser = port)]
    pub exclude_outbound_ports: Vec<u16>,
    /// Callers' addresses that reach the application without the proxy
    #[arg(long, env = "FAIRLEAD_EXCLUDE_INBOUND_CIDRS", value_name = "CIDR,...", value_delimiter = ',')]
    pub exclude_inbound_cidrs: Vec<Cidr>,
    /// Addresses that the application reaches without the proxy
    #[arg(long, env = "FAIRLEAD_EXCLUDE_OUTBOUND_CIDRS", value_name = "CIDR,...", value_delimiter = ',')]
    pub exclude_outbound_cidrs: Vec<Cidr>,
    /// Prints what would be given to nft, and changes nothing
    #[arg(long)]
    pub print: bool,
}

impl Options {
    /// Each value once, in order: what is excluded twice is excluded.
    pub fn sorted(mut self) -> Self {
        for ports in [&mut self.exclude_inbound_ports, &mut self.exclude_outbound_ports] {
            *ports = ports.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        }
        for cidrs in [&mut self.exclude_inbound_cidrs, &mut self.exclude_outbound_cidrs] {
            *cidrs = cidrs.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        }
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            proxy_uid: 1337,
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_inbound_cidrs: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            print: false,
        }
    }
}

/// `10.0.0.0/8`, without bits behind the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    /// The first address of it.
    pub address: IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    /// A lone address is itself alone; bits behind the prefix are dropped, as Kubernetes does.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write for example 10.0.0.0/8 or fd00::/8";
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err(format!("`{text}` is not a range of addresses; {form}"));
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix.map(str::parse::<u8>) {
            None => bits,
            Some(Ok(prefix)) if prefix <= bits => prefix,
            Some(_) => return Err(format!("the prefix of `{text}` is a number from 0 to {bits}; {form}")),
        };
        let behind = u32::from(bits - prefix);
        let address = match address {
            IpAddr::V4(address) => {
                let kept = u32::MAX.checked_shl(behind).unwrap_or(0);
                IpAddr::V4((u32::from(address) & kept).into())
            }
            IpAddr::V6(address) => {
                let kept = u128::MAX.checked_shl(behind).unwrap_or(0);
                IpAddr::V6((u128::from(address) & kept).into())
            }
        };
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!("`{text}` is not a port: write numbers from 1 to 65535, for example 3306,6379")),
    }
}

fn uid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("uid 0 would exempt every program that runs as root; write the proxy's, 1337".into()),
        Ok(uid) if uid < u32::MAX => Ok(uid),
        _ => Err("write the proxy's user id, a number, for example 1337".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Options, String> {
        let parsed = Options::try_parse_from(["redirect"].iter().chain(more));
        parsed.map(Options::sorted).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_typed_is_meant() {
        let options = parse(&[
            "--exclude-inbound-ports",
            "9000,22,9000",
            "--exclude-outbound-cidrs",
            "fd00::1/8,10.1.2.3/8,0.0.0.0/0,1.2.3.4,::/0",
        ])
        .unwrap();
        assert_eq!(options.proxy_uid, 1337);
        assert_eq!(options.exclude_inbound_ports, [22, 9000]);
        let cidrs: Vec<String> = options.exclude_outbound_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["0.0.0.0/0", "1.2.3.4/32", "10.0.0.0/8", "::/0", "fd00::/8"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_write() {
        for (flags, wanted) in [
            (["--exclude-inbound-ports", "http"], "write numbers from 1 to 65535"),
            (["--exclude-outbound-ports", "0"], "`0` is not a port"),
            (["--exclude-inbound-cidrs", "10.0.0/8"], "write for example 10.0.0.0/8"),
            (["--exclude-outbound-cidrs", "10.0.0.0/33"], "a number from 0 to 32"),
            (["--proxy-uid", "0"], "would exempt every program that runs as root"),
            (["--proxy-uid", "fairlead"], "for example 1337"),
        ] {
            let said = parse(&flags).unwrap_err();
            assert!(said.contains(wanted), "{flags:?}: {said}");
        }
    }
}
