//! ServiceRoutes, OutlierDetections and RateLimitPolicies: those that are not in force, by what their status says.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use serde_json::Value;

use super::ask::Seen;
use super::line::{Line, count, names};

/// In the order in which they matter: who is not accepted is not programmed either.
const CONDITIONS: [&str; 4] = ["Accepted", "ResolvedRefs", "Programmed", "EndpointsHealthy"];

/// The objects of one kind.
#[derive(Debug)]
pub struct Kind {
    /// `serviceroute`.
    pub singular: &'static str,
    /// `ServiceRoutes`.
    pub many: &'static str,
    /// All of them.
    pub objects: Seen<Vec<DynamicObject>>,
}

/// One line for each kind and reason.
pub fn lines(kinds: &[Kind], only: &[String]) -> Vec<Line> {
    const ID: &str = "policy";
    let mut lines = Vec::new();
    let mut good = 0;
    for kind in kinds {
        let objects = match &kind.objects {
            Ok(objects) => objects,
            Err(unseen) => {
                lines.push(Line::unseen(ID, unseen));
                continue;
            }
        };
        let mut bad = BTreeMap::<(String, String), Vec<&DynamicObject>>::new();
        for object in objects {
            match trouble(object) {
                Some(trouble) => bad.entry(trouble).or_default().push(object),
                None => good += 1,
            }
        }
        for ((condition, reason), objects) in bad {
            let all: Vec<String> = objects.iter().map(|object| place(object)).collect();
            let message =
                format!("{} not {condition} ({reason}): {}", count(all.len(), "is", "are"), names(&all));
            let first = objects.first().map_or_else(String::new, |object| {
                let (namespace, name) =
                    (text(object.metadata.namespace.as_ref()), text(object.metadata.name.as_ref()));
                format!("kubectl -n {namespace} describe {} {name} says why", kind.singular)
            });
            lines.push(Line::warn(ID, kind.many, message, first));
        }
    }
    if lines.is_empty() {
        let message = match good {
            0 if only.is_empty() => {
                "there is no ServiceRoute, OutlierDetection or RateLimitPolicy".to_owned()
            }
            0 => format!("no ServiceRoute, OutlierDetection or RateLimitPolicy is in {}", names(only)),
            good => format!("{} in force", count(good, "object is", "objects are")),
        };
        lines.push(Line::pass(ID, "", message));
    }
    lines
}

/// The first condition that is not True, and its reason.
fn trouble(object: &DynamicObject) -> Option<(String, String)> {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let Some(conditions) = conditions.filter(|all| !all.is_empty()) else {
        return Some(("Accepted".to_owned(), "no operator has looked at it".to_owned()));
    };
    CONDITIONS.into_iter().find_map(|wanted| {
        let condition = conditions.iter().find(|one| one["type"] == wanted)?;
        let reason = condition["reason"].as_str().unwrap_or("no reason").to_owned();
        (condition["status"] != "True").then(|| (wanted.to_owned(), reason))
    })
}

fn place(object: &DynamicObject) -> String {
    format!("{}/{}", text(object.metadata.namespace.as_ref()), text(object.metadata.name.as_ref()))
}

fn text(text: Option<&String>) -> &str {
    text.map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::line::Verdict;

    fn object(name: &str, conditions: &Value) -> DynamicObject {
        serde_json::from_value(json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute",
            "metadata": {"name": name, "namespace": "shop"}, "status": {"conditions": conditions}}))
        .unwrap()
    }

    fn judge(objects: Vec<DynamicObject>) -> Vec<Line> {
        lines(&[Kind { singular: "serviceroute", many: "ServiceRoutes", objects: Ok(objects) }], &[])
    }

    #[test]
    fn those_that_are_not_in_force_are_named_with_the_reason() {
        let yes = |kind: &str| json!({"type": kind, "status": "True", "reason": kind});
        let no = |kind: &str, reason: &str| json!({"type": kind, "status": "False", "reason": reason});
        let good = object("good", &json!([yes("Accepted"), yes("ResolvedRefs"), yes("Programmed")]));
        assert_eq!(judge(vec![good.clone()])[0].verdict, Verdict::Pass);
        assert_eq!(judge(Vec::new())[0].verdict, Verdict::Pass);
        let nacked = json!([yes("Accepted"), no("Programmed", "Nacked")]);
        let lines = judge(vec![
            good,
            object("a", &json!([no("Accepted", "Invalid"), no("Programmed", "Invalid")])),
            object("b", &nacked),
            object("c", &nacked),
            object("d", &json!([])),
        ]);
        assert!(lines.iter().all(|line| line.verdict == Verdict::Warn));
        let said: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "1 is not Accepted (Invalid): shop/a",
                "1 is not Accepted (no operator has looked at it): shop/d",
                "2 are not Programmed (Nacked): shop/b, shop/c",
            ]
        );
        assert_eq!(lines[0].action, "kubectl -n shop describe serviceroute a says why");
    }
}
