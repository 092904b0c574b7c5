//! `cargo xtask docs`: every link of the documents leads somewhere, and every command line in them is one that
//! `svc-agent` and `cargo xtask` know: its verb, and its flags.

mod commands;
mod links;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::build::{BuildArgs, build};
use commands::Grammar;

#[derive(clap::Args)]
pub struct DocsArgs {
    /// The svc-agent to ask for its verbs and flags [default: the one that is built for it].
    #[arg(long)]
    agent: Option<PathBuf>,
}

pub fn docs(args: &DocsArgs) -> Result<()> {
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => build(BuildArgs::default())?,
    };
    println!("docs: {}", check(&agent)?);
    Ok(())
}

/// Checks the documents against this program and this svc-agent; says what was looked at.
pub fn check(agent: &Path) -> Result<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace")?;
    let grammars = [
        Grammar::ask("svc-agent", agent)?,
        // Not by its path: a build may have put another program there since this one was started.
        Grammar::ask("cargo xtask", Path::new("/proc/self/exe"))?,
    ];
    let documents = documents(sources)?;
    let (mut links, mut commands, mut wrong) = (0, 0, Vec::new());
    for file in &documents {
        let text = fs::read_to_string(sources.join(file))
            .with_context(|| format!("cannot read {}", file.display()))?;
        let mut note = |line: usize, what: String| wrong.push(((file.clone(), line), what));
        for (line, target) in links::links(&text) {
            links += 1;
            if let Err(why) = links::leads_somewhere(sources, file, target) {
                note(line, why);
            }
        }
        for (line, words) in commands::commands(&text) {
            commands += 1;
            if let Err(why) = grammars
                .iter()
                .try_for_each(|grammar| grammar.knows(&words))
            {
                note(line, why);
            }
        }
    }
    for ((file, line), what) in &wrong {
        println!("{}:{line}: {what}", file.display());
    }
    if !wrong.is_empty() {
        bail!("{} places in the documents are wrong", wrong.len());
    }
    Ok(format!(
        "{} documents, {links} links and {commands} command lines, all as they should be",
        documents.len()
    ))
}

/// The Markdown files that are under version control, or will be.
fn documents(sources: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.md",
        ])
        .current_dir(sources)
        .output()
        .context("cannot run git")?;
    ensure!(output.status.success(), "git ls-files failed");
    let mut files: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(PathBuf::from)
        .filter(|file| sources.join(file).exists())
        .collect();
    files.sort();
    Ok(files)
}
