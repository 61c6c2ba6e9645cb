//! The one way to start a task or a thread, so that none dies unseen.
//!
//! Half a proxy is worse than none: a panic anywhere ends the process (the release profile aborts; for all
//! profiles [`panics_end_the_process`] sees to it), and so does a service task that returns, for it has no
//! reason to while the process lives.

use std::future::Future;
use std::sync::Once;

/// The process's exit code when a part of it died.
pub const DIED: i32 = 70;

/// From now on a panic, wherever, is logged by the standard hook and then ends the process.
pub fn panics_end_the_process() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            report(info);
            std::process::exit(DIED);
        }));
    });
}

/// Starts a task that may end: a connection, a stream.
pub fn task(future: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "the spawner")]
    drop(tokio::spawn(future));
}

/// Starts a task that must not end: a listener, the xDS client. When it does, the process ends.
pub fn service(name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
    task(async move {
        future.await;
        tracing::error!(name, "a part of the proxy ended; so does the proxy");
        std::process::exit(DIED);
    });
}

/// hyper's executor on the runtime that it is used from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Executor;

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        task(future);
    }
}
