//! The steps: each shows the YAML that causes something, lets it happen, and measures it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::instance::CRASH;
use super::screen::Screen;
use super::stage::Stage;

/// Round robin gives each instance the same number of calls.
pub async fn spread(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let yaml = stage.read("reviews-route.yaml")?;
    screen.yaml("reviews-route.yaml", &part(&yaml, "  loadBalancer:"))?;
    let counts = stage.frontend.count("/info", 30).await?;
    let fair = counts.len() == 3 && counts.values().all(|count| *count == 10);
    screen.promise(fair, &format!("30 calls: {}", shown(&counts)))?;
    Ok(())
}

/// Weights are exact; a header match beats them.
pub async fn split(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let yaml = stage.read("reviews-route.yaml")?;
    screen.yaml("reviews-route.yaml", &part(&yaml, "  - name: testers"))?;
    screen.yaml("reviews-route.yaml", &part(&yaml, "  - name: canary"))?;
    let counts = stage.frontend.count("/canary", 100).await?;
    let next = counts.get("reviews-v2").copied().unwrap_or(0);
    let old: u32 = counts
        .iter()
        .filter(|(name, _)| name.starts_with("reviews-") && *name != "reviews-v2")
        .map(|(_, count)| count)
        .sum();
    screen.promise(
        (old, next) == (90, 10),
        &format!("100 calls of /canary: {old} to reviews, {next} to reviews-v2"),
    )?;
    let before = stage.next_version.processed();
    for _ in 0..10 {
        stage.frontend.call(Method::GET, "/info", Some(("x-tester", "yes"))).await?;
    }
    let testers = stage.next_version.processed() - before;
    screen.promise(testers == 10, &format!("10 calls with x-tester: yes: {testers} to reviews-v2"))?;
    Ok(())
}

/// From the saved file to the first call on the new endpoint.
pub async fn new_instance(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let address = stage.fourth().await?;
    let line = format!("- {{addresses: [{address}], conditions: {{ready: true}}}}\n");
    screen.yaml("reviews-endpoints.yaml, one more line", &line)?;
    let old = stage.read("reviews-endpoints.yaml")?;
    let start = Instant::now();
    stage.write("reviews-endpoints.yaml", &format!("{old}{line}"))?;
    while stage.frontend.get("/info").await?.body != "reviews-4" {
        sleep(Duration::from_millis(1)).await;
    }
    let took = start.elapsed();
    screen.promise(
        took < Duration::from_secs(2),
        &format!("first call on reviews-4 {} after the file was saved", milliseconds(took)),
    )?;

    stage.write("reviews-endpoints.yaml", &old)?;
    let listed = |counts: &BTreeMap<String, u32>| counts.contains_key("reviews-4");
    while listed(&stage.frontend.count("/info", 8).await?) || listed(&stage.mobile.count("/info", 8).await?) {
    }
    stage.reviews.pop();
    let counts = stage.frontend.count("/info", 30).await?;
    let fine = counts.len() == 3 && !listed(&counts);
    screen.promise(fine, &format!("taken out again, then ended: 30 calls: {}", shown(&counts)))?;
    Ok(())
}

/// Five errors in a row, out; after its time, in again.
pub async fn ejection(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.yaml("reviews-outlier.yaml", &part(&stage.read("reviews-outlier.yaml")?, "spec:"))?;
    let sick = stage.reviews.get(1).context("three instances")?;
    let name = sick.name.to_string();
    sick.fail(true);
    let counts = stage.frontend.count("/info", 60).await?;
    let ejected = Instant::now();
    let errors = counts.get("503").copied().unwrap_or(0);
    screen.promise(
        errors == 5,
        &format!("{name} answers 503; of 60 calls {errors} met it: {}", shown(&counts)),
    )?;

    if let Some(sick) = stage.reviews.get(1) {
        sick.fail(false);
    }
    let mut failed = 0;
    loop {
        let answer = stage.frontend.get("/info").await?;
        if answer.body == name && answer.status == StatusCode::OK {
            break;
        }
        failed += u32::from(answer.status != StatusCode::OK);
        sleep(Duration::from_millis(20)).await;
    }
    let back = ejected.elapsed().as_secs_f64();
    let in_time = (1.0..8.0).contains(&back) && failed == 0;
    screen.promise(
        in_time,
        &format!(
            "{name} is well again, and gets calls again after {back:.1} s; {failed} calls failed meanwhile"
        ),
    )?;
    Ok(())
}

/// A refused connection is tried elsewhere, whatever the method; a POST that was sent is not.
pub async fn retries(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.yaml("reviews-route.yaml", &part(&stage.read("reviews-route.yaml")?, "  - name: default"))?;
    let gone = stage.reviews.first_mut().context("three instances")?;
    gone.stop().await;
    let name = gone.name.to_string();
    let before: u32 = stage.reviews.iter().map(super::instance::Instance::processed).sum();
    let (mut fine, mut calls) = (0, 0);
    for _ in 0..15 {
        for method in [Method::GET, Method::POST] {
            calls += 1;
            let answer = stage.frontend.call(method, "/info", None).await?;
            fine += u32::from(answer.status == StatusCode::OK);
        }
    }
    let processed = stage.reviews.iter().map(super::instance::Instance::processed).sum::<u32>() - before;
    screen.promise(
        fine == calls && processed == calls,
        &format!("{name} is gone without a word: {fine} of {calls} calls answered 200, {processed} processed, half of them POSTs"),
    )?;
    stage.reviews.first_mut().context("three instances")?.resume().await?;

    let before: u32 = stage.reviews.iter().map(super::instance::Instance::processed).sum();
    let answer = stage.frontend.call(Method::POST, "/info", Some((CRASH, "yes"))).await?;
    let processed = stage.reviews.iter().map(super::instance::Instance::processed).sum::<u32>() - before;
    screen.promise(
        processed == 1 && answer.status.is_server_error(),
        &format!(
            "a POST is read, then the connection breaks: processed {processed} time, the caller gets {}",
            answer.status.as_u16()
        ),
    )?;
    Ok(())
}

/// The sixth of six is refused, and what it is told about the next token is true.
pub async fn limit(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.yaml("orders-limit.yaml", &part(&stage.read("orders-limit.yaml")?, "spec:"))?;
    let before = stage.orders.processed();
    let mut statuses = Vec::new();
    let mut last = None;
    for _ in 0..6 {
        let answer = stage.buyer.get("/orders").await?;
        statuses.push(answer.status.as_str().to_owned());
        last = Some(answer);
    }
    let processed = stage.orders.processed() - before;
    let refused = last.context("six calls were made")?;
    let header = |name: &str| refused.number(name);
    let told = (header("ratelimit-limit"), header("ratelimit-remaining"), header("retry-after"));
    let right = statuses == ["200", "200", "200", "200", "200", "429"] && processed == 5;
    screen.promise(right, &format!("six calls at once: {}; orders saw {processed}", statuses.join(" ")))?;
    let (limit, remaining) = (told.0.unwrap_or(0), told.1.unwrap_or(99));
    let (reset, wait) = (header("ratelimit-reset"), told.2.unwrap_or(99));
    screen.promise(
        limit == 5 && remaining == 0 && (1..=2).contains(&wait) && reset.is_some(),
        &format!(
            "RateLimit-Limit: {limit}, -Remaining: {remaining}, -Reset: {}, Retry-After: {wait}",
            reset.unwrap_or(0)
        ),
    )?;
    sleep(Duration::from_secs(wait.min(5))).await;
    let answer = stage.buyer.get("/orders").await?;
    screen.promise(
        answer.status == StatusCode::OK,
        &format!("after these {wait} s: {}", answer.status.as_u16()),
    )?;
    Ok(())
}

/// From the saved file to the new answer at both callers, and what the operator says about it.
pub async fn edit(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    const BANNER: &str = "So long and thanks for all the fish!";
    let old = stage.read("reviews-route.yaml")?;
    let rule = format!(
        "  - name: maintenance
    matches: [{{path: {{value: /info}}}}]
    filters:
    - {{type: DirectResponse, directResponse: {{status: 403, body: \"{BANNER}\"}}}}
"
    );
    screen.yaml("reviews-route.yaml, one more rule", &rule)?;
    let new = old.replace("  - name: default\n", &format!("{rule}  - name: default\n"));
    let start = Instant::now();
    stage.write("reviews-route.yaml", &new)?;
    while stage.frontend.get("/info").await?.body != BANNER {}
    let frontend = start.elapsed();
    while stage.mobile.get("/info").await?.body != BANNER {}
    let mobile = start.elapsed();
    let acked = stage.programmed("ServiceRoute", "reviews").await?;
    let took = format!("frontend after {}, mobile after {}", milliseconds(frontend), milliseconds(mobile));
    screen.promise(mobile < Duration::from_secs(2), &format!("in force: {took}"))?;
    screen.promise(acked == "acked 2/2", &format!("the operator knows: {acked}"))?;

    let before: u32 = stage.reviews.iter().map(super::instance::Instance::processed).sum();
    let counts = stage.frontend.count("/info", 10).await?;
    let seen = stage.reviews.iter().map(super::instance::Instance::processed).sum::<u32>() - before;
    screen.promise(seen == 0, &format!("ten calls: {}; reviews saw {seen} of them", shown(&counts)))?;

    stage.write("reviews-route.yaml", &old)?;
    while stage.frontend.get("/info").await?.status != StatusCode::OK {}
    while stage.mobile.get("/info").await?.status != StatusCode::OK {}
    screen.promise(true, "saved as it was: both are answered by reviews again, nothing was restarted")?;
    Ok(())
}

/// The operator says what is wrong with it; every other rule goes on.
pub async fn bad_rule(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let yaml = "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: typo, namespace: shop}
spec:
  parentRefs: [{name: orders}]
  rules:
  - backendRefs: [{name: orders, port: 9080, weight: -1}]
";
    screen.yaml("typo.yaml", yaml)?;
    stage.write("typo.yaml", yaml)?;
    let condition = loop {
        if let Some(object) = stage.object("ServiceRoute", "typo").await?
            && let Some(condition) = accepted(&object)
        {
            break condition;
        }
        sleep(Duration::from_millis(2)).await;
    };
    let text = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let named = text("message").contains("weight");
    screen.promise(
        text("status") == "False" && named,
        &format!(
            "shop/typo: Accepted={}, {}: {}",
            text("status"),
            text("reason"),
            text("message").replace('\n', "; ")
        ),
    )?;
    let counts = stage.frontend.count("/info", 30).await?;
    let more = stage.mobile.count("/info", 30).await?;
    let fine = counts.len() == 3 && more.keys().all(|name| name.starts_with("reviews-"));
    screen.promise(fine, &format!("everybody else: {}; {}", shown(&counts), shown(&more)))?;
    stage.remove("typo.yaml")?;
    Ok(())
}

fn accepted(object: &Value) -> Option<Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|one| one.get("type").is_some_and(|kind| kind == "Accepted")).cloned()
}

/// The lines from the one that begins so to the next that is not indented deeper.
fn part(yaml: &str, start: &str) -> String {
    let depth = start.len() - start.trim_start().len();
    let mut lines = yaml.lines().skip_while(|line| !line.starts_with(start));
    let first = lines.next().unwrap_or_default();
    let rest = lines.take_while(|line| {
        line.len() - line.trim_start().len() > depth || line.starts_with(&format!("{}  ", " ".repeat(depth)))
    });
    std::iter::once(first).chain(rest).collect::<Vec<_>>().join("\n")
}

fn shown(counts: &BTreeMap<String, u32>) -> String {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
