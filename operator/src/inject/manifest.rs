//! Injection of YAML: every object that makes pods, wherever its template is. What is not changed keeps its text
//! to the letter, comments too.

use serde_json::{Map, Value};

use super::annotation::PREFIX;
use super::{Settings, Verdict, inject};
use crate::yaml;

/// A text and what there is to say about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// With the sidecar in it.
    pub text: String,
    /// What its reader should know, in its order.
    pub notes: Vec<Note>,
}

/// Something about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where it stands: `web.yaml:12: Deployment shop/web`.
    pub place: String,
    /// What about it.
    pub what: What,
}

/// What there is to say about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It makes pods with the sidecar now.
    Injected,
    /// It stays as it is, with the reason.
    Skipped(&'static str),
    /// Goes on, but somebody should look.
    Warning(String),
    /// It must not run like this.
    Refused(String),
}

impl Manifest {
    /// Whether an object was refused: the text must not be used then.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.notes.iter().any(|note| matches!(note.what, What::Refused(_)))
    }
}

/// Injects every object of a text that makes pods. `Err`: it is not YAML.
pub fn manifest(file: &str, text: &str, settings: &Settings) -> Result<Manifest, String> {
    let mut notes = Vec::new();
    let mut documents = Vec::new();
    let mut changed = false;
    for (line, document) in yaml::documents(text) {
        let value = yaml::read(document, line)
            .map_err(|error| format!("{file}:{}: not YAML: {}", error.line, error.message))?;
        let mut object = Object { value, place: format!("{file}:{line}"), settings, notes: &mut notes };
        if object.inject(0) {
            changed = true;
            documents.push(format!("\n{}", yaml::write(&object.value)));
        } else {
            documents.push(document.to_owned());
        }
    }
    if !changed {
        return Ok(Manifest { text: text.to_owned(), notes });
    }
    let mut joined = String::new();
    for document in documents {
        joined.push_str("---");
        joined.push_str(if document.starts_with(char::is_whitespace) { "" } else { "\n" });
        joined.push_str(document.trim_end());
        joined.push('\n');
    }
    Ok(Manifest { text: joined, notes })
}

struct Object<'a> {
    value: Value,
    place: String,
    settings: &'a Settings,
    notes: &'a mut Vec<Note>,
}

impl Object<'_> {
    /// Injects it. True: something in it is another now.
    fn inject(&mut self, depth: usize) -> bool {
        let text = |field: &str| self.value.get(field).and_then(Value::as_str).unwrap_or_default();
        let (group, kind) = (text("apiVersion"), text("kind").to_owned());
        if kind.ends_with("List") && depth < yaml::LIST_DEPTH {
            return self.inject_items(depth);
        }
        let Some(pointer) = template(group, &kind) else { return false };
        let place = format!("{}: {kind} {}", self.place, name(&self.value));
        let mut say = |what| self.notes.push(Note { place: place.clone(), what });
        if !pointer.is_empty() {
            misplaced(&self.value, pointer).for_each(|warning| say(What::Warning(warning)));
        }
        let Some(pod) = self.value.pointer_mut(pointer).filter(|pod| pod.is_object()) else {
            say(What::Refused(format!("it has no pod in it; write {}", pointer.replace('/', "."))));
            return false;
        };
        let outcome = inject(pod, self.settings);
        outcome.warnings.into_iter().for_each(|warning| say(What::Warning(warning)));
        match outcome.verdict {
            Verdict::Injected(injected) => {
                let changed = *pod != injected;
                *pod = injected;
                say(What::Injected);
                changed
            }
            Verdict::Skipped(skipped) => {
                say(What::Skipped(skipped.reason()));
                false
            }
            Verdict::Refused(reason) => {
                say(What::Refused(reason));
                false
            }
        }
    }

    fn inject_items(&mut self, depth: usize) -> bool {
        let Some(mut items) = yaml::take_items(&mut self.value) else { return false };
        let mut changed = false;
        for item in &mut items {
            let value = item.take();
            let mut object =
                Object { value, place: self.place.clone(), settings: self.settings, notes: self.notes };
            changed |= object.inject(depth + 1);
            *item = object.value;
        }
        if let Some(emptied) = self.value.get_mut("items") {
            *emptied = items.into();
        }
        changed
    }
}

/// Where an object of this kind has its pod; none: it makes none.
fn template(api_version: &str, kind: &str) -> Option<&'static str> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(""),
        ("", "PodTemplate") => Some("/template"),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// Annotations of ours that stand at the object instead of its pods.
fn misplaced<'a>(object: &'a Value, pointer: &'a str) -> impl Iterator<Item = String> + 'a {
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
    annotations.into_iter().flat_map(Map::keys).filter(|name| name.starts_with(PREFIX)).map(move |name| {
        format!(
            "annotation {name} has no effect here; write it in {}.metadata.annotations",
            pointer.trim_start_matches('/').replace('/', ".")
        )
    })
}

fn name(object: &Value) -> String {
    let text = |field: &str| object.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
    let name = text("name").or_else(|| text("generateName")).unwrap_or("without a name");
    text("namespace").map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}
