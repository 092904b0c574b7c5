//! `cargo xtask bench`: what svcplane costs, measured beside its peers and beside floors, in one run.
//!
//! An instrument is a module with `run(&Bench) -> Result<Outcome>`: figures, tables and charts of them, and why they are
//! not to be trusted, if so. It says in [`Instrument`] which packages it needs built. This frame does that, prints,
//! writes `target/bench/*.json`, and with `--record` docs/performance.md between the markers with the instrument's name.
//! What has the parameters `services`, `endpoints` or `flows` at three sizes gets an exponent by itself.

mod chart;
mod document;
mod figure;
mod growth;
mod noise;
mod packet;
mod programming;
mod stats;
mod table;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::build::{Artifact, artifacts};
use crate::setup::{cargo, setup};
use figure::{Figure, Outcome};
use table::Table;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Instrument {
    /// Nanoseconds of each program on single packets.
    Packet,
    /// Connections and requests in a network of namespaces, beside kube-proxy.
    Traffic,
    /// From the API server to the packets: latency, starts, memory, churn; beside kube-proxy.
    Programming,
}

#[derive(clap::Args)]
pub struct BenchArgs {
    /// What to measure; everything, unless told.
    #[arg(value_enum)]
    instruments: Vec<Instrument>,
    /// Fewer rows and shorter: all of it in less than three minutes, once everything is built.
    #[arg(long)]
    quick: bool,
    /// Shows the figures even of a machine that was too noisy.
    #[arg(long)]
    force: bool,
    /// Writes the tables and charts into docs/performance.md.
    #[arg(long)]
    record: bool,
    /// Where the figures go as JSON (default: target/bench).
    #[arg(long, value_name = "DIR")]
    json: Option<PathBuf>,
    /// Only rows with this in their name.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Numbers of flows, powers of two: `1,65536`.
    #[arg(long, value_name = "LIST")]
    flows: Option<String>,
    /// Numbers of Services present: `10,1000`.
    #[arg(long, value_name = "LIST")]
    services: Option<String>,
    /// Only these contestants, by parts of their names: `packets,nftables`. The one that others are compared with stays.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    contestants: Vec<String>,
    /// Measurements of each row.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Builds without optimisation what runs the programs: sooner there, and the programs are the same.
    #[arg(long)]
    dev: bool,
}

/// What instruments are given.
struct Bench<'a> {
    args: &'a BenchArgs,
    binaries: Vec<Artifact>,
}

impl Bench<'_> {
    /// A binary of the workspace, as it is measured.
    fn binary(&self, name: &str) -> Result<PathBuf> {
        let built = self
            .binaries
            .iter()
            .find(|artifact| artifact.target == name);
        Ok(built
            .with_context(|| format!("cargo built no {name}"))?
            .executable
            .clone())
    }

    /// A command that reads nothing from the terminal.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.stdin(std::process::Stdio::null());
        command
    }
}

impl Instrument {
    const ALL: [Self; 3] = [Self::Packet, Self::Traffic, Self::Programming];

    const fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Traffic => "traffic",
            Self::Programming => "programming",
        }
    }

    /// Packages whose binaries it runs; released ones, unless `--dev`.
    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Packet => &["svc-bench"],
            Self::Traffic => &["svc-agent"],
            Self::Programming => &["svc-agent", "svc-bench"],
        }
    }

    fn run(self, bench: &Bench<'_>) -> Result<Outcome> {
        match self {
            Self::Packet => packet::run(bench),
            Self::Traffic => traffic::run(bench),
            Self::Programming => programming::run(bench),
        }
    }
}

/// Exit code 3: nothing is wrong, but the machine was too noisy.
const NOISY: u8 = 3;

pub fn bench(args: &BenchArgs) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark loads eBPF programs and makes network namespaces: run it as root"
    );
    let mut instruments = args.instruments.clone();
    if instruments.is_empty() {
        instruments = Instrument::ALL.to_vec();
    }
    let bench = Bench {
        args,
        binaries: build(args, &instruments)?,
    };
    let folder = args.json.clone().unwrap_or_else(default_folder);
    let mut noisy = false;
    for instrument in instruments {
        let start = Instant::now();
        step(&format!("measuring: {}", instrument.name()));
        let outcome = instrument.run(&bench)?;
        step(&format!(
            "{}: {:.0} s",
            instrument.name(),
            start.elapsed().as_secs_f32()
        ));
        noisy |= !report(&bench, instrument, &outcome, &folder)?;
    }
    grow(&bench, &folder)?;
    Ok(if noisy {
        ExitCode::from(NOISY)
    } else {
        ExitCode::SUCCESS
    })
}

/// Shows and keeps what was measured. False: the machine was too noisy for that.
fn report(
    bench: &Bench<'_>,
    instrument: Instrument,
    outcome: &Outcome,
    folder: &Path,
) -> Result<bool> {
    let name = instrument.name();
    if !outcome.noise.is_empty() {
        eprintln!(
            "{name}: the machine was too noisy: {}",
            outcome.noise.join("; ")
        );
        if !bench.args.force {
            eprintln!(
                "{name}: nothing is reported; wait for a quiet moment, or give --force to see the figures all the same"
            );
            return Ok(false);
        }
    }
    for table in &outcome.tables {
        print!("{}", table.terminal());
    }
    figure::write(folder, name, &outcome.figures)?;
    step(&format!(
        "the figures are in {}",
        folder.join(format!("{name}.json")).display()
    ));
    if bench.args.record {
        document::record(
            &docs(),
            name,
            &outcome.tables,
            &outcome.charts,
            &outcome.noise,
        )?;
    }
    Ok(outcome.noise.is_empty())
}

/// Instrument 4, of the last figures of all others.
fn grow(bench: &Bench<'_>, folder: &Path) -> Result<()> {
    let mut figures: Vec<Figure> = Vec::new();
    for instrument in Instrument::ALL {
        figures.extend(figure::read(folder, instrument.name())?);
    }
    let table: Table = growth::table(&figures);
    if table.rows.is_empty() {
        return Ok(());
    }
    print!("{}", table.terminal());
    if bench.args.record {
        document::record(&docs(), "growth", &[table], &[], &[])?;
    }
    Ok(())
}

fn build(args: &BenchArgs, instruments: &[Instrument]) -> Result<Vec<Artifact>> {
    setup()?;
    step("building what is measured");
    let mut command = cargo();
    command.args(["build", "--bins"]);
    for package in instruments
        .iter()
        .flat_map(|instrument| instrument.packages())
    {
        command.args(["--package", package]);
    }
    if !args.dev {
        command.arg("--release");
    }
    artifacts(&mut command)
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Beside what cargo builds.
fn default_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("bench")
}

/// Progress goes to stderr, results to stdout.
fn step(what: &str) {
    eprintln!("bench: {what}");
}
