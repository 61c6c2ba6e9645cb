use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::manifest::{Manifest, What, manifest};
use super::*;

fn settings() -> Settings {
    Settings {
        image: "localhost/fairlead-proxy:0.1.0".into(),
        pull_policy: None,
        operator: operator_address("fairlead-system"),
        proxy_uid: PROXY_UID,
    }
}

/// What `fairlead inject` says and writes for a file.
fn shown(done: &Manifest) -> String {
    let mut shown = String::new();
    for note in &done.notes {
        let what = match &note.what {
            What::Injected => "injected",
            What::Skipped(reason) => reason,
            What::Warning(text) => &format!("warning: {text}"),
            What::Refused(text) => &format!("refused: {text}"),
        };
        writeln!(shown, "# {}: {what}", note.place).unwrap();
    }
    shown + &done.text
}

fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/inject").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_ugly_pod_comes_out_as_it_should() {
    for (name, text) in files("taken") {
        let done = manifest(&format!("{name}.yaml"), &text, &settings()).unwrap();
        assert!(!done.is_refused(), "{name}");
        insta::assert_snapshot!(name.clone(), shown(&done));

        let again = manifest("again.yaml", &done.text, &settings()).unwrap();
        assert_eq!(again.text, done.text, "{name}: a second injection changes something");
    }
}

#[test]
fn what_cannot_work_is_refused_with_what_to_write() {
    for (name, text) in files("refused") {
        let done = manifest(&format!("{name}.yaml"), &text, &settings()).unwrap();
        assert!(done.is_refused());
        assert_eq!(done.text, text);
        insta::assert_snapshot!(format!("refused_{name}"), shown(&Manifest { text: String::new(), ..done }));
    }
}

#[test]
fn what_is_not_yaml_names_its_line() {
    let error = manifest("web.yaml", "a: 1\n---\nb: [1,\n", &settings()).unwrap_err();
    assert!(error.starts_with("web.yaml:"), "{error}");
    assert!(error.contains("not YAML"), "{error}");
}

#[test]
fn what_is_called_like_ours_is_ours_only_in_a_pod_that_was_injected() {
    let refused = |spec: Value| {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "app", "image": "app"}]);
        match inject(&json!({"metadata": {}, "spec": spec}), &settings()).verdict {
            Verdict::Refused(why) => why,
            other => panic!("{other:?}"),
        }
    };
    let why = refused(json!({"initContainers": [{"name": "fairlead-redirect", "image": "migrate"}]}));
    assert!(why.contains("a container is called \"fairlead-redirect\""), "{why}");
    let why = refused(json!({"volumes": [{"name": "fairlead", "projected": {"sources": []}}]}));
    assert!(why.contains("a volume is called \"fairlead\""), "{why}");
}

#[test]
fn a_pod_that_asks_another_dns_is_warned() {
    let warnings = |policy: &str| {
        let spec = json!({"dnsPolicy": policy, "containers": [{"name": "app", "image": "app"}]});
        inject(&json!({"metadata": {}, "spec": spec}), &settings()).warnings
    };
    assert!(warnings("ClusterFirst").is_empty());
    assert!(warnings("Default")[0].contains("write dnsPolicy: ClusterFirst"), "{:?}", warnings("Default"));
}

#[test]
fn items_need_not_say_what_their_list_says() {
    let list = "apiVersion: v1\nkind: PodList\nitems: [{metadata: {name: a}, spec: {containers: [{name: app, image: app}]}}]\n";
    let done = manifest("pods.yaml", list, &settings()).unwrap();
    assert!(done.text.contains("name: fairlead-proxy"), "{}", done.text);
}

/// What the API server makes of a pod when somebody leaves something out.
fn fill_in(pod: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().unwrap() {
            for (field, value) in [
                ("imagePullPolicy", "IfNotPresent"),
                ("terminationMessagePath", "/dev/termination-log"),
                ("terminationMessagePolicy", "File"),
            ] {
                container.as_object_mut().unwrap().entry(field).or_insert(json!(value));
            }
        }
    }
}

#[test]
fn a_pod_that_comes_back_from_the_api_server_differs_in_nothing() {
    let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
    let Verdict::Injected(mut injected) = inject(&pod, &settings()).verdict else { panic!() };
    fill_in(&mut injected);
    assert_eq!(inject(&injected, &settings()).verdict, Verdict::Injected(injected));
}

#[test]
fn another_webhook_that_puts_its_own_first_is_answered_by_ours_first() {
    let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
    let Verdict::Injected(mut injected) = inject(&pod, &settings()).verdict else { panic!() };
    let once = injected.clone();
    injected["spec"]["initContainers"].as_array_mut().unwrap().insert(0, json!({"name": "first"}));
    injected["spec"]["initContainers"].as_array_mut().unwrap().insert(2, json!({"name": "between"}));
    let Verdict::Injected(again) = inject(&injected, &settings()).verdict else { panic!() };
    let names: Vec<_> =
        again["spec"]["initContainers"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["fairlead-redirect", "fairlead-proxy", "first", "between"]);
    assert_eq!(again["spec"]["initContainers"][1], once["spec"]["initContainers"][1]);
}

fn containers() -> impl Strategy<Value = Value> {
    let name = prop_oneof![Just("fairlead-proxy"), Just("fairlead-redirect"), Just("other"), Just("app")];
    let extra = prop_oneof![
        Just(json!({})),
        Just(
            json!({"env": [{"name": "A", "value": "1"}], "volumeMounts": [{"name": "x", "mountPath": "/x"}]})
        ),
        Just(json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}, "future": {"field": [1]}})),
        Just(json!({"restartPolicy": "Always", "readinessProbe": {"httpGet": {"port": 80, "path": "/r"}}})),
        Just(json!({"securityContext": {"runAsUser": 1000}, "imagePullPolicy": "Always", "env": null})),
    ];
    let one = (name, extra).prop_map(|(name, mut container)| {
        container["name"] = json!(name);
        container
    });
    prop::collection::vec(one, 0..5).prop_map(Value::from)
}

proptest! {
    #[test]
    fn twice_is_once_and_nothing_is_lost(
        init in containers(),
        apps in containers(),
        fields in prop::collection::hash_map("[a-z]{1,6}", any::<i32>(), 0..4),
    ) {
        let mut spec: Map<String, Value> =
            fields.into_iter().map(|(name, value)| (format!("x-{name}"), json!(value))).collect();
        spec.insert("initContainers".into(), init);
        spec.insert("containers".into(), apps);
        let pod = json!({"metadata": {"name": "pod", "labels": {"a": "b"}}, "spec": spec, "status": {"x": 1}});
        let Verdict::Injected(once) = inject(&pod, &settings()).verdict else { return Ok(()) };
        prop_assert_eq!(inject(&once, &settings()).verdict, Verdict::Injected(once.clone()));

        // Without what is ours both are the same.
        let without = |pod: &Value| {
            let mut pod = pod.clone();
            let theirs = |one: &Value| ![Some("fairlead-proxy"), Some("fairlead-redirect")].contains(&name_of(one));
            pod["spec"]["initContainers"].as_array_mut().unwrap().retain(theirs);
            pod["spec"].as_object_mut().unwrap().remove("volumes");
            pod["metadata"].as_object_mut().unwrap().remove("annotations");
            pod
        };
        prop_assert_eq!(without(&once), without(&pod));
    }
}
