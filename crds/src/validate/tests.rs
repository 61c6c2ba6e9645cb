use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;

/// The YAML files of a folder of this crate, or of the repository.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn parse(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn told(object: &Value) -> String {
    validate(object).iter().map(|violation| format!("{violation}\n")).collect()
}

#[test]
fn every_valid_file_is_taken() {
    let files = files("testdata/valid");
    assert!(files.len() >= 15);
    for path in files {
        let object = parse(&read(&path));
        assert_eq!(told(&object), "", "{}", path.display());
        admit(&object).unwrap_or_else(|violations| panic!("{}: {violations:?}", path.display()));
    }
}

#[test]
fn every_invalid_file_is_refused_with_its_message() {
    let files = files("testdata/invalid");
    assert!(files.len() >= 40);
    let mut wrong = String::new();
    for path in files {
        let text = read(&path);
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# expect: "));
        let expected = expected.unwrap_or_else(|| panic!("{}: no '# expect: ' line", path.display()));
        let told = told(&parse(&text));
        if !told.contains(expected) {
            wrong.push_str(&format!("{}\n  want {expected}\n  got  {told}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn one_mistake_is_told_once() {
    // Beside a fault that leaves rules unchecked the API server says so; a duration that is none is refused
    // by its pattern and by the rule that says what to write; the header says what its list says.
    let more = ["timeout-", "per-no-unit", "object-", "filter-wrong-member", "filter-rewrite-path-member"];
    for path in files("testdata/invalid") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if more.iter().any(|prefix| name.contains(prefix)) {
            continue;
        }
        let violations = validate(&parse(&read(&path)));
        let told = violations.iter().filter(|violation| violation.message != UNCHECKED).count();
        let repeated = name.ends_with("-twice") || name.ends_with("names");
        assert!(told == 1 || repeated || name.contains("regex"), "{name}: {violations:?}");
    }
}

#[test]
fn the_examples_are_taken() {
    for path in files("../examples") {
        let text = read(&path);
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert!(objects.iter().any(is_ours), "{}: nothing of ours", path.display());
        for object in objects.iter().filter(|object| is_ours(object)) {
            assert_eq!(told(object), "", "{}", path.display());
        }
    }
}

#[test]
fn an_unknown_field_names_the_nearest() {
    let object = json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute", "metadata": {"name": "a"},
        "spec": {"parentRefs": [{"name": "a"}], "rulez": [], "xyzzy": 1},
    });
    let told = told(&object);
    assert!(told.contains("unknown field \"spec.rulez\", did you mean \"rules\"?"), "{told}");
    assert!(told.contains("unknown field \"spec.xyzzy\", known are connectionPool, loadBalancer"), "{told}");
}

#[test]
fn a_duration_without_unit_says_what_to_write() {
    let route = |request: Value| {
        json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute", "metadata": {"name": "a"},
            "spec": {"parentRefs": [{"name": "a"}], "rules": [
                {"backendRefs": [{"name": "a", "port": 80}], "timeouts": {"request": request}}
            ]},
        })
    };
    assert!(told(&route(json!(5))).contains("a duration needs a unit: write 5s"));
    assert!(told(&route(json!("5"))).contains("a duration needs a unit: write 5s"));
    assert_eq!(told(&route(json!("5s"))), "");
}

#[test]
fn a_wrong_type_says_what_to_write() {
    let object = json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute", "metadata": {"name": "a"},
        "spec": {"parentRefs": {"name": "a"}, "rules": [{
            "matches": [{"path": "/api"}],
            "backendRefs": [{"name": "a", "port": "http", "weight": "90"}],
        }]},
    });
    let told = told(&object);
    for wanted in [
        "spec.parentRefs in body must be of type array: \"object\": write a list",
        "path in body must be of type object: \"string\": write its fields, of which there are type, value",
        "port in body must be of type integer: \"string\": write a whole number",
        "weight in body must be of type integer: \"string\": write 90, without quotes",
    ] {
        assert!(told.contains(wanted), "{wanted} is not in {told}");
    }
}

#[test]
fn an_admitted_object_has_every_default() {
    let object = parse(&read(&files("testdata/valid")[0]).replace('\0', ""));
    assert!(admit(&object).is_ok());
    let smallest = json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "OutlierDetection", "metadata": {"name": "a"},
        "spec": {"targetRefs": [{"name": "a"}], "ejection": {"maxPercent": 20.0}, "recovery": null},
        "status": {"whatever": true},
    });
    let Ok(Object::OutlierDetection(policy)) = admit(&json_without_status_field(&smallest)) else {
        panic!("{}", told(&smallest))
    };
    assert_eq!(policy.spec.consecutive_errors, 5);
    assert_eq!(policy.spec.ejection.max_percent, 20);
    assert_eq!(policy.spec.ejection.base_time.get().as_secs(), 30);
    assert_eq!(policy.spec.recovery.probes, 1);
}

/// The operator writes status; what a file says there is not looked at but for its names.
fn json_without_status_field(object: &Value) -> Value {
    assert!(told(object).contains("unknown field \"status.whatever\""));
    let mut object = object.clone();
    object["status"] = json!({"conditions": "nonsense"});
    object
}

#[test]
fn the_defaults_of_rust_and_of_the_schema_agree() {
    let object = parse(
        "{apiVersion: fairlead.dev/v1alpha1, kind: ServiceRoute, metadata: {name: a}, spec: {parentRefs: [{name: a}], \
         rules: [{backendRefs: [{name: a, port: 80}], retry: {}, matches: [{path: {}}]}], connectionPool: {}, \
         retryConstraint: {}, loadBalancer: {}}}",
    );
    let Ok(Object::ServiceRoute(route)) = admit(&object) else { panic!("{}", told(&object)) };
    let spec = route.spec;
    assert_eq!(spec.rules[0].retry, Some(crate::Retry::default()));
    assert_eq!(spec.rules[0].matches[0].path, Some(crate::PathMatch::default()));
    assert_eq!(spec.rules[0].backend_refs[0].weight, 1);
    assert_eq!(spec.connection_pool, Some(crate::ConnectionPool::default()));
    assert_eq!(spec.retry_constraint, Some(crate::RetryConstraint::default()));
    assert_eq!(spec.load_balancer, Some(crate::LoadBalancer::default()));
    let object = parse(
        "{apiVersion: fairlead.dev/v1alpha1, kind: RateLimitPolicy, metadata: {name: a}, spec: {targetRefs: [{name: a}], \
         limits: [{name: a, requests: 1, per: 1s}]}}",
    );
    let Ok(Object::RateLimitPolicy(policy)) = admit(&object) else { panic!("{}", told(&object)) };
    assert_eq!(policy.spec.response, crate::LimitResponse::default());
    assert_eq!(policy.spec.limits[0].burst, None);
}

#[test]
fn an_expression_that_only_one_dialect_takes_is_refused() {
    let route = |value: &str| {
        json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute", "metadata": {"name": "a"},
            "spec": {"parentRefs": [{"name": "a"}], "rules": [{
                "backendRefs": [{"name": "a", "port": 80}],
                "matches": [{"path": {"type": "RegularExpression", "value": value}}],
            }]},
        })
    };
    assert_eq!(told(&route("/a{1000}")), "");
    let told = told(&route("/a{1001}"));
    assert!(
        told.starts_with("spec.rules[0].matches[0].path.value: Invalid value: a regular expression is one"),
        "{told}"
    );
}

#[test]
fn what_is_no_object_is_told() {
    for object in [json!(null), json!([]), json!("a"), json!({}), json!({"kind": "ServiceRoute"})] {
        assert!(told(&object).contains("write apiVersion: fairlead.dev/v1alpha1"), "{object}");
        assert!(!is_ours(&object));
    }
    assert!(is_ours(&json!({"apiVersion": "fairlead.dev/v9"})));
}
