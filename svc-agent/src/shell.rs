//! `svc-agent completion` and `svc-agent man`: what clap knows of the command line, for shells and for `man`.

use std::fs;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::config::{Cli, Completion, Man};
use crate::say::say;

/// Prints a completion script.
pub fn completion(options: &Completion) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "svc-agent", &mut script);
    // clap_complete 4.6 takes the hyphen of a program's name for the bound of a verb in one of two places (bash).
    let script = String::from_utf8_lossy(&script).replace("svc__subcmd__agent", "svc__agent");
    say(&script)
}

/// Writes a page for the program and one for each verb.
pub fn man(options: &Man) -> Result<()> {
    let dir = &options.dir;
    let failed = || format!("writing manual pages to {}", dir.display());
    fs::create_dir_all(dir).with_context(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).with_context(failed)
}
