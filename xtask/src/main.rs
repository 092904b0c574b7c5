//! `cargo xtask`: everything one does with this workspace, each as one command.

mod assets;
mod build;
mod layers;
mod setup;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::traffic;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, runs, shows and tests svcplane")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Checks what the other verbs need and installs what is missing.
    Setup,
    /// Builds svc-agent with its eBPF programs inside.
    Build(build::BuildArgs),
    /// Builds svc-agent and runs it on this host: `cargo xtask run -- --manifests examples`.
    Run(build::RunArgs),
    /// Runs the tests, all layers or some.
    Test(layers::TestArgs),
    /// Serves until killed (what pods of the demo and of the tests run).
    #[command(hide = true)]
    Serve(traffic::ServeArgs),
    /// Prints who answers (what clients of the demo and of the tests run).
    #[command(hide = true)]
    Probe(traffic::ProbeArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup => setup::report()?,
        Verb::Build(args) => println!("{}", build::build(args)?.display()),
        Verb::Run(args) => build::run(args)?,
        Verb::Test(args) => return layers::test(&args),
        Verb::Serve(args) => traffic::serve(&args)?,
        Verb::Probe(args) => traffic::probe(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
