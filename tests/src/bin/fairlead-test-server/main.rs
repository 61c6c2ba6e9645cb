//! What runs in the pods of the e2e tests: servers and callers that know nothing of a mesh.
//!
//! ```text
//! fairlead-test-server serve ADDR [LINGER_MS [ANSWER]]   HTTP/1.1; ANSWER: name | text:TEXT | status:NUMBER
//! fairlead-test-server grpc ADDR                         gRPC: the methods of `rpc::Application`
//! fairlead-test-server order ADDR PRODUCT                HTTP in front of gRPC: GET /orders calls PRODUCT
//! fairlead-test-server echo ADDR                         bytes, each sent back
//! fairlead-test-server netexec --http-port=PORT          as agnhost does: HTTP/1.1, answers the pod's name
//! fairlead-test-server pause                             as agnhost does: listens nowhere
//! fairlead-test-server idle [URL]                        waits for SIGTERM, and then calls URL
//! fairlead-test-server bytes ADDR                        a megabyte to an echo: the same must come back
//! fairlead-test-server upgrade URL                       a WebSocket's handshake and bytes: the same must come back
//! fairlead-test-server upload URL BYTES                  so many bytes to a `serve`: their sum must come back
//! fairlead-test-server stream ADDR SECONDS               one gRPC call whose messages go on for so long
//! fairlead-test-server load URL [FLAGS]                  calls URL until standard input ends; says what came of it
//! fairlead-test-server check URL                         fails unless a call is answered with 200
//! fairlead-test-server kill NAME                         kills the processes of that name that it can see
//! fairlead-test-server subscribe ADDR NODE TYPE NAME [COUNT] [REFUSAL]   an xDS client with the pod's own token
//! fairlead-test-server flood ADDR BYTES                  an admission request of so many bytes
//! ```

// A harness says things on standard output and starts tasks: it is no part of the product.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

mod bytes;
mod load;
mod serve;
mod stranger;
mod stream;

use anyhow::{Context, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(run());
    // A read of standard input is not waited for.
    runtime.shutdown_background();
    ended
}

async fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next().context("give a role")?;
    let mut next = |what: &str| arguments.next().with_context(|| format!("{role} needs {what}"));
    match role.as_str() {
        "serve" => {
            let address = next("ADDR")?;
            let linger = next("").map_or(Ok(3000), |text| text.parse())?;
            let answer = next("").unwrap_or_else(|_| "name".to_owned());
            serve::http(&address, linger, &answer).await
        }
        "grpc" => serve::grpc(next("ADDR")?.parse()?).await,
        "order" => serve::order(&next("ADDR")?, &next("PRODUCT")?).await,
        "echo" => serve::echo(&next("ADDR")?).await,
        // What the documentation's application is asked for, see e2e/alone/docs.rs.
        "netexec" => {
            let port = next("--http-port=PORT")?;
            let port = port.strip_prefix("--http-port=").context("write --http-port=PORT")?;
            serve::http(&format!("0.0.0.0:{port}"), 3000, "name").await
        }
        "pause" => terminated().await,
        "idle" => {
            terminated().await?;
            match next("URL") {
                Ok(url) => {
                    load::run(load::Flags::parse([url, "--count".into(), "1".into()].into_iter())?).await
                }
                Err(_) => Ok(()),
            }
        }
        "bytes" => bytes::echoed(&next("ADDR")?).await,
        "upgrade" => bytes::upgraded(&next("URL")?).await,
        "upload" => bytes::uploaded(&next("URL")?, next("BYTES")?.parse()?).await,
        "stream" => stream::chat(&next("ADDR")?, next("SECONDS")?.parse()?).await,
        "check" => load::check(&next("URL")?).await,
        "kill" => kill(&next("NAME")?),
        "subscribe" => {
            let (address, node, kind, name) = (next("ADDR")?, next("NODE")?, next("TYPE")?, next("NAME")?);
            let count = next("COUNT").map_or(Ok(1), |count| count.parse())?;
            stranger::subscribe(&address, &node, &kind, &name, count, next("REFUSAL").ok()).await
        }
        "flood" => stranger::flood(&next("ADDR")?, next("BYTES")?.parse()?).await,
        "load" => load::run(load::Flags::parse(arguments)?).await,
        other => bail!("{other} is no role"),
    }
}

/// Returns at SIGTERM.
async fn terminated() -> anyhow::Result<()> {
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}

/// Sends SIGKILL to every process of this name but ourselves: of this container, or of the pod where its
/// containers share their processes.
fn kill(name: &str) -> anyhow::Result<()> {
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|id| id.parse::<i32>().ok()) else { continue };
        // What has ended meanwhile has no name any more.
        let is_it = std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.trim() == name);
        if let Some(process) = rustix::process::Pid::from_raw(id)
            && is_it
            && process != rustix::process::getpid()
        {
            rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
            killed += 1;
        }
    }
    ensure!(killed > 0, "no process is called {name}");
    Ok(())
}

/// What the pod is called.
fn name() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string("/etc/hostname")?.trim().to_owned())
}
