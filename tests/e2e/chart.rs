//! What the chart renders, whatever cluster it meets: rights, refusals, what it keeps.

use fairlead_tests::installed::{NAMESPACE, chart, helm};
use serde_json::{Value, json};

/// The objects of `helm template` with `flags`.
fn render(flags: &[&str]) -> Result<Vec<Value>, String> {
    let chart = chart();
    let mut arguments = vec!["template", "fairlead", &chart, "-n", NAMESPACE, "--kube-version", "1.33.0"];
    arguments.extend(flags);
    let text = helm(&arguments)?;
    Ok(text
        .split("\n---\n")
        .map(|one| serde_saphyr::from_str(one).unwrap())
        .filter(Value::is_object)
        .collect())
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Each right of the operator: what, which verbs, why. A right that is not here is one too many.
const RIGHTS: [(&str, &str, &str, &str); 15] = [
    ("ClusterRole", "/services", "list watch", "what a mesh is compiled from"),
    ("ClusterRole", "/pods", "list watch", "subsets, who a caller is, who missed injection"),
    ("ClusterRole", "/namespaces", "list watch", "which are labelled"),
    ("ClusterRole", "discovery.k8s.io/endpointslices", "list watch", "endpoints"),
    (
        "ClusterRole",
        "gateway.networking.k8s.io/referencegrants",
        "list watch",
        "who may send requests to another namespace's Services",
    ),
    (
        "ClusterRole",
        "fairlead.dev/{serviceroutes,outlierdetections,ratelimitpolicies}",
        "list watch",
        "what users write",
    ),
    (
        "ClusterRole",
        "fairlead.dev/{serviceroutes/status,outlierdetections/status,ratelimitpolicies/status}",
        "patch",
        "conditions and rollout, and nothing else of the object",
    ),
    ("ClusterRole", "authentication.k8s.io/tokenreviews", "create", "who a sidecar is"),
    ("ClusterRole", "events.k8s.io/events", "create", "missed injection, said at the pod"),
    ("ClusterRole", "/configmaps", "create", "the bundle in a newly labelled namespace"),
    (
        "ClusterRole",
        "/configmaps[fairlead-ca]",
        "list watch patch delete",
        "the bundle, while the label is there",
    ),
    (
        "ClusterRole",
        "admissionregistration.k8s.io/mutatingwebhookconfigurations[fairlead-operator]",
        "list watch patch",
        "caBundle of the own webhook",
    ),
    ("Role", "/secrets", "create", "its CA and key, at the first start"),
    ("Role", "/secrets[fairlead-operator-tls]", "get list watch update", "its CA and key, rotated"),
    ("Role", "coordination.k8s.io/leases[fairlead-operator]", "get update", "one writer of status"),
];
/// A right that cannot be limited to a name is one of its own.
const CREATE_LEASES: (&str, &str, &str) = ("Role", "coordination.k8s.io/leases", "create");

#[test]
fn the_operator_may_do_what_it_needs_and_no_more() {
    let objects = render(&[]).unwrap();
    let mut granted = Vec::new();
    for kind in ["ClusterRole", "Role"] {
        for role in of_kind(&objects, kind) {
            if role["metadata"]["name"] != "fairlead-operator" {
                continue;
            }
            for rule in role["rules"].as_array().unwrap() {
                let words = |field: &str| -> Vec<&str> {
                    rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
                };
                let group = words("apiGroups").join(",");
                let names = words("resourceNames").join(",");
                let names = if names.is_empty() { names } else { format!("[{names}]") };
                let verbs = words("verbs").join(" ");
                let resources = words("resources");
                if group == "fairlead.dev" {
                    granted.push((kind, format!("{group}/{{{}}}{names}", resources.join(",")), verbs));
                } else {
                    let each =
                        resources.iter().map(|one| (kind, format!("{group}/{one}{names}"), verbs.clone()));
                    granted.extend(each);
                }
            }
        }
    }
    let mut expected: Vec<_> = RIGHTS
        .iter()
        .map(|(kind, what, verbs, _)| (*kind, (*what).to_owned(), (*verbs).to_owned()))
        .collect();
    expected.push((CREATE_LEASES.0, CREATE_LEASES.1.to_owned(), CREATE_LEASES.2.to_owned()));
    granted.sort();
    expected.sort();
    assert_eq!(granted, expected);
    assert!(!granted.iter().any(|(_, what, verbs)| what.contains('*') || verbs.contains('*')));
}

#[test]
fn a_typo_in_the_values_is_refused_with_its_name() {
    for (value, word) in [
        ("operator.replcas=3", "replcas"),
        ("webhook.failurePolicy=Maybe", "failurePolicy"),
        ("operater.replicas=3", "operater"),
        ("operator.replicas=0", "replicas"),
        ("crds.enabled=maybe", "enabled"),
        ("certManager.issuerRef.nmae=x", "nmae"),
    ] {
        let error = render(&["--set", value]).unwrap_err();
        assert!(error.contains(word), "{value}: {error}");
    }
}

#[test]
fn every_value_is_explained_and_in_the_schema() {
    let folder = chart();
    let values = std::fs::read_to_string(format!("{folder}/values.yaml")).unwrap();
    let schema = std::fs::read_to_string(format!("{folder}/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    fn known(values: &Value, schema: &Value, path: &str) {
        let Some(properties) = schema["properties"].as_object() else { return };
        assert_eq!(schema["additionalProperties"], false, "{path} takes what is not known");
        for (name, value) in values.as_object().unwrap() {
            assert!(properties.contains_key(name), "{path}.{name} is not in the schema");
            known(value, &properties[name], &format!("{path}.{name}"));
        }
        for name in properties.keys().filter(|name| *name != "global" && !values[*name].is_null()) {
            known(&values[name], &properties[name], &format!("{path}.{name}"));
        }
    }
    known(&serde_saphyr::from_str(&values).unwrap(), &schema, "");
    let mut explained = false;
    for line in values.lines().filter(|line| !line.is_empty()) {
        let comment = line.trim_start().starts_with('#');
        let opens = line.ends_with(':');
        // `requests` and `limits` are explained above them, together.
        let inner = ["requests:", "limits:"].iter().any(|word| line.trim_start().starts_with(word));
        assert!(comment || opens || inner || explained, "no comment above: {line}");
        explained = comment;
    }
}

#[test]
fn definitions_are_kept_and_can_be_left_out() {
    let objects = render(&[]).unwrap();
    let definitions = of_kind(&objects, "CustomResourceDefinition");
    assert_eq!(definitions.len(), 3);
    for definition in definitions {
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    let without = render(&["--set", "crds.enabled=false"]).unwrap();
    assert!(of_kind(&without, "CustomResourceDefinition").is_empty());
}

#[test]
fn options_render_what_they_say_and_only_when_asked() {
    let plain = render(&[]).unwrap();
    for kind in ["NetworkPolicy", "ServiceMonitor", "Certificate", "Issuer"] {
        assert!(of_kind(&plain, kind).is_empty(), "{kind}");
    }
    let asked = render(&[
        "--set",
        "networkPolicy.enabled=true,metrics.serviceMonitor.enabled=true,certManager.enabled=true",
    ])
    .unwrap();
    assert_eq!(of_kind(&asked, "NetworkPolicy").len(), 1);
    assert_eq!(of_kind(&asked, "ServiceMonitor").len(), 1);
    assert_eq!(of_kind(&asked, "Certificate").len(), 2);
    let role = of_kind(&asked, "Role")[0]["rules"].to_string();
    assert!(!role.contains("secrets"), "the certificate is mounted, no Secret is read: {role}");
    let own = render(&["--set", "certManager.enabled=true,certManager.issuerRef.name=company"]).unwrap();
    let certificates = of_kind(&own, "Certificate");
    assert_eq!(certificates.len(), 1);
    assert_eq!(certificates[0]["spec"]["issuerRef"]["name"], "company");
    let ignore = render(&["--set", "webhook.failurePolicy=Ignore"]).unwrap();
    assert_eq!(of_kind(&ignore, "MutatingWebhookConfiguration")[0]["webhooks"][0]["failurePolicy"], "Ignore");
}

#[test]
fn a_network_policy_closes_what_nobody_needs() {
    let objects = render(&["--set", "networkPolicy.enabled=true"]).unwrap();
    let policy = &of_kind(&objects, "NetworkPolicy")[0]["spec"];
    let template = &of_kind(&objects, "Deployment")[0]["spec"]["template"];
    // It is about the operator's pods, by ports that these have.
    for (label, value) in policy["podSelector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&template["metadata"]["labels"][label], value);
    }
    let has = |name: &Value| {
        let ports = template["spec"]["containers"][0]["ports"].as_array().unwrap();
        ports.iter().any(|port| port["name"] == *name)
    };
    let rules = policy["ingress"].as_array().unwrap();
    let open_to = |name: &str| -> Vec<&Value> {
        let leads = |rule: &&Value| rule["ports"].as_array().unwrap().iter().any(|port| port["port"] == name);
        rules.iter().filter(leads).map(|rule| &rule["from"]).collect()
    };
    let every_port = rules.iter().flat_map(|rule| rule["ports"].as_array().unwrap());
    assert!(every_port.map(|port| &port["port"]).all(has), "{policy}");
    assert_eq!(open_to("xds"), [&json!([{"namespaceSelector": {}}])]);
    assert_eq!(open_to("webhook"), [&Value::Null], "the API server is in no namespace");
    assert_eq!(open_to("metrics"), [&Value::Null], "nor is the kubelet");
    assert_eq!(policy["policyTypes"], json!(["Ingress"]));
}

#[test]
fn the_chart_has_the_version_of_the_programs_and_lints() {
    let text = std::fs::read_to_string(format!("{}/Chart.yaml", chart())).unwrap();
    let about: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"));
    let said = helm(&["lint", "--strict", "--kube-version", "1.33.0", &chart()]).unwrap();
    assert!(said.contains("0 chart(s) failed"), "{said}");
}

#[test]
fn the_webhook_names_no_ca_bundle() {
    // An upgrade would put it back to what it was.
    let objects = render(&[]).unwrap();
    let webhook = &of_kind(&objects, "MutatingWebhookConfiguration")[0]["webhooks"][0];
    assert!(webhook["clientConfig"]["caBundle"].is_null(), "{webhook}");
    assert_eq!(webhook["name"], "operator-unreachable-no-injection.fairlead.dev");
}

#[test]
fn the_dockerfile_makes_what_make_image_makes() {
    let root = format!("{}/../..", chart());
    let [docker, image] =
        ["Dockerfile", "dev/image"].map(|file| std::fs::read_to_string(format!("{root}/{file}")).unwrap());
    for (name, uid) in [("operator", "65532"), ("proxy", "1337")] {
        let version = env!("CARGO_PKG_VERSION");
        let label = format!("title=fairlead-{name} org.opencontainers.image.version={version} ");
        assert!(docker.contains(&label), "{label}");
        assert!(docker.contains(&format!("USER {uid}:{uid}\nENTRYPOINT [\"/usr/bin/fairlead-{name}\"]")));
        assert!(image.contains(&format!("image {name} {uid} ")));
    }
}
