//! One AdmissionReview (`admission.k8s.io/v1`): question in, answer out. Pure.

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inject::{Settings, Verdict, inject};

/// What became of a pod, for the metric.
pub type InjectionResult = &'static str;

/// What was sent is no AdmissionReview.
pub const UNREADABLE: InjectionResult = "unreadable";

const VERSION: &str = "admission.k8s.io/v1";
/// The API server cuts all warnings together at 4,096 characters, and each at 256.
const MOST_WARNINGS: usize = 8;

/// The question, as far as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Question,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    uid: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    object: Value,
}

/// The answer as JSON, and what became of the pod. `Err`: what is wrong with the question.
///
/// Which pods are asked about is the API server's affair (namespace, opt-out): here only what is in the pod counts.
pub fn answer(body: &[u8], settings: &Settings) -> Result<(Vec<u8>, InjectionResult), String> {
    let review: Review =
        serde_json::from_slice(body).map_err(|error| format!("this is no AdmissionReview: {error}"))?;
    if review.api_version != VERSION || review.kind != "AdmissionReview" {
        return Err(format!(
            "this is a {} of {}; send an AdmissionReview of {VERSION}",
            review.kind, review.api_version
        ));
    }
    let question = review.request;
    let (response, result) = decide(&question, settings);
    let answer = json!({ "apiVersion": VERSION, "kind": "AdmissionReview", "response": response });
    Ok((answer.to_string().into_bytes(), result))
}

fn decide(question: &Question, settings: &Settings) -> (Value, InjectionResult) {
    let uid = &question.uid;
    let pod = &question.object;
    let is_pod = pod.get("kind").and_then(Value::as_str) == Some("Pod");
    let sub_resource = question.sub_resource.as_deref().is_some_and(|name| !name.is_empty());
    if !is_pod || question.operation != "CREATE" || sub_resource {
        return (json!({ "uid": uid, "allowed": true }), "skipped");
    }
    let outcome = inject(pod, settings);
    let warnings: Vec<String> = outcome
        .warnings
        .iter()
        .take(MOST_WARNINGS)
        .map(|warning| warning.chars().take(250).collect())
        .collect();
    match outcome.verdict {
        Verdict::Skipped(_) => (json!({ "uid": uid, "allowed": true }), "skipped"),
        Verdict::Refused(reason) => {
            let message = format!("Fairlead cannot give this pod its sidecar: {reason}");
            let status = json!({ "code": 422, "reason": "Invalid", "message": message });
            (json!({ "uid": uid, "allowed": false, "status": status, "warnings": warnings }), "refused")
        }
        Verdict::Injected(injected) => {
            let patch = patch(pod, &injected);
            let mut response = json!({ "uid": uid, "allowed": true, "warnings": warnings });
            if let (false, Some(fields)) = (patch.is_empty(), response.as_object_mut()) {
                let patch = ByteString(Value::Array(patch).to_string().into_bytes());
                fields.insert("patchType".to_owned(), json!("JSONPatch"));
                fields.insert("patch".to_owned(), json!(patch));
            }
            (response, "injected")
        }
    }
}

/// The JSON patch (RFC 6902) from one to the other. Injection changes three fields and no others; `add` replaces a
/// member that exists.
fn patch(pod: &Value, injected: &Value) -> Vec<Value> {
    ["/metadata/annotations", "/spec/initContainers", "/spec/volumes"]
        .into_iter()
        .filter(|path| pod.pointer(path) != injected.pointer(path))
        .filter_map(|path| Some(json!({ "op": "add", "path": path, "value": injected.pointer(path)? })))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::{PROXY_UID, operator_address};

    fn settings() -> Settings {
        Settings {
            image: "proxy".into(),
            pull_policy: None,
            operator: operator_address("fairlead-system"),
            proxy_uid: PROXY_UID,
        }
    }

    fn ask(pod: &Value) -> (Value, InjectionResult) {
        let review = json!({
            "apiVersion": VERSION, "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5", "operation": "CREATE", "namespace": "shop", "dryRun": true,
                "kind": {"group": "", "version": "v1", "kind": "Pod"}, "object": pod,
            },
        });
        let (answer, result) = answer(review.to_string().as_bytes(), &settings()).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["apiVersion"], VERSION);
        assert_eq!(answer["response"]["uid"], "705ab4f5");
        (answer["response"].clone(), result)
    }

    fn pod(metadata: &Value, spec: &Value) -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        pod["spec"]["containers"] = json!([{"name": "app", "image": "app"}]);
        pod
    }

    /// What the API server makes of the patch.
    fn patched(pod: &Value, response: &Value) -> Value {
        let patch: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
        let patch: Value = serde_json::from_slice(&patch.0).unwrap();
        let mut pod = pod.clone();
        for step in patch.as_array().unwrap() {
            assert_eq!(step["op"], "add");
            let (parent, field) = step["path"].as_str().unwrap().rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field] = step["value"].clone();
        }
        pod
    }

    #[test]
    fn the_patch_is_the_injection() {
        for (metadata, spec) in [
            (json!({"generateName": "web-"}), json!({})),
            (
                json!({"annotations": {"a/b": "c"}}),
                json!({"initContainers": [{"name": "x"}], "volumes": [{"name": "y"}]}),
            ),
        ] {
            let pod = pod(&metadata, &spec);
            let (response, result) = ask(&pod);
            assert_eq!((&response["allowed"], result), (&json!(true), "injected"));
            assert_eq!(response["patchType"], "JSONPatch");
            let patched = patched(&pod, &response);
            assert_eq!(inject(&pod, &settings()).verdict, Verdict::Injected(patched.clone()));
            // Reinvoked with nothing to do, there is no patch.
            let (response, _) = ask(&patched);
            assert_eq!(response, json!({"uid": "705ab4f5", "allowed": true, "warnings": []}));
        }
    }

    #[test]
    fn what_is_not_ours_passes() {
        for pod in [
            pod(&json!({"annotations": {"fairlead.dev/inject": "false"}}), &json!({})),
            pod(&json!({}), &json!({"hostNetwork": true})),
            json!({"apiVersion": "v1", "kind": "ConfigMap"}),
            json!(null),
        ] {
            assert_eq!(ask(&pod), (json!({"uid": "705ab4f5", "allowed": true}), "skipped"));
        }
    }

    #[test]
    fn a_refusal_and_a_warning_say_what_to_write() {
        let (response, result) = ask(&pod(&json!({}), &json!({"securityContext": {"runAsUser": 1337}})));
        assert_eq!((&response["allowed"], result), (&json!(false), "refused"));
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.contains("uid 1337") && message.contains("write another"), "{message}");

        let (response, _) = ask(&pod(&json!({"annotations": {"fairlead.dev/worker": "2"}}), &json!({})));
        assert!(response["warnings"][0].as_str().unwrap().contains("did you mean fairlead.dev/workers?"));
        assert_eq!(response["allowed"], true);
    }

    #[test]
    fn rubbish_is_refused_with_a_reason() {
        let deep = "[".repeat(100_000);
        for body in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            "\u{0}",
            r#"{"apiVersion": 1}"#,
            &deep,
            r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#,
            r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "1"}}"#,
        ] {
            assert!(answer(body.as_bytes(), &settings()).is_err(), "{body}");
        }
        assert!(answer(&[0xff, 0xfe], &settings()).is_err());
    }
}
