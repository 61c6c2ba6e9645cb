//! The code blocks of the documentation that are run: those that begin with three backquotes and `sh run`.
//!
//! What a page shows is one script, top to bottom, as a reader would type it in the repository's folder: a later
//! block may use what an earlier one set.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A code block of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The line that it begins in.
    pub line: usize,
    /// `sh run`, `yaml`; readers do not see it.
    pub info: String,
    /// Its lines, without what they are indented by.
    pub text: String,
}

/// The repository's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The blocks of a page, `docs/install.md`.
pub fn of(page: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(info), None) => {
                open = Some(Block { line: number + 1, info: info.trim().to_owned(), text: String::new() });
            }
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: the last block has no end");
    blocks
}

/// Runs a page's `sh run` blocks as one script; `path` is put before PATH. Fails with all that was said.
pub fn run(page: &str, path: &Path) {
    let mut script = String::new();
    for block in of(page).iter().filter(|block| block.info == "sh run") {
        script += &format!("echo '# {page}:{}'\n{}", block.line, block.text);
    }
    assert!(!script.is_empty(), "{page} has no block that is run");
    let paths = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        // What it started in the background ends with it, also when a command failed.
        .args([
            "-euo",
            "pipefail",
            "-c",
            &format!("trap 'kill $(jobs -p) || true' EXIT; exec 2>&1; set -x\n{script}"),
        ])
        .current_dir(root())
        .env("PATH", format!("{}:{paths}", path.display()))
        .stdin(Stdio::null())
        .output()
        .expect("bash starts");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{page}: the command above this line failed: {}", output.status);
}
