//! The words about the operator: where it is, how it is known, and how it knows us.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

/// Of the command line.
#[derive(Debug, Clone, Args)]
pub struct OperatorFlags {
    /// The operator, or any other xDS server: http://ADDR, or https://ADDR with --operator-ca
    #[arg(long, env = "FAIRLEAD_OPERATOR", value_name = "URL", value_parser = uri)]
    pub operator: http::Uri,
    /// The certificates (PEM) of which one has signed the operator's; read anew for every connection
    #[arg(long, env = "FAIRLEAD_OPERATOR_CA", value_name = "FILE")]
    pub operator_ca: Option<PathBuf>,
    /// The token that says who we are; read anew for every connection
    #[arg(long, env = "FAIRLEAD_OPERATOR_TOKEN", value_name = "FILE")]
    pub operator_token: Option<PathBuf>,
}

/// The server, and what it takes to speak with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// `http://` or `https://`, with a port.
    pub uri: http::Uri,
    /// With https, and only then.
    pub ca: Option<PathBuf>,
    /// With https only: a token is a secret.
    pub token: Option<PathBuf>,
}

impl OperatorFlags {
    /// Checks what no flag can say by itself.
    pub(super) fn check(self) -> Result<Operator, String> {
        let https = self.operator.scheme_str() == Some("https");
        let there = "mounted in a pod at /var/run/fairlead/ca.crt";
        match (https, &self.operator_ca, &self.operator_token) {
            (true, None, _) => Err(format!(
                "--operator {}: nothing says which certificates are the operator's; add --operator-ca FILE, {there}",
                self.operator
            )),
            (false, Some(_), _) => Err(format!(
                "--operator-ca is for TLS, which http:// is not; write --operator https://{}",
                self.authority()
            )),
            (false, None, Some(_)) => Err(format!(
                "--operator-token would be readable on the way; write --operator https://{} and add --operator-ca FILE, {there}",
                self.authority()
            )),
            _ => Ok(Operator { uri: self.operator, ca: self.operator_ca, token: self.operator_token }),
        }
    }

    fn authority(&self) -> &str {
        self.operator.authority().map_or("ADDR", http::uri::Authority::as_str)
    }
}

impl FromStr for Operator {
    type Err = String;

    /// `http://ADDR` alone: nothing secret, nothing checked.
    fn from_str(text: &str) -> Result<Self, String> {
        let (operator_ca, operator_token) = (None, None);
        OperatorFlags { operator: uri(text)?, operator_ca, operator_token }.check()
    }
}

fn uri(text: &str) -> Result<http::Uri, String> {
    let form = "write http://ADDR or https://ADDR, for example http://127.0.0.1:15010";
    let uri: http::Uri = text.parse().map_err(|error| format!("{error}; {form}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.port_u16().is_some() => {}
        (Some("http" | "https"), Some(_)) => return Err(format!("the port is missing; {form}")),
        _ => return Err(format!("it is no http or https URL; {form}")),
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(format!("it has a path, which xDS does not; {form}"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_is_a_plain_url() {
        for (text, wanted) in [
            ("127.0.0.1:15010", "write http://ADDR"),
            ("ftp://operator:15010", "it is no http or https URL"),
            ("http://operator", "the port is missing"),
            ("https://operator", "the port is missing"),
            ("http://operator:15010/xds", "it has a path"),
        ] {
            let said = uri(text).unwrap_err();
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_secret_or_checked_needs_tls_and_tls_something_to_check() {
        let check = |operator: &str, ca: Option<&str>, token: Option<&str>| {
            OperatorFlags {
                operator: operator.parse().unwrap(),
                operator_ca: ca.map(Into::into),
                operator_token: token.map(Into::into),
            }
            .check()
        };
        for (operator, ca, token, wanted) in [
            ("https://o:1", None, None, "add --operator-ca FILE"),
            ("https://o:1", None, Some("t"), "add --operator-ca FILE"),
            ("http://o:1", Some("c"), None, "write --operator https://o:1"),
            ("http://o:1", None, Some("t"), "readable on the way; write --operator https://o:1"),
        ] {
            let said = check(operator, ca, token).unwrap_err();
            assert!(said.contains(wanted), "{operator}: {said}");
        }
        let operator = check("https://o:1", Some("c"), Some("t")).unwrap();
        assert_eq!((operator.ca, operator.token), (Some("c".into()), Some("t".into())));
        assert!(check("https://o:1", Some("c"), None).is_ok());
        assert!(check("http://o:1", None, None).is_ok());
    }
}
