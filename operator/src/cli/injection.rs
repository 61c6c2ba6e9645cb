//! The flags of injection.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use super::{Nonsense, address};

/// What was typed.
#[derive(Clone, Debug, Args)]
pub struct InjectionFlags {
    /// Where the webhook is served, over TLS
    #[arg(long, env = "FAIRLEAD_WEBHOOK_LISTEN", value_name = "ADDR", default_value = "[::]:15017", value_parser = address)]
    webhook_listen: SocketAddr,
    /// The image of the sidecar that is injected; without it no webhook is served
    #[arg(long, env = "FAIRLEAD_PROXY_IMAGE", value_name = "IMAGE")]
    proxy_image: Option<String>,
    /// When the kubelet pulls that image [default: as Kubernetes decides by its tag]
    #[arg(long, env = "FAIRLEAD_PROXY_PULL_POLICY", value_enum)]
    proxy_pull_policy: Option<PullPolicy>,
    /// The uid that the sidecar runs as; a pod whose own container has it is refused
    #[arg(long, env = "FAIRLEAD_PROXY_UID", value_name = "UID", default_value_t = 1337, value_parser = clap::value_parser!(i64).range(1..=i64::from(i32::MAX)))]
    proxy_uid: i64,
}

/// The `imagePullPolicy` of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Not at all.
    Never,
}

impl PullPolicy {
    /// As in a manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// What is injected, and where the webhook is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Where the webhook is served.
    pub listen: SocketAddr,
    /// The sidecar's image.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: Option<PullPolicy>,
    /// The sidecar's uid.
    pub uid: i64,
}

impl InjectionFlags {
    /// What is meant; none: nothing is injected. `tls`: there are certificates to serve it
    /// with.
    pub(super) fn interpret(self, tls: bool) -> Result<Option<Injection>, Nonsense> {
        let Some(image) = self.proxy_image.filter(|image| !image.is_empty()) else { return Ok(None) };
        if !tls {
            return Err(Nonsense(
                "--proxy-image is for the webhook, which needs the Kubernetes API and --identity token; leave it out".into(),
            ));
        }
        if image.chars().any(char::is_whitespace) {
            return Err(Nonsense(format!(
                "--proxy-image {image:?} is no image; write for instance localhost/fairlead-proxy:{}",
                env!("CARGO_PKG_VERSION")
            )));
        }
        let (listen, pull_policy, uid) = (self.webhook_listen, self.proxy_pull_policy, self.proxy_uid);
        Ok(Some(Injection { listen, image, pull_policy, uid }))
    }
}
