//! `svc-agent`: arguments → verb → exit code.

use std::process::ExitCode;

use svc_agent::config::{self, Verb};
use svc_agent::{check, dataplane, get, run};

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // 0 for --help and --version, 2 for what cannot be understood.
        Err(error) => error.exit(),
    };
    let result = match &cli.verb {
        Verb::Run(options) => {
            log(options.verbosity);
            serve(options)
        }
        Verb::Get(options) => get::get(options),
        Verb::Check(options) => check::check(options),
        Verb::Cleanup(options) => cleanup(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("svc-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(verbosity: u8) {
    let level = match verbosity {
        0 => "info",
        1 => "info,svc_agent=debug",
        _ => "debug,svc_agent=trace",
    };
    let filter = tracing_subscriber::EnvFilter::new(level);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}

fn serve(options: &config::Run) -> anyhow::Result<()> {
    check::must_be_root()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run::run(options))
}

fn cleanup(options: &config::Cleanup) -> anyhow::Result<()> {
    check::must_be_root()?;
    let removed = dataplane::cleanup(&options.bpf_root)?;
    println!("removed {} pins from {}", removed.len(), options.bpf_root.display());
    Ok(())
}
