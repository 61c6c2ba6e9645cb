//! `fairlead demo` keeps its promises.

use std::process::Stdio;
use std::time::{Duration, Instant};

use fairlead_tests::program;
use tokio::process::Command;

#[tokio::test]
async fn demo_keeps_every_promise_within_a_minute() {
    for binary in ["fairlead-operator", "fairlead-proxy"] {
        program::path(binary);
    }
    let start = Instant::now();
    let mut demo = Command::new(program::path("fairlead"));
    demo.arg("demo").env_remove("KEEP").stdin(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(Duration::from_secs(90), demo.output()).await.expect("it ends").unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
}
