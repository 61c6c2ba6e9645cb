//! `fairlead inject`: manifests in, the same with the sidecar out. What there is to say goes to standard error; when
//! a pod is refused, nothing is written, so that `fairlead inject -f x.yaml | kubectl apply -f -` applies all or none.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use fairlead_operator::inject::Settings;
use fairlead_operator::inject::manifest::{What, manifest};

use crate::cli::Inject;
use crate::files;

/// Injects what the command names.
pub fn run(command: &Inject) -> Result<ExitCode> {
    let settings = Settings {
        image: command.proxy_image.clone(),
        pull_policy: None,
        operator: command.operator.clone(),
        proxy_uid: command.proxy_uid,
    };
    let mut notes = std::io::stderr().lock();
    let mut texts = Vec::new();
    let mut refused = false;
    for (name, text) in files::read(&command.files)? {
        let done = manifest(&name, &text, &settings).map_err(anyhow::Error::msg)?;
        for note in &done.notes {
            let place = &note.place;
            match &note.what {
                What::Injected => writeln!(notes, "{place}: has the sidecar")?,
                What::Skipped(reason) => writeln!(notes, "{place}: stays without the sidecar: {reason}")?,
                What::Warning(warning) => writeln!(notes, "{place}: warning: {warning}")?,
                What::Refused(reason) => writeln!(notes, "{place}: refused: {reason}")?,
            }
        }
        refused |= done.is_refused();
        texts.push(done.text);
    }
    if refused {
        writeln!(notes, "fairlead inject: nothing was written, because a pod was refused")?;
        return Ok(ExitCode::FAILURE);
    }
    let mut out = std::io::stdout().lock();
    for (number, text) in texts.iter().enumerate() {
        if number > 0 && !text.starts_with("---") {
            out.write_all(b"---\n")?;
        }
        out.write_all(text.as_bytes())?;
        if number + 1 < texts.len() && !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
