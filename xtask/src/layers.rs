//! `cargo xtask test`: builds everything once, runs the layers, least powerful first, and counts.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use xtask::ebpf::find_program;

use crate::assets::assets;
use crate::build::{Artifact, artifacts};
use crate::kernels::{self, KernelsArgs};
use crate::setup::{apt_install, cargo, setup};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layer {
    /// Unit and property tests, doc tests, the documents.
    Host,
    /// YAML in, text dump of the maps out; random clusters against the model.
    Golden,
    /// The loaded programs by BPF_PROG_TEST_RUN.
    Kernel,
    /// Namespaces and real sockets.
    Net,
    /// A real API server, and the real controllers, kube-proxy and CoreDNS with it.
    Api,
    /// Faults injected into the real thing under load.
    Faults,
    /// Programs, packets and sockets on Debian's kernels under QEMU. Takes long: only when it is asked for.
    Kernels,
}

impl Layer {
    /// Those that run when none is asked for.
    const ALL: [Self; 6] = [
        Self::Host,
        Self::Golden,
        Self::Kernel,
        Self::Net,
        Self::Api,
        Self::Faults,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Golden => "golden",
            Self::Kernel => "kernel",
            Self::Net => "net",
            Self::Api => "api",
            Self::Faults => "faults",
            Self::Kernels => "kernels",
        }
    }

    fn needs_root(self) -> bool {
        !matches!(self, Self::Host | Self::Golden)
    }

    fn needs_assets(self) -> bool {
        matches!(self, Self::Api | Self::Faults)
    }

    fn has(self, artifact: &Artifact) -> bool {
        let layered = artifact.kind == "test"
            && (artifact.package.ends_with("tests") || artifact.package.ends_with("xtask"));
        artifact.test
            && match self {
                Self::Host => !layered,
                // The network by itself, before Services come on top.
                Self::Net => layered && ["net", "topology"].contains(&artifact.target.as_str()),
                Self::Api => layered && ["api", "real"].contains(&artifact.target.as_str()),
                Self::Golden => layered && ["golden", "agree"].contains(&artifact.target.as_str()),
                _ => layered && artifact.target == self.name(),
            }
    }
}

#[derive(clap::Args)]
pub struct TestArgs {
    /// Only these layers.
    #[arg(long)]
    layer: Vec<Layer>,
    /// Also the long forms of tests, which take minutes each.
    #[arg(long)]
    long: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

pub fn test(args: &TestArgs) -> Result<ExitCode> {
    let wanted = |layer: &Layer| args.layer.is_empty() || args.layer.contains(layer);
    let layers: Vec<_> = Layer::ALL.into_iter().filter(wanted).collect();
    if layers.iter().any(|layer| layer.needs_root()) && !nix::unistd::geteuid().is_root() {
        bail!("this needs root; without it: --layer host --layer golden");
    }
    setup()?;
    let exe = std::env::current_exe().context("cannot find this executable")?;
    let target = exe
        .ancestors()
        .nth(2)
        .context("xtask lies in no target folder")?
        .to_owned();
    if layers.contains(&Layer::Api) && find_program("nft").is_none() {
        // kube-proxy's, which svcplane is compared with.
        apt_install(&["nftables"])?;
    }
    let needed = layers.iter().any(|layer| layer.needs_assets());
    let mut assets = needed.then(|| in_background(target));
    let mut build = cargo();
    build
        .args(["build", "--locked", "--quiet", "--all-targets"])
        .args(packages());
    let built = artifacts(&mut build)?;

    let (mut total, mut failures) = (Counts::default(), Vec::new());
    for layer in layers {
        let start = Instant::now();
        if let Some(assets) = assets.take_if(|_| layer.needs_assets()) {
            assets
                .join()
                .map_err(|_| anyhow!("building the API server panicked"))??;
        }
        let counts = run_layer(layer, &built, args, &mut failures)?;
        println!(
            "{:<7} {counts} in {:.1} s",
            layer.name(),
            start.elapsed().as_secs_f64()
        );
        total += counts;
    }
    if args.layer.contains(&Layer::Kernels) {
        total += kernels::counts(&KernelsArgs::of_a_layer(args.long), &mut failures)?;
    }
    for failure in failures {
        println!("failed: {failure}");
    }
    println!("{total}");
    Ok(if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn packages() -> [&'static str; 8] {
    [
        "-p",
        "svc-common",
        "-p",
        "svc-agent",
        "-p",
        "xtask",
        "-p",
        "svc-tests",
    ]
}

fn in_background(target: PathBuf) -> JoinHandle<Result<()>> {
    std::thread::spawn(move || assets(&target))
}

fn run_layer(
    layer: Layer,
    built: &[Artifact],
    args: &TestArgs,
    failures: &mut Vec<String>,
) -> Result<Counts> {
    let filter = args.filter.as_deref();
    let mut counts = Counts::default();
    let binaries = built
        .iter()
        .find(|artifact| artifact.kind == "bin" && !artifact.test);
    let binaries = binaries
        .and_then(|binary| binary.executable.parent())
        .context("cargo built no binaries")?;
    for artifact in built.iter().filter(|artifact| layer.has(artifact)) {
        let mut command = Command::new(&artifact.executable);
        command
            .arg("--show-output")
            .args(args.long.then_some("--include-ignored"))
            .args(filter)
            .current_dir(&artifact.package);
        command
            .env("CARGO_MANIFEST_DIR", &artifact.package)
            .env("SVCPLANE_BIN", binaries);
        counts += count(&artifact.target, &mut command, failures)?;
    }
    if layer == Layer::Host {
        let mut docs = cargo();
        docs.args([
            "test",
            "--quiet",
            "--doc",
            "-p",
            "svc-common",
            "-p",
            "svc-agent",
            "-p",
            "xtask",
            "--",
        ]);
        counts += count("doc tests", docs.args(filter), failures)?;
        let agent = built
            .iter()
            .find(|artifact| artifact.target == "svc-agent" && !artifact.test);
        if let (Some(agent), None) = (agent, filter) {
            match crate::docs::check(&agent.executable) {
                Ok(_) => counts.passed += 1,
                Err(error) => {
                    failures.push(format!("documents: {error:#}"));
                    counts.failed += 1;
                }
            }
        }
    }
    if !built.iter().any(|artifact| layer.has(artifact)) {
        failures.push(format!("{}: no test target has this name", layer.name()));
        counts.failed += 1;
    }
    Ok(counts)
}

/// Runs a test executable; its output is shown only when something failed.
fn count(name: &str, command: &mut Command, failures: &mut Vec<String>) -> Result<Counts> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run the tests of {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let mut counts = tally(&text);
    if !output.status.success() {
        counts.failed = counts.failed.max(1);
        println!("{text}\n{name}: {}", output.status);
        let before = failures.len();
        failures.extend(reasons(&text).map(|reason| format!("{name}: {reason}")));
        if failures.len() == before {
            failures.push(format!("{name}: {}", output.status));
        }
    } else {
        text.lines()
            .filter(|line| line.starts_with(SKIPPED))
            .for_each(|line| println!("{line}"));
    }
    Ok(counts)
}

/// What a test prints before it returns because something optional is not there.
const SKIPPED: &str = "skipped: ";

/// Each failed test of an output, with the first line of what it said.
pub fn reasons(output: &str) -> impl Iterator<Item = String> {
    // libtest shows passed tests in the same way, before this line, and ends with a bare list of names.
    let shown = output.split("\nfailures:\n").nth(1).unwrap_or_default();
    let mut lines = shown.lines();
    std::iter::from_fn(move || {
        let name = lines.find_map(|line| line.strip_prefix("---- ")?.strip_suffix(" ----"))?;
        let name = name.trim_end_matches(" stdout");
        let mut said = lines.find(|line| !line.is_empty())?.to_owned();
        if said.ends_with(':') {
            // "thread … panicked at …:", and why.
            said = said + " " + lines.next()?;
        }
        Some(format!("{name}: {said}"))
    })
}

/// Sums the `test result: ok. 3 passed; 0 failed; 1 ignored; …` lines.
pub fn tally(output: &str) -> Counts {
    let mut counts = Counts::default();
    for line in output.lines() {
        let Some((_, result)) = line
            .strip_prefix("test result: ")
            .and_then(|line| line.split_once(". "))
        else {
            continue;
        };
        for part in result.split("; ") {
            match part
                .split_once(' ')
                .map(|(number, what)| (number.parse::<u64>(), what))
            {
                Some((Ok(number), "passed")) => counts.passed += number,
                Some((Ok(number), "failed")) => counts.failed += number,
                Some((Ok(number), "ignored")) => counts.skipped += number,
                _ => {}
            }
        }
    }
    let skipped = output
        .lines()
        .filter(|line| line.starts_with(SKIPPED))
        .count() as u64;
    counts.skipped += skipped;
    counts.passed = counts.passed.saturating_sub(skipped);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_result_lines() {
        let output = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
                      test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(tally(output).to_string(), "5 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn failures_are_told_with_their_first_line() {
        let output = "test a ... ok\ntest b ... FAILED\n\nsuccesses:\n\n---- a stdout ----\nhello\n\n\nsuccesses:\n    a\n\n\
                      failures:\n\n---- b stdout ----\n\nthread 'b' panicked at b.rs:1:2:\nno\n\n---- net::c ----\nlate\n--- node1\n\n\
                      failures:\n    b\n    net::c\n";
        let told: Vec<_> = reasons(output).collect();
        assert_eq!(
            told,
            ["b: thread 'b' panicked at b.rs:1:2: no", "net::c: late"]
        );
    }

    #[test]
    fn a_test_that_says_it_skipped_is_not_passed() {
        let output = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nskipped: no SCTP here\n\n\
                      test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(tally(output).to_string(), "1 passed, 0 failed, 1 skipped");
    }
}
