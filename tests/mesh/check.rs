//! `fairlead check` where there is no cluster: files, an API server that is not there, one that says nothing.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use fairlead_tests::check::check;

fn examples(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).display().to_string()
}

/// A kubeconfig for an API server at this address.
fn kubeconfig(folder: &Path, server: &str) -> std::path::PathBuf {
    let file = folder.join("kubeconfig");
    let text = format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: \"{server}\"}}}}]
users: [{{name: u, user: {{}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
current-context: c
"
    );
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn files_are_judged_offline() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.yaml");
    let route = "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
";
    fs::write(&bad, format!("{route}---\n{route}  tiemouts: {{request: 2s}}\n")).unwrap();
    let bad = bad.display().to_string();
    let demo: Vec<String> = fs::read_dir(examples("demo"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "yaml"))
        .map(|file| file.display().to_string())
        .collect();
    let together: Vec<&str> = ["-f"].into_iter().chain(demo.iter().map(String::as_str)).collect();
    let folder = examples("demo");
    for arguments in [&together[..], &["-f", &folder]] {
        let checked = check(arguments, None);
        assert_eq!(checked.code, 0, "{checked:?}");
        assert_eq!(
            checked.text.lines().filter(|line| line.starts_with("  ")).count(),
            demo.len(),
            "{checked:?}"
        );
    }

    let checked = check(&["-f", &bad], None);
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(checked.text.contains(&format!("fail  {bad}:6: ServiceRoute shop/reviews: ")), "{checked:?}");
    assert!(checked.text.contains("tiemouts") && checked.text.contains("1 failed"), "{checked:?}");
    assert!(!checked.text.contains('\x1b'), "no colour where nobody sees it");
    let line = check(&["-f", &bad, "-o", "json"], None).line("file", "fail");
    assert_eq!(line["subject"], format!("{bad}:6"));

    let checked = check(&["-f", "/no/such/file.yaml"], None);
    assert_eq!(checked.code, 2, "{checked:?}");
    assert!(checked.errors.contains("/no/such/file.yaml cannot be read"), "{checked:?}");
}

#[test]
fn an_api_server_that_cannot_be_asked_is_said_in_time() {
    let folder = tempfile::tempdir().unwrap();
    // Takes connections and says nothing, for as long as the test lasts.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, why) in [(closed, "http://127"), (silent.local_addr().unwrap(), "no answer within 1s")] {
        let file = kubeconfig(folder.path(), &format!("http://{address}"));
        let checked = check(&["--timeout", "1", "-o", "json"], Some(file.as_os_str()));
        assert_eq!(checked.code, 2, "{checked:?}");
        let line = checked.line("api-server", "fail");
        assert!(line["message"].as_str().unwrap().contains(why), "{line}");
        assert!(line["action"].as_str().unwrap().contains("kubectl cluster-info"), "{line}");
    }
    assert_eq!(check(&["--tiemout", "1"], None).code, 2);
}
