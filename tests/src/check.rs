//! `fairlead check`, run as a person runs it.

use std::ffi::OsStr;
use std::process::Command;

use serde_json::Value;

use crate::program;

/// What it said.
#[derive(Debug)]
pub struct Checked {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub text: String,
    /// Standard error.
    pub errors: String,
}

/// `fairlead check ARGUMENTS`, with another KUBECONFIG where one is given.
pub fn check(arguments: &[&str], kubeconfig: Option<&OsStr>) -> Checked {
    let mut command = Command::new(program::path("fairlead"));
    command.arg("check").args(arguments);
    if let Some(file) = kubeconfig {
        command.env("KUBECONFIG", file);
    }
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Checked {
        code: output.status.code().expect("it ended by itself"),
        text: text(&output.stdout),
        errors: text(&output.stderr),
    }
}

impl Checked {
    /// The lines of `-o json`.
    pub fn lines(&self) -> Vec<Value> {
        let lines: Value =
            serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let lines = lines.as_array().cloned().expect("an array");
        for line in &lines {
            let mut fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
            fields.sort_unstable();
            assert_eq!(fields, ["action", "id", "message", "result", "subject"]);
        }
        lines
    }

    /// The line of a check that ended so.
    pub fn line(&self, id: &str, result: &str) -> Value {
        let found = self.lines().into_iter().find(|line| line["id"] == id && line["result"] == result);
        found.unwrap_or_else(|| panic!("no line {result} {id} in {}", self.text))
    }
}
