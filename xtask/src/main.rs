//! `cargo xtask`: everything one does with this workspace, each as one command.

mod archive;
mod assets;
mod bench;
mod build;
mod demo;
mod docs;
mod e2e;
mod image;
mod kernels;
mod layers;
#[cfg(test)]
mod semantics;
mod setup;
mod soak;
mod supply;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{load, traffic};

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
    /// Shows svcplane at work in a network of namespaces: who answers, and how that follows changes.
    Demo(demo::DemoArgs),
    /// Runs a command in a place of the demo that `--keep` left: `cargo xtask enter pod-b -- curl 10.96.0.10`.
    Enter(demo::EnterArgs),
    /// Runs upstream's end-to-end suite on a Kubernetes of several nodes, made of namespaces.
    E2e(e2e::E2eArgs),
    /// Measures what packets, connections and changes cost, beside the peers.
    Bench(bench::BenchArgs),
    /// Runs everything at once for a while (load, changes, restarts, floods), and looks for what is lost or left behind.
    Soak(soak::SoakArgs),
    /// Makes svc-agent's container image, without docker.
    Image(image::ImageArgs),
    /// Writes the bill of materials of svc-agent (CycloneDX), as `image` puts it beside the image.
    Sbom(supply::SbomArgs),
    /// Checks the documents: their links, and the command lines in them.
    Docs(docs::DocsArgs),
    /// Tries the programs, packets and real sockets on the kernels of Debian's releases (under QEMU) and on this one.
    Kernels(kernels::KernelsArgs),
    /// Runs the tests, all layers or some.
    Test(layers::TestArgs),
    /// Serves until killed (what pods of the demo and of the tests run).
    #[command(hide = true)]
    Serve(traffic::ServeArgs),
    /// Prints who answers (what clients of the demo and of the tests run).
    #[command(hide = true)]
    Probe(traffic::ProbeArgs),
    /// Prints who answers many requests at once.
    #[command(hide = true)]
    Survey(traffic::SurveyArgs),
    /// Prints what a DNS server answers.
    #[command(hide = true)]
    Ask(traffic::AskArgs),
    /// Keeps one socket in use (what shows that established connections live on).
    #[command(hide = true)]
    Talk(traffic::TalkArgs),
    /// Does work as it is told on stdin (what clients of the benchmark run).
    #[command(hide = true)]
    Load(load::LoadArgs),
    /// Answers what `load` asks (what servers of the benchmark run).
    #[command(hide = true)]
    Bear(load::BearArgs),
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
        Verb::Demo(args) => return demo::demo(&args),
        Verb::Enter(args) => demo::enter(&args)?,
        Verb::E2e(args) => return e2e::e2e(&args),
        Verb::Image(args) => image::image(&args)?,
        Verb::Soak(args) => return soak::soak(&args),
        Verb::Sbom(args) => supply::sbom(&args)?,
        Verb::Docs(args) => docs::docs(&args)?,
        Verb::Kernels(args) => return kernels::kernels(&args),
        Verb::Test(args) => return layers::test(&args),
        Verb::Bench(args) => return bench::bench(&args),
        Verb::Serve(args) => traffic::serve(&args)?,
        Verb::Probe(args) => traffic::probe(&args)?,
        Verb::Survey(args) => traffic::survey(&args)?,
        Verb::Ask(args) => traffic::ask(&args)?,
        Verb::Talk(args) => traffic::talk(&args)?,
        Verb::Load(args) => load::load(&args)?,
        Verb::Bear(args) => load::bear(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
