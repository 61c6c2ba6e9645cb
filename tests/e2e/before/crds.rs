//! The API server takes and refuses what `crds::validate` takes and refuses, in the same words.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use fairlead_tests::cluster::{Cluster, install_crds};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/testdata").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What is wrong with each file's outcome; four at a time.
fn each(folder: &str, judge: impl Fn(&str, Result<String, String>) -> Option<String> + Sync) -> Vec<String> {
    let cluster = Cluster::new();
    let files = files(folder);
    assert!(files.len() > 10, "{files:?}");
    let one = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        let yaml = text.replace("namespace: shop", &format!("namespace: {}", cluster.namespace));
        let outcome = cluster.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], &yaml);
        judge(&text, outcome).map(|wrong| format!("{}: {wrong}", file.display()))
    };
    thread::scope(|scope| {
        let parts: Vec<_> = files.chunks(files.len().div_ceil(4)).collect();
        let threads: Vec<_> = parts
            .into_iter()
            .map(|part| scope.spawn(|| part.iter().filter_map(one).collect::<Vec<_>>()))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn valid_objects_are_taken() {
    install_crds();
    let wrong = each("valid", |_, outcome| outcome.err());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn invalid_objects_get_their_message() {
    install_crds();
    let wrong = each("invalid", |text, outcome| {
        let expected =
            text.lines().find_map(|line| line.strip_prefix("# expect: ")).expect("every file says what");
        match outcome {
            Err(message) if message.contains(expected) => None,
            Err(message) => Some(format!("{message:?} instead of {expected:?}")),
            Ok(_) => Some(format!("taken, instead of {expected:?}")),
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
