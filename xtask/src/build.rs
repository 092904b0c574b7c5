//! `cargo xtask build` and `run`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::setup::{cargo, setup};

#[derive(clap::Args, Clone, Copy, Default)]
pub struct BuildArgs {
    /// With optimisation, as it is shipped.
    #[arg(long)]
    release: bool,
}

#[derive(clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    build: BuildArgs,
    /// Flags of `svc-agent run`.
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Builds svc-agent, its eBPF programs inside; returns where it is.
pub fn build(args: BuildArgs) -> Result<PathBuf> {
    setup()?;
    let mut command = cargo();
    command.args(["build", "--package", "svc-agent", "--bins"]);
    if args.release {
        command.arg("--release");
    }
    let artifacts = artifacts(&mut command)?;
    let agent = artifacts
        .into_iter()
        .find(|artifact| artifact.target == "svc-agent" && !artifact.test);
    Ok(agent.context("cargo built no svc-agent")?.executable)
}

/// Becomes `svc-agent run`.
pub fn run(args: RunArgs) -> Result<()> {
    let agent = build(args.build)?;
    ensure!(
        nix::unistd::geteuid().is_root(),
        "svc-agent loads programs into the kernel: run this as root"
    );
    let error = Command::new(&agent).arg("run").args(args.flags).exec();
    bail!("cannot run {}: {error}", agent.display())
}

/// An executable that cargo made.
#[derive(Debug)]
pub struct Artifact {
    pub package: PathBuf,
    pub target: String,
    pub kind: String,
    pub test: bool,
    pub executable: PathBuf,
}

/// Runs a `cargo build` with its messages shown, and lists the executables.
pub fn artifacts(command: &mut Command) -> Result<Vec<Artifact>> {
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "the build failed; its errors are above"
    );
    let text = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    Ok(text.lines().filter_map(artifact).collect())
}

fn artifact(line: &str) -> Option<Artifact> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    Some(Artifact {
        package: manifest.parent()?.to_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        kind: message["target"]["kind"][0].as_str()?.to_owned(),
        test: message["profile"]["test"].as_bool()?,
        executable: PathBuf::from(message["executable"].as_str()?),
    })
}
