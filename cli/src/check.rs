//! `fairlead check`: can it be installed, and is it well? One line a check, each with what to do.
//!
//! ```text
//! files ── crds::validate ──────────────────────────────────────────────┐
//! API server ── ask (time limits, rights) ── gather ── before | after ──┴── lines ── text | JSON, exit code
//! ```
//!
//! What is asked stands in `gather`; every judgement is a pure function of what was told. What may not be seen is
//! a warning that names the right, never a failure.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use jiff::Timestamp;

use self::gather::{Cluster, Installed};
use self::line::{Group, Line, Verdict};
use crate::cli::{Check, Output};

mod gather;
mod before;
mod operator;
mod namespaces;
mod pods;
mod policies;
mod files;
mod line;
mod ask;

/// The API server could not be asked, or a file not be read; clap's own for a command that makes no sense.
const UNUSABLE: u8 = 2;

/// Checks what the command names, and prints it.
pub fn run(command: &Check) -> Result<ExitCode> {
    if !command.files.is_empty() {
        return match files::check(&command.files) {
            Ok(groups) => print(command, &groups),
            Err(error) => {
                writeln!(std::io::stderr(), "fairlead check: {error:#}")?;
                Ok(ExitCode::from(UNUSABLE))
            }
        };
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(cluster(command))
}

async fn cluster(command: &Check) -> Result<ExitCode> {
    let cluster = match Cluster::reach(command).await {
        Ok(cluster) => cluster,
        Err(error) => {
            let action =
                "kubectl cluster-info; kubectl config current-context; --context NAME chooses another";
            let line =
                Line::fail("api-server", "", format!("the API server cannot be asked: {error:#}"), action);
            print(command, &[("Cluster", vec![line])])?;
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    let groups = match Installed::find(&cluster).await {
        None => before(&cluster, false).await,
        Some(installed) if command.pre => before(&cluster, installed.deployment.is_ok()).await,
        // Large, and made once: it has every question.
        Some(installed) => Box::pin(after(&cluster, installed)).await?,
    };
    print(command, &groups)
}

/// Whether it can be installed; `installed`: it is.
async fn before(cluster: &Cluster, installed: bool) -> Vec<Group> {
    let (namespace, release) = (&*cluster.namespace, &*cluster.release);
    let (rights, nodes, definitions, hook, (namespaces, mut labels)) = tokio::join!(
        cluster.rights(),
        cluster.nodes(),
        cluster.definitions(),
        cluster.hook(),
        cluster.namespaces()
    );
    let mut lines = vec![cluster.version_line()];
    lines.extend(before::rights(namespace, &rights));
    lines.push(before::kernels(&nodes));
    if !before::is_elsewhere(&hook, namespace) {
        lines.extend(before::definitions(namespace, release, &definitions));
    }
    lines.push(before::other_mesh(namespace, release, &hook, installed));
    labels.extend(namespaces::pod_security(&namespaces, &cluster.only));
    vec![("Cluster, before an install", lines), ("Namespaces", labels)]
}

/// Whether it is well.
async fn after(cluster: &Cluster, installed: Installed) -> Result<Vec<Group>> {
    let ours = fairlead_crds::definition::all().context("this program's definitions")?;
    let seen = Box::pin(cluster.see(installed)).await;
    let now = Timestamp::now();
    let (namespace, release) = (&*cluster.namespace, &*cluster.release);

    let policy = operator::Policy::of(&seen.hook);
    let mut operator = Vec::new();
    match &seen.installed.deployment {
        Ok(deployment) => {
            operator.push(operator::replicas(deployment, policy, namespace));
            operator.push(operator::version(deployment, env!("CARGO_PKG_VERSION")));
        }
        Err(unseen) => operator.push(Line::unseen("operator-ready", unseen)),
    }
    operator.extend(operator::definitions(&seen.definitions, &ours));
    operator.push(operator::lease(&seen.lease, &seen.replicas, namespace, now));
    operator.extend(operator::certificates(&seen.replicas, &seen.metrics, namespace, now));
    operator.push(operator::hook(&seen.hook, release, namespace));
    operator.push(operator::webhook(&seen.trial, policy, release, namespace));

    let bundle = seen.hook.as_ref().ok().and_then(|hook| operator::ca_bundle(hook.as_ref()?));
    let bundle = bundle.as_deref().and_then(fairlead_operator::certificates::authority::Bundle::read);
    let mut namespaces = seen.labels;
    namespaces.extend(namespaces::pod_security(&seen.namespaces, &cluster.only));
    let mut pods = Vec::new();
    let image = seen.installed.deployment.as_ref().ok().and_then(operator::proxy_image);
    // Of namespaces that may not be seen nothing more is known.
    if seen.namespaces.is_ok() {
        namespaces.extend(namespaces::bundles(&seen.copies, bundle.as_ref(), namespace, &cluster.only));
        pods = pods::lines(&seen.meshed, image, &seen.clients, namespace, now);
    }

    Ok(vec![
        ("Cluster", vec![cluster.version_line(), before::kernels(&seen.nodes)]),
        ("Operator", operator),
        ("Namespaces", namespaces),
        ("Pods", pods),
        ("Policies", policies::lines(&seen.policies, &cluster.only)),
    ])
}

/// Prints the lines, and says by the exit code whether something failed.
fn print(command: &Check, groups: &[Group]) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match command.output {
        Output::Text => {
            let coloured = out.is_terminal();
            line::text(&mut out, groups, coloured)?;
        }
        Output::Json => writeln!(out, "{:#}", line::json(groups))?,
    }
    out.flush()?;
    Ok(if line::worst(groups) == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
