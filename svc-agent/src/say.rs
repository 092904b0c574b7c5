//! What verbs say to people and scripts. A reader that has seen enough (`| head`) is no error, and changes no exit code.
//! Nothing else writes to standard output.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};

use anyhow::{Context, Result};

/// To standard output.
pub fn say(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("writing to standard output"),
    }
}

/// A line to standard error. Whether anybody reads it is not known.
pub fn complain(line: impl Display) {
    let _ = writeln!(stderr().lock(), "svc-agent: {line}");
}
