//! `fairlead demo` keeps its promises.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fairlead_tests::program;
use tokio::process::Command;

#[tokio::test]
async fn demo_keeps_every_promise_within_a_minute() {
    for binary in ["fairlead-operator", "fairlead-proxy"] {
        program::path(binary);
    }
    let log = program::logs().join("demo.log");
    println!("log of the demo, which names those of its programs: {}", log.display());
    let said = File::create(&log).unwrap();
    let start = Instant::now();
    let mut demo = Command::new(program::path("fairlead"));
    demo.arg("demo").env_remove("KEEP").stdin(Stdio::null()).kill_on_drop(true);
    let mut demo = demo.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(90), demo.wait()).await;
    println!("{}", std::fs::read_to_string(&log).unwrap());
    let status = ended.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
}
