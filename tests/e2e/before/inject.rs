//! S17, offline: what `fairlead inject` writes, the API server takes, and keeps every field of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fairlead_tests::cluster::Cluster;
use fairlead_tests::program;
use serde_json::Value;

/// The manifests that the unit tests inject.
fn manifests() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/testdata/inject/taken");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 5, "{files:?}");
    files
}

fn inject(file: &Path) -> String {
    let output = Command::new(program::path("fairlead")).args(["inject", "-f"]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn s17_what_is_injected_offline_the_api_server_takes() {
    let cluster = Cluster::new();
    let mut wrong = Vec::new();
    for file in manifests() {
        let yaml = inject(&file);
        let applied = cluster.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], &yaml);
        if let Err(error) = applied {
            wrong.push(format!("{}: {error}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn s17_a_pod_that_comes_back_from_the_api_server_is_left_alone() {
    let cluster = Cluster::new();
    let folder = tempfile::tempdir().unwrap();
    for file in manifests() {
        let yaml = inject(&file);
        // Another namespace's objects are in no file; what comes back has everything filled in.
        let back = cluster.kubectl(&["apply", "--dry-run=server", "-o", "json", "-f", "-"], &yaml).unwrap();
        let path = folder.path().join("back.json");
        fs::write(&path, &back).unwrap();
        assert_eq!(inject(&path), back, "{}: a second injection changes something", file.display());
    }
}

#[test]
fn s17_quality_of_service_stays_what_it_was() {
    let cluster = Cluster::new();
    let file = |name| manifests().into_iter().find(|file| file.file_stem().unwrap() == name).unwrap();
    let class = |name, field| {
        let yaml = inject(&file(name));
        let back = cluster.kubectl(&["apply", "--dry-run=server", "-o", "json", "-f", "-"], &yaml).unwrap();
        let back: Value = serde_json::from_str(&back).unwrap();
        back.pointer(field).unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(class("guaranteed", "/status/qosClass"), "Guaranteed");
    assert_eq!(class("pod-budget", "/items/0/status/qosClass"), "Burstable");
}
