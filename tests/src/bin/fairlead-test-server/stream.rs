//! A gRPC call whose messages go on: each is sent back before the next one goes.

use std::time::Duration;

use anyhow::ensure;
use fairlead_tests::rpc;
use tokio::time::{Instant, interval};

/// Between two messages.
const EVERY: Duration = Duration::from_millis(50);

/// Chats for so many seconds, and says how many messages came back.
pub async fn chat(address: &str, seconds: u64) -> anyhow::Result<()> {
    let client = rpc::Client::connect(super::serve::resolve(address).await?).await?;
    let mut call = client.begin("Chat", "").await?;
    let (start, mut clock, mut count) = (Instant::now(), interval(EVERY), 0u32);
    while start.elapsed() < Duration::from_secs(seconds) {
        clock.tick().await;
        let message = format!("message {count}");
        call.send(message.as_bytes()).await?;
        let back = call.next().await?;
        ensure!(back.as_ref() == Some(&rpc::prefixed(message.as_bytes())), "{message} became {back:?}");
        count += 1;
        if count.is_multiple_of(20) {
            super::load::say(&format!("made {count}"));
        }
    }
    call.finish()?;
    let reply = call.end().await?;
    ensure!(reply.code() == Some(0) && reply.messages.is_empty(), "it ended with {reply:?}");
    super::load::say(&serde_json::json!({"messages": count, "failed": 0}).to_string());
    Ok(())
}
