//! A server as a good citizen of Kubernetes writes it: answers HTTP/1.1 with its name, and on SIGTERM goes
//! on for a while, because callers learn late, before it stops accepting, finishes what is in flight and
//! exits.
//!
//! Usage: fairlead-test-server ADDR MILLISECONDS_AFTER_SIGTERM

use std::time::Duration;

use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve())
}

async fn serve() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "0.0.0.0:8080".to_owned());
    let linger = arguments.next().map_or(Ok(3000), |text| text.parse())?;
    let name = std::fs::read_to_string("/etc/hostname")?.trim().to_owned();
    let listener = TcpListener::bind(&address).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = async move {
        terminate.recv().await;
        tokio::time::sleep(Duration::from_millis(linger)).await;
    };
    tokio::pin!(ended);
    let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let name = name.clone();
                let service = service_fn(move |_| {
                    let response = Response::builder().header("x-backend", &name).body(Full::<bytes::Bytes>::from(name.clone()));
                    std::future::ready(response)
                });
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(accepted?.0), service);
                connections.spawn(graceful.watch(connection));
            }
            () = &mut ended => break,
        }
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}
