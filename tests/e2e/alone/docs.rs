//! The pages about a cluster, as a reader follows them: every block marked `sh run`, from the installation to
//! the removal.

use std::path::{Path, PathBuf};
use std::process::Command;

use fairlead_tests::blocks;
use fairlead_tests::cluster::{kubectl, load_image};
use fairlead_tests::installed::{Installed, NAMESPACE, RELEASE, helm};
use fairlead_tests::program;

/// What `docs/first-policy.md` runs. The cluster reaches no registry, so an image of this name is made that does
/// the same as far as the page goes: it answers its pod's name, or listens nowhere, and has curl.
const APPLICATION: &str = "registry.k8s.io/e2e-test-images/agnhost:2.53";

#[test]
fn the_pages_are_right_from_installation_to_removal() {
    let changed = Installed::get().changed();
    let _shop = Shop;
    load_application();
    helm(&["uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "120s"]).unwrap();
    for page in ["install", "first-policy", "troubleshooting", "upgrade", "uninstall"] {
        blocks::run(&format!("docs/{page}.md"), &program::folder());
    }
    drop(changed);
}

/// The namespace of the pages.
struct Shop;

impl Drop for Shop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in ["pods,events", "serviceroutes,outlierdetections,ratelimitpolicies"] {
                println!("{}", kubectl(&["get", what, "-n", "shop"], "").unwrap_or_else(|error| error));
            }
        }
        let _ = kubectl(&["delete", "namespace", "shop", "--wait=false", "--ignore-not-found"], "");
    }
}

fn load_application() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/image");
    let archive = program::folder().join("application.tar");
    let server = format!("{}:/server", program::path("fairlead-test-server").display());
    let paths = std::env::var("PATH").unwrap_or_default();
    let curl: PathBuf = std::env::split_paths(&paths)
        .map(|folder| folder.join("curl"))
        .find(|file| file.exists())
        .expect("curl is installed: dev/setup");
    let made = Command::new(image)
        .arg(APPLICATION)
        .arg(&archive)
        .args(["--entrypoint", "/server", "--with-libraries", &server])
        .arg(format!("{}:/usr/bin/curl", curl.display()))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    load_image(&archive);
}
