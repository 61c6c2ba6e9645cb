//! The script, given to `nft`, and what the kernel made of it, read back.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use super::{Inbound, TABLE, script};
use crate::cli::redirect::Options;

/// Why there is no redirection.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It is not installed.
    #[error("`nft` is not in PATH: use the proxy's image, which has it, or install the package nftables")]
    Missing,
    /// It did not run.
    #[error("running nft: {0}")]
    Io(#[from] io::Error),
    /// The container lacks a right.
    #[error(
        "the kernel permits no nftables rules ({0}): run as uid 0 with `capabilities: {{add: [NET_ADMIN]}}`; \
         a namespace whose Pod Security is not `privileged` forbids that"
    )]
    NotPermitted(String),
    /// It said no.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// It said yes, but the kernel has something else.
    #[error("the rules are not what was written: {0}")]
    Different(String),
}

/// Makes the table or replaces it, and reads it back. Says which connections come in redirected.
pub fn install(options: &Options) -> Result<Inbound, Failed> {
    let listening = script(options, Inbound::Listening);
    let (inbound, script) = match apply(&listening) {
        Ok(()) => (Inbound::Listening, listening),
        Err(Failed::Refused(reason)) => {
            // The only part that a kernel may lack is nft_socket. If it is something else, this fails too.
            let everything = script(options, Inbound::Everything);
            apply(&everything)?;
            tracing::warn!(
                reason,
                "the kernel cannot tell where somebody listens (nft_socket): every inbound connection is \
                 redirected, and a TCP probe of a closed port succeeds"
            );
            (Inbound::Everything, everything)
        }
        Err(other) => return Err(other),
    };
    let table = read_back()?;
    same(&script, &table).map_err(Failed::Different)?;
    tracing::info!(inbound = inbound.word(), uid = options.proxy_uid, "redirection installed and read back");
    Ok(inbound)
}

fn apply(script: &str) -> Result<(), Failed> {
    let mut nft = start(&["-f", "-"])?;
    if let Some(mut input) = nft.stdin.take() {
        // A pipe that nft closed early: its words and exit status say why.
        let _ = input.write_all(script.as_bytes());
    }
    finished(&nft.wait_with_output()?).map(drop)
}

fn read_back() -> Result<String, Failed> {
    finished(&start(&["list", "table", "inet", TABLE])?.wait_with_output()?)
}

fn start(arguments: &[&str]) -> Result<std::process::Child, Failed> {
    let mut nft = Command::new("nft");
    nft.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    nft.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failed::Missing,
        _ => Failed::Io(error),
    })
}

fn finished(output: &Output) -> Result<String, Failed> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("Operation not permitted") || said.contains("you must be root") {
        let first = said.lines().next().unwrap_or_default();
        return Err(Failed::NotPermitted(first.to_owned()));
    }
    Err(Failed::Refused(if said.is_empty() { output.status.to_string() } else { said }))
}

/// Whether the listing has the chains of the script, each with its hook, and in each the same verdicts in the
/// same order. The words between differ from one version of nft to the next.
fn same(script: &str, listing: &str) -> Result<(), String> {
    let (wanted, found) = (verdicts(script), verdicts(listing));
    if wanted == found {
        return Ok(());
    }
    let first = wanted.iter().zip(&found).find(|(wanted, found)| wanted != found);
    Err(match first {
        Some((wanted, found)) => format!("`{found}` stands where `{wanted}` should"),
        None => format!("{} lines instead of {}", found.len(), wanted.len()),
    })
}

fn verdicts(text: &str) -> Vec<&str> {
    let verdict = |line: &'_ str| -> Option<std::ops::Range<usize>> {
        let length = line.len();
        if line.starts_with("chain ") {
            Some(0..length)
        } else if line.starts_with("type nat hook ") {
            Some(0..line.find(" priority")?)
        } else if line.ends_with(" accept") {
            Some(length - "accept".len()..length)
        } else {
            Some(line.find("redirect to :")?..length)
        }
    };
    text.lines().map(str::trim).filter_map(|line| line.get(verdict(line)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 prints it.
    const LISTING: &str = "table inet fairlead {
	chain outbound {
		type nat hook output priority -100; policy accept;
		ip daddr 127.0.0.1 tcp dport 15002 redirect to :15001
		ip6 daddr ::1 tcp dport 15002 redirect to :15001
		tcp flags != syn / fin,syn,rst,ack accept
		meta skuid 1337 oifname \"lo\" meta priority 0:6 meta l4proto tcp redirect to :15006
		meta skuid 1337 accept
		oifname \"lo\" accept
		tcp dport 53 accept
		meta l4proto tcp redirect to :15001
	}

	chain inbound {
		type nat hook prerouting priority dstnat; policy accept;
		tcp flags != syn / fin,syn,rst,ack accept
		tcp dport 15021 redirect to :15006
		tcp dport 15020 accept
		fib daddr type local meta l4proto tcp socket wildcard { 0, 1 } redirect to :15006
	}
}
";

    #[test]
    fn what_the_kernel_has_is_compared_by_its_verdicts() {
        let script = script(&Options::default(), Inbound::Listening);
        assert_eq!(same(&script, LISTING), Ok(()));

        let without_exemption = LISTING.replace("\t\toifname \"lo\" accept\n", "");
        let said = same(&script, &without_exemption).unwrap_err();
        assert!(said.contains("`redirect to :15001` stands where `accept` should"), "{said}");

        let elsewhere = LISTING.replace("hook prerouting", "hook input");
        let said = same(&script, &elsewhere).unwrap_err();
        assert!(said.contains("type nat hook input"), "{said}");

        let cut = LISTING.replace("\t\tfib daddr", "\t\t# fib daddr").replace("to :15006\n\t}", "\n\t}");
        assert!(same(&script, &cut).is_err());
    }

    #[test]
    fn a_missing_right_is_told_from_a_refused_rule() {
        use std::os::unix::process::ExitStatusExt;
        let failed = |said: &str| {
            let status = std::process::ExitStatus::from_raw(256);
            finished(&Output { status, stdout: Vec::new(), stderr: said.into() }).unwrap_err().to_string()
        };
        let said = failed("netlink: Error: cache initialization failed: Operation not permitted");
        assert!(said.contains("add: [NET_ADMIN]"), "{said}");
        let said = failed("/dev/stdin:16:1: Error: Could not process rule: No such file or directory");
        assert!(said.starts_with("nft refused the rules: /dev/stdin:16"), "{said}");
    }
}
