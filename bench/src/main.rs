//! Runs svcplane's programs on single packets (`BPF_PROG_TEST_RUN`), and prints what each took, one JSON object a line.
//! `cargo xtask bench packet` starts it and makes tables of that.

mod cases;
mod cluster;
mod measure;
mod network;
mod rig;
mod sockets;

#[path = "../../tests/frames.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "written for the tests, which need more of it"
)]
mod frames;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use svc_common::table::counted;

/// What to measure, and how long.
#[derive(Parser)]
pub(crate) struct Options {
    /// Numbers of flows to cycle through: powers of two.
    #[arg(long, value_delimiter = ',', default_value = "1,65536")]
    pub(crate) flows: Vec<u32>,
    /// Numbers of Services present, beside those that the packets go to. The first is what most rows are measured with.
    #[arg(long, value_delimiter = ',', default_value = "10")]
    pub(crate) services: Vec<u32>,
    /// Only rows whose name (`program case family`) holds this.
    #[arg(long, default_value = "")]
    pub(crate) only: String,
    /// What is counted by Service port: 0 nothing, 1 connections, 3 packets and bytes too.
    #[arg(long, default_value_t = counted::CONNECTIONS)]
    pub(crate) counted: u32,
    /// Bursts of each row, alternating with those of the floor.
    #[arg(long, default_value_t = 25)]
    pub(crate) rounds: u32,
    /// Packets of a burst.
    #[arg(long, default_value_t = 16_384)]
    pub(crate) burst: u32,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark loads eBPF programs: run it as root"
    );
    for flows in &options.flows {
        ensure!(
            flows.is_power_of_two(),
            "--flows {flows}: give powers of two"
        );
    }
    network::enter()?;
    measure::all(options)
}
