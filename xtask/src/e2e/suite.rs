//! Runs upstream's suite from the outside client, and says what came of each spec.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::cluster::program;
use super::{E2eArgs, Lab};
use crate::setup::step;

pub(super) const FOCUS: &str = r"\[sig-network\]";
/// Network policy, ingress, the Internet, changes of the whole DNS server: not a proxy's work, or
/// more than the cluster has. SCTP sockets: more than some kernels have.
const SKIP: &str = r"\[Disruptive\]|Netpol|Ingress|DNS configMap|\[Feature:(SCTPConnectivity|Networking-|PerformanceDNS|KubeProxyNFAcct|KubeProxyDaemonSet)|\[Provider:|sig-windows";
/// Somebody has to give out addresses: here a small balancer of our own, elsewhere perhaps nobody.
const BALANCED: &str = "LoadBalancer";

/// What of ginkgo's JSON report (types.Report) is of use here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    spec_reports: Option<Vec<SpecReport>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecReport {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Failure,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// What came of one run.
#[derive(Serialize, Deserialize)]
pub(super) struct Outcome {
    seconds: u64,
    specs: BTreeMap<String, Spec>,
}

#[derive(Serialize, Deserialize)]
struct Spec {
    /// In ginkgo's words: passed, failed, skipped, timedout, …
    state: String,
    message: String,
}

impl Outcome {
    fn count(&self, state: &str) -> usize {
        self.specs
            .values()
            .filter(|spec| spec.state == state)
            .count()
    }

    pub(super) fn is_good(&self) -> bool {
        self.count("passed") > 0 && self.count("passed") + self.count("skipped") == self.specs.len()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, spec) in &self.specs {
            if spec.state != "passed" {
                writeln!(f, "{}: {name}\n    {}", spec.state, spec.message)?;
            }
        }
        let (passed, skipped) = (self.count("passed"), self.count("skipped"));
        let failed = self.specs.len() - passed - skipped;
        write!(
            f,
            "e2e: {passed} passed, {failed} failed, {skipped} skipped in {} s",
            self.seconds
        )
    }
}

pub(super) fn run(lab: &Lab, args: &E2eArgs) -> Result<Outcome> {
    let start = Instant::now();
    let folder = lab.dir.join("report");
    // The last run's.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).context("cannot make the folder of the report")?;
    let log = folder.join("log");
    step(&format!(
        "running the suite; its output goes to {}",
        log.display()
    ));
    let output = fs::File::create(&log).context("cannot write the suite's output")?;
    let mut ginkgo = program(lab, "client", "ginkgo");
    ginkgo
        .args(["--timeout=2h", "--no-color", "--json-report=report.json"])
        .arg(format!("--procs={}", args.procs))
        .arg(format!("--output-dir={}", folder.display()))
        .arg(lab.bin("e2e.test"))
        .arg("--")
        .arg(format!("--kubeconfig={}", lab.kubeconfig().display()))
        .arg(format!("--kubectl-path={}", lab.bin("kubectl").display()))
        .arg(format!("--num-nodes={}", lab.nodes))
        .args([
            "--provider=skeleton",
            "--allowed-not-ready-nodes=0",
            "--dump-logs-on-failure=false",
        ])
        .args(["--ginkgo.seed=1", &format!("--ginkgo.focus={}", args.focus)])
        .arg(format!("--ginkgo.skip={}", skip(lab, args)))
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(
            output
                .try_clone()
                .context("cannot share the suite's output")?,
        )
        .stderr(output);
    // Its status says no more than the report does.
    ginkgo.status().context("cannot run ginkgo")?;
    let report = fs::read(folder.join("report.json"))
        .with_context(|| format!("the suite left no report; see {}", log.display()))?;
    let reports: Vec<Report> = serde_json::from_slice(&report).context("cannot read the report")?;
    Ok(Outcome {
        seconds: start.elapsed().as_secs(),
        specs: reports
            .into_iter()
            .filter_map(|r| r.spec_reports)
            .flatten()
            .filter_map(spec)
            .collect(),
    })
}

fn skip(lab: &Lab, args: &E2eArgs) -> String {
    match &args.skip {
        Some(skip) => skip.clone(),
        None if lab.elsewhere.is_some() => format!("{SKIP}|{BALANCED}"),
        None => SKIP.to_owned(),
    }
}

/// None: it was not selected, or is none (set-up that went well).
fn spec(report: SpecReport) -> Option<(String, Spec)> {
    let message: String = report
        .failure
        .message
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let chosen = match report.state.as_str() {
        "skipped" => !message.is_empty(),
        "passed" => report.leaf_node_type == "It",
        state => state != "pending",
    };
    let mut name = report.container_hierarchy_texts.unwrap_or_default();
    name.push(report.leaf_node_text);
    let spec = Spec {
        state: report.state,
        message: message.chars().take(300).collect(),
    };
    chosen.then(|| (name.join(" "), spec))
}

/// Writes the results of all settings that were run so far into `file`, between its markers.
pub(super) fn record(lab: &Lab, file: &Path, outcomes: &[Outcome]) -> Result<()> {
    const BEGIN: &str = "<!-- e2e: written by `cargo xtask e2e --record` -->\n";
    const END: &str = "<!-- e2e: end -->";
    ensure!(
        outcomes.iter().any(|outcome| !outcome.specs.is_empty()),
        "no spec was selected: there is nothing to record"
    );
    let results = lab.dir.join("results");
    fs::create_dir_all(&results).context("cannot make the folder of results")?;
    fs::write(results.join(lab.setting()), serde_json::to_vec(outcomes)?)
        .context("cannot keep the results")?;

    let mut settings: BTreeMap<String, Vec<Outcome>> = BTreeMap::new();
    for entry in fs::read_dir(&results).context("cannot list the results")? {
        let entry = entry.context("cannot list the results")?;
        let text = fs::read(entry.path()).context("cannot read results")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        settings.insert(
            name,
            serde_json::from_slice(&text).context("cannot read results")?,
        );
    }
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("{} has no line {BEGIN}", file.display()))?;
    let (_, after) = rest.split_once(END).context("the end marker is missing")?;
    let table = table(&settings);
    fs::write(file, format!("{before}{BEGIN}\n{table}\n{END}{after}")).context("cannot record")
}

/// A line per spec, a column per setting: how many runs of it passed.
fn table(settings: &BTreeMap<String, Vec<Outcome>>) -> String {
    let mut table = "| spec |".to_owned();
    for name in settings.keys() {
        table.push_str(&format!(" {name} |"));
    }
    table.push_str(&format!("\n|---|{}\n", "---|".repeat(settings.len())));
    let specs: std::collections::BTreeSet<&String> = settings
        .values()
        .flatten()
        .flat_map(|outcome| outcome.specs.keys())
        .collect();
    for spec in specs {
        table.push_str(&format!("| {} |", spec.replace('|', "\\|")));
        for outcomes in settings.values() {
            let states: Vec<&str> = outcomes
                .iter()
                .filter_map(|outcome| outcome.specs.get(spec))
                .map(|spec| spec.state.as_str())
                .collect();
            let cell = match states.first() {
                None => "not run".to_owned(),
                Some(first) if states.iter().all(|state| state == first) => {
                    format!("{first} {0}/{0}", states.len())
                }
                Some(_) => states.join(", "),
            };
            table.push_str(&format!(" {cell} |"));
        }
        table.push('\n');
    }
    table
}
