//! Where there is no API server nobody sees a status, so the log says what is wrong with an object: once, when it
//! begins or is something else, and once when it is over.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairlead_crds::Status;
use fairlead_crds::status::{condition, reason};
use tokio::sync::watch;

use super::Board;
use crate::model::ObjectRef;

/// Says what is wrong with each object whenever the board changes, until nobody changes it any more.
pub async fn run(board: Arc<Board>, mut changed: watch::Receiver<()>) {
    let mut told = BTreeMap::new();
    loop {
        changed.borrow_and_update();
        for (object, wrong) in news(&mut told, &board.shown().statuses) {
            match wrong {
                Some(wrong) => tracing::warn!(%object, "{wrong}"),
                None => tracing::info!(%object, "nothing is wrong with it any more"),
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// What is wrong now and was not told before; none: it was, and is over. Notes it in `told`.
fn news(
    told: &mut BTreeMap<ObjectRef, String>,
    statuses: &BTreeMap<ObjectRef, Status>,
) -> Vec<(ObjectRef, Option<String>)> {
    told.retain(|object, _| statuses.contains_key(object));
    let mut news = Vec::new();
    for (object, status) in statuses {
        let wrong = wrong(status);
        if told.get(object) != wrong.as_ref() {
            match &wrong {
                Some(wrong) => told.insert(object.clone(), wrong.clone()),
                None => told.remove(object),
            };
            news.push((object.clone(), wrong));
        }
    }
    news
}

/// The conditions that ask somebody to write something else, each message once. What passes by itself, as long
/// as sidecars have not answered, is not among them.
fn wrong(status: &Status) -> Option<String> {
    let mut said = Vec::new();
    let mut messages = Vec::new();
    for it in &status.conditions {
        let bad = match &*it.type_ {
            condition::ACCEPTED | condition::RESOLVED_REFS => it.status == "False",
            condition::CONFLICTED => it.status == "True",
            condition::PROGRAMMED => it.reason == reason::REJECTED,
            _ => false,
        };
        if bad && !messages.contains(&&it.message) {
            messages.push(&it.message);
            said.push(format!("{}={}, {}: {}", it.type_, it.status, it.reason, it.message));
        }
    }
    (!said.is_empty()).then(|| said.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Kind, ObjectKey};

    fn status(conditions: &[(&str, &str, &str, &str)]) -> Status {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(of, status, reason, message)| {
                json!({"type": of, "status": status, "reason": reason, "message": message,
                       "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({ "conditions": conditions })).unwrap()
    }

    #[test]
    fn what_is_wrong_is_told_once_and_so_is_its_end() {
        let object = ObjectRef::new(Kind::ServiceRoute, ObjectKey::new("shop", "reviews"));
        let good =
            status(&[("Accepted", "True", "Accepted", ""), ("Programmed", "False", "Pending", "wait")]);
        let bad = status(&[
            ("Accepted", "False", "Conflicted", "shop/other is older"),
            ("Conflicted", "True", "Conflicted", "shop/other is older"),
        ]);
        let mut told = BTreeMap::new();
        let mut hear = |status: &Status| news(&mut told, &[(object.clone(), status.clone())].into());
        assert_eq!(hear(&good), []);
        let wrong = "Accepted=False, Conflicted: shop/other is older".to_owned();
        assert_eq!(hear(&bad), [(object.clone(), Some(wrong))]);
        assert_eq!(hear(&bad), []);
        assert_eq!(hear(&good), [(object.clone(), None)]);
        hear(&bad);
        // Gone, nothing is left to tell of it.
        assert_eq!(news(&mut told, &BTreeMap::new()), []);
        assert!(told.is_empty());
    }
}
