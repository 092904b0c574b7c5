//! `svc-agent`: arguments → verb → exit code.

// They panic where nobody reads; `say` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use svc_agent::config::{self, Verb};
use svc_agent::dataplane::Pinned;
use svc_agent::dataplane::cleanup::plural;
use svc_agent::say::{complain, say};
use svc_agent::{
    check, dataplane, describe, diff, explain, get, logging, look, monitor, privileges, rivals,
    run, shell, top,
};

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // 0 for --help and --version, 2 for what cannot be understood.
        Err(error) => error.exit(),
    };
    let done = |()| ExitCode::SUCCESS;
    let result = match &cli.verb {
        Verb::Run(options) => {
            logging::start(options.verbosity, options.log_format);
            serve(options).map(done)
        }
        Verb::Get(options) => get::get(options).map(done),
        Verb::Monitor(options) => monitor::monitor(options).map(done),
        Verb::Top(options) => top::top(options).map(done),
        Verb::Explain(options) => explain::explain(options),
        Verb::Describe(options) => describe::describe(options).map(done),
        Verb::Diff(options) => diff::diff(options),
        Verb::Check(options) => check::check(options).map(done),
        Verb::Cleanup(options) => cleanup(options).map(done),
        Verb::Completion(options) => shell::completion(options).map(done),
        Verb::Man(options) => shell::man(options).map(done),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            complain(one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, each said once.
fn one_line(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |line, cause| match line.as_str() {
            "" => cause,
            said if said.contains(&cause) => line,
            _ => format!("{line}: {cause}"),
        })
}

fn serve(options: &config::Run) -> anyhow::Result<()> {
    check::must_be_root()?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    privileges::in_threads(options, &mut runtime);
    runtime.enable_all().build()?.block_on(run::run(options))
}

/// What became of the connections. An error where one would break.
fn handed_over(root: &Path) -> anyhow::Result<String> {
    let devices = look::devices().context("reading the node's devices")?;
    anyhow::ensure!(
        !rivals::find(&devices).is_empty(),
        "no other proxy's rules are in this network namespace that connections could be handed over to; nothing was removed: start kube-proxy first"
    );
    let handed = Pinned::open(root)?.hand_over()?;
    if let Some(first) = handed.failed.first() {
        anyhow::bail!(
            "handed over {}, and {} could not be ({first}); nothing was removed, but new connections are the other proxy's: try again, or run cleanup without --hand-over, which breaks them",
            plural(handed.connections, "connection"),
            handed.failed.len()
        );
    }
    let mut text = format!(
        "handed over {} to the kernel's connection tracking\n",
        plural(handed.connections, "connection")
    );
    if handed.tunnelled > 0 {
        text += &format!(
            "note: {} break: their backends answer past this node (--dsr)\n",
            plural(handed.tunnelled, "connection")
        );
    }
    Ok(text)
}

fn cleanup(options: &config::Cleanup) -> anyhow::Result<()> {
    check::must_be_root()?;
    if options.hand_over {
        say(&handed_over(&options.bpf_root)?)?;
    }
    let removal = dataplane::cleanup(&options.bpf_root, &options.procfs);
    let root = options.bpf_root.display();
    let left = removal.left();
    if !left.is_empty() {
        anyhow::bail!(
            "removed {} from {root}, and this is left: {}; then run cleanup again",
            plural(removal.removed.len(), "pin"),
            left.join("; ")
        );
    }
    if removal.is_empty() {
        let mut text = format!("nothing of svcplane is pinned at {root}\n");
        let namesakes = dataplane::cleanup::namesakes();
        if namesakes > 0 {
            text += &format!(
                "note: programs named like svcplane's are loaded ({namesakes}): of another --bpf-root, or of an agent that runs\n"
            );
        }
        return say(&text);
    }
    let [programs, maps, links] = removal.counts();
    let mut text = format!(
        "removed {} from {root}: {}, {} and {} are gone; nothing is left\n",
        plural(removal.removed.len(), "pin"),
        plural(programs, "program"),
        plural(maps, "map"),
        plural(links, "link"),
    );
    for (name, value) in &removal.restored {
        text += &format!("net.netfilter.{name} is {value} again\n");
    }
    say(&text)
}
