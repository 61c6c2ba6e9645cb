//! What the person sees: plain lines, coloured only on a terminal.

use std::fmt::Display;
use std::io::{IsTerminal, Result, Write, stdout};
use std::time::Duration;

/// Writes the demo's lines and keeps count of the promises.
#[derive(Debug)]
pub struct Screen {
    coloured: bool,
    steps: u32,
    kept: u32,
    broken: Vec<String>,
}

impl Screen {
    /// For standard output.
    pub fn new() -> Self {
        Self { coloured: stdout().is_terminal(), steps: 0, kept: 0, broken: Vec::new() }
    }

    /// The first line.
    pub fn title(&self, title: &str) -> Result<()> {
        writeln!(stdout(), "{}\n", self.paint("1", title))
    }

    /// The heading of the next step.
    pub fn step(&mut self, title: &str) -> Result<()> {
        self.steps += 1;
        writeln!(stdout(), "\n{}", self.paint("1", format_args!("{}. {title}", self.steps)))
    }

    /// The YAML that causes what follows, with the file that it stands in.
    pub fn yaml(&self, file: &str, yaml: &str) -> Result<()> {
        let mut out = stdout();
        writeln!(out, "   {}", self.paint("2", file))?;
        for line in yaml.lines() {
            writeln!(out, "   {} {}", self.paint("2", "|"), self.paint("36", line))?;
        }
        Ok(())
    }

    /// Something to know.
    pub fn text(&self, text: &str) -> Result<()> {
        let mut out = stdout();
        for line in text.lines() {
            writeln!(out, "   {line}")?;
        }
        Ok(())
    }

    /// What was measured, and whether it is what was promised.
    pub fn promise(&mut self, kept: bool, measured: &str) -> Result<()> {
        let word = if kept { self.paint("32", "ok    ") } else { self.paint("31", "BROKEN") };
        if kept {
            self.kept += 1;
        } else {
            self.broken.push(format!("step {}: {measured}", self.steps));
        }
        writeln!(stdout(), "   {word} {measured}")
    }

    /// The last lines; true when every promise was kept.
    pub fn summary(&self, took: Duration, logs: &str) -> Result<bool> {
        let mut out = stdout();
        let seconds = took.as_secs_f64();
        if self.broken.is_empty() {
            let line = format!("{} steps, {} promises, all kept, in {seconds:.1} s.", self.steps, self.kept);
            writeln!(out, "\n{}", self.paint("1;32", line))?;
        } else {
            let all = self.kept as usize + self.broken.len();
            let line = format!("{} of {all} promises broken, after {seconds:.1} s:", self.broken.len());
            writeln!(out, "\n{}", self.paint("1;31", line))?;
            for broken in &self.broken {
                writeln!(out, "   {broken}")?;
            }
            writeln!(out, "   logs: {logs}")?;
        }
        out.flush()?;
        Ok(self.broken.is_empty())
    }

    fn paint(&self, colour: &str, text: impl Display) -> String {
        if self.coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_string() }
    }
}
