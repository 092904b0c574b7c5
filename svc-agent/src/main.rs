//! `svc-agent`: arguments → verb → exit code.

// They panic where nobody reads; `say` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use svc_agent::config::{self, Verb};
use svc_agent::dataplane::cleanup::plural;
use svc_agent::say::{complain, say};
use svc_agent::{
    check, dataplane, describe, diff, explain, get, logging, monitor, privileges, run, shell, top,
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

fn cleanup(options: &config::Cleanup) -> anyhow::Result<()> {
    check::must_be_root()?;
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
