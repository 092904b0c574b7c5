//! Instrument 1: nanoseconds and instructions of each program on single packets. svc-bench runs them
//! (`BPF_PROG_TEST_RUN`); this starts it and reads what it prints.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::chart::{Chart, Kind, Series};
use super::figure::{Figure, Outcome};
use super::noise::Meter;
use super::table::{Table, grouped, size};
use super::{Bench, stats};

/// A row was disturbed when half of its bursts, or of the empty program's, took so much longer than the least.
const QUIET: f64 = 0.25;
/// So large a share of the rows may be.
const NOISY_ROWS: f64 = 0.2;
/// Others may have so much of the CPUs' time: of two, half of the one that is not measured on.
const OTHERS: f64 = 0.25;

/// In the order of their rows: floors first.
const PROGRAMS: [&str; 9] = [
    "pod_ingress",
    "pod_egress",
    "node_ingress",
    "node_egress",
    "node_xdp",
    "connect4",
    "connect6",
    "getpeername4",
    "getpeername6",
];

/// A line of svc-bench's. One without samples only tells of a program.
#[derive(Deserialize)]
struct Line {
    program: String,
    case: String,
    family: String,
    flows: u32,
    services: u32,
    verified: u32,
    machine_code: u32,
    floor: Vec<f64>,
    samples: Vec<f64>,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    let meter = Meter::start()?;
    let (weights, mut lines): (Vec<_>, Vec<_>) = measure(bench)?
        .into_iter()
        .partition(|line| line.samples.is_empty());
    lines.sort_by_key(|line: &Line| {
        let place = PROGRAMS.iter().position(|program| *program == line.program);
        (place, line.by_services().is_some())
    });
    ensure!(
        !lines.is_empty(),
        "no row has {:?} in its name",
        bench.args.only
    );
    let mut outcome = Outcome {
        figures: lines.iter().map(figure).collect(),
        tables: vec![
            floors(&lines),
            costs(&lines),
            services(&lines),
            sockets(&lines),
            programs(&weights),
        ],
        charts: charts(&lines),
        noise: Vec::new(),
    };
    outcome.tables.retain(|table| !table.rows.is_empty());
    let noisy = lines.iter().filter(|line| line.is_noisy()).count();
    if noisy as f64 > lines.len() as f64 * NOISY_ROWS {
        outcome.noise.push(format!(
            "{noisy} of {} rows have bursts that are more than {:.0} % apart",
            lines.len(),
            QUIET * 100.0
        ));
    }
    let others = meter.others()?;
    if others > OTHERS {
        outcome.noise.push(format!(
            "other processes took {:.0} % of the CPUs' time",
            others * 100.0
        ));
    }
    Ok(outcome)
}

fn measure(bench: &Bench<'_>) -> Result<Vec<Line>> {
    let (flows, services, rounds) = match bench.args.quick {
        true => ("1,65536", "10,1000,10000", 9),
        false => ("1,65536,524288,1048576", "10,1000,10000,100000", 31),
    };
    let mut command = bench.command(&bench.binary("svc-bench")?);
    command
        .args(["--flows", bench.args.flows.as_deref().unwrap_or(flows)])
        .args([
            "--services",
            bench.args.services.as_deref().unwrap_or(services),
        ])
        .arg(format!("--rounds={}", bench.args.rounds.unwrap_or(rounds)))
        .arg(format!("--only={}", bench.args.only))
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run svc-bench")?;
    let stdout = child.stdout.take().context("svc-bench has no output")?;
    let mut lines = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what svc-bench prints")?;
        lines.push(serde_json::from_str(&line).context("svc-bench has printed something else")?);
    }
    let status = child.wait().context("cannot wait for svc-bench")?;
    ensure!(status.success(), "svc-bench failed; its error is above");
    Ok(lines)
}

impl Line {
    /// Above the empty program: burst by burst.
    fn differences(&self) -> Vec<f64> {
        self.samples
            .iter()
            .zip(&self.floor)
            .map(|(cost, floor)| cost - floor)
            .collect()
    }

    fn least(&self) -> f64 {
        stats::least(&self.samples) - stats::least(&self.floor)
    }

    fn is_noisy(&self) -> bool {
        let apart = |samples: &[f64]| {
            let least = stats::least(samples);
            stats::median(samples) - least > least * QUIET
        };
        apart(&self.samples) || apart(&self.floor)
    }

    fn is_floor(&self) -> bool {
        self.program.starts_with("floor")
    }

    fn is_call(&self) -> bool {
        self.program.starts_with("connect") || self.program.starts_with("getpeername")
    }

    fn by_services(&self) -> Option<&str> {
        self.case.strip_prefix("many Services: ")
    }

    /// `54 (61)`: the least and the median.
    fn cell(&self) -> String {
        let median = stats::median(&self.differences());
        format!("{:.0} ({:.0})", self.least(), median)
    }
}

fn figure(line: &Line) -> Figure {
    let (row, contestant) = match line.is_floor() {
        true => (line.case.clone(), "floor"),
        false => (format!("{}: {}", line.program, line.case), "svcplane"),
    };
    let figure = Figure {
        least: line.least(),
        ..Figure::new("packet", row, contestant, "ns", line.differences())
    };
    figure
        .with("family", &line.family)
        .with("flows", line.flows)
        .with("services", line.services)
}

const ABOVE: &str =
    "Nanoseconds a packet above an empty program, least of all bursts, in brackets the median.";

/// A row's names, and its cells by their columns.
type Row<K> = (Vec<String>, BTreeMap<K, String>);

/// Rows by name, columns by what `column` says.
fn pivot<'a, K: Ord + Clone>(
    lines: impl Iterator<Item = &'a Line>,
    column: impl Fn(&Line) -> K,
    name: impl Fn(&Line) -> Vec<String>,
) -> (Vec<K>, Vec<Row<K>>) {
    let mut columns = Vec::new();
    let mut rows: Vec<Row<K>> = Vec::new();
    for line in lines {
        let (key, name) = (column(line), name(line));
        columns.push(key.clone());
        match rows.iter_mut().find(|(known, _)| *known == name) {
            Some((_, cells)) => {
                cells.insert(key, line.cell());
            }
            None => rows.push((name, [(key, line.cell())].into())),
        }
    }
    columns.sort();
    columns.dedup();
    (columns, rows)
}

fn by_flows<'a>(
    title: &str,
    names: &[&str],
    lines: impl Iterator<Item = &'a Line>,
    name: impl Fn(&Line) -> Vec<String>,
) -> Table {
    let (columns, rows) = pivot(lines, |line| line.flows, name);
    let heads = columns.iter().map(|flows| match flows {
        0 => "always new".to_owned(),
        1 => "1 flow".to_owned(),
        _ => format!("{} flows", size(u64::from(*flows))),
    });
    let mut table = Table::new(
        title,
        names.iter().map(|name| (*name).to_owned()).chain(heads),
    );
    table.note = ABOVE.into();
    for (name, cells) in rows {
        let cells = columns
            .iter()
            .map(|column| cells.get(column).cloned().unwrap_or_default());
        table.row(name.into_iter().chain(cells));
    }
    table
}

fn floors(lines: &[Line]) -> Table {
    let floors = lines.iter().filter(|line| line.is_floor());
    by_flows("Floors", &["what"], floors, |line| vec![line.case.clone()])
}

fn costs(lines: &[Line]) -> Table {
    let rows = lines
        .iter()
        .filter(|line| !line.is_floor() && !line.is_call() && line.by_services().is_none());
    by_flows(
        "Per packet",
        &["program", "packet", "family"],
        rows,
        |line| {
            vec![
                format!("`{}`", line.program),
                line.case.clone(),
                line.family.clone(),
            ]
        },
    )
}

fn services(lines: &[Line]) -> Table {
    let rows = lines.iter().filter(|line| line.by_services().is_some());
    let (columns, rows) = pivot(
        rows,
        |line| line.services,
        |line| {
            let case = line.by_services().unwrap_or_default().to_owned();
            let flows = match line.flows {
                0 => "always new".to_owned(),
                flows => size(u64::from(flows)),
            };
            vec![
                format!("`{}`", line.program),
                case,
                line.family.clone(),
                flows,
            ]
        },
    );
    let names = ["program", "packet", "family", "flows"].map(str::to_owned);
    let heads = columns
        .iter()
        .map(|services| format!("{} Services", size(u64::from(*services))));
    let mut table = Table::new(
        "Per packet, by the number of Services present",
        names.into_iter().chain(heads),
    );
    table.note = ABOVE.into();
    for (name, cells) in rows {
        let cells = columns
            .iter()
            .map(|column| cells.get(column).cloned().unwrap_or_default());
        table.row(name.into_iter().chain(cells));
    }
    table
}

fn sockets(lines: &[Line]) -> Table {
    let mut table = Table::new("Socket calls", ["hook", "address", "ns"]);
    table.note = "Nanoseconds above the same call of a socket that no hook meets (UDP), least of all bursts, in brackets the median.".into();
    for line in lines.iter().filter(|line| line.is_call()) {
        table.row([
            format!("`{}`", line.program),
            line.case.clone(),
            line.cell(),
        ]);
    }
    table
}

fn programs(lines: &[Line]) -> Table {
    let mut table = Table::new(
        "Programs",
        ["program", "verified instructions", "bytes of machine code"],
    );
    let mut lines: Vec<&Line> = lines.iter().collect();
    lines.sort_by_key(|line| &line.program);
    for line in lines {
        table.row([
            format!("`{}`", line.program),
            grouped(i64::from(line.verified)),
            grouped(i64::from(line.machine_code)),
        ]);
    }
    table
}

fn charts(lines: &[Line]) -> Vec<Chart> {
    let mut charts = vec![by_flow_count(lines), by_case(lines)];
    charts.retain(|chart| chart.series.iter().any(|series| !series.points.is_empty()));
    charts
}

fn by_flow_count(lines: &[Line]) -> Chart {
    let series = [
        ("hash lookup", "floor_hash", "hash lookup"),
        ("LRU lookup", "floor_lru", "LRU lookup"),
        ("not ours, pod_ingress", "pod_ingress", "not ours"),
        ("known, pod_ingress", "pod_ingress", "known flow"),
        ("answer, pod_egress", "pod_egress", "known flow"),
        (
            "SNAT and route, node_xdp",
            "node_xdp",
            "known flow, SNAT, route",
        ),
    ];
    let points = |program: &str, case: &str| {
        let lines = lines.iter().filter(|line| {
            line.program == program && line.case == case && line.family == "v4" && line.flows > 0
        });
        let points = lines.map(|line| (f64::from(line.flows), line.least()));
        points.filter(|(_, cost)| *cost > 0.0).collect::<Vec<_>>()
    };
    let series = series.map(|(name, program, case)| Series {
        name: name.into(),
        points: points(program, case),
    });
    Chart {
        name: "flows".into(),
        title: "A packet's cost by the number of flows (IPv4)".into(),
        x: "flows that packets cycle through".into(),
        y: "ns above an empty program".into(),
        kind: Kind::Lines,
        series: series
            .into_iter()
            .filter(|series| series.points.len() > 1)
            .collect(),
    }
}

/// The cases of the way from a pod, both families side by side.
fn by_case(lines: &[Line]) -> Chart {
    const CASES: [(&str, &str, u32); 5] = [
        ("not ours", "not ours", 1),
        ("known, 1 flow", "known flow", 1),
        ("known, 64k flows", "known flow", 1 << 16),
        ("new", "new flow", 0),
        ("refused", "refused (TCP)", 1 << 16),
    ];
    let series = [("IPv4", "v4"), ("IPv6", "v6")].map(|(name, family)| {
        let cost = |(_, case, flows): &(&str, &str, u32)| {
            let line = lines.iter().find(|line| {
                line.program == "pod_ingress"
                    && line.family == family
                    && line.case == *case
                    && line.flows == *flows
            });
            line.map(Line::least)
        };
        let points = CASES.iter().enumerate();
        Series {
            name: name.into(),
            points: points
                .filter_map(|(place, case)| Some((place as f64, cost(case)?)))
                .collect(),
        }
    });
    Chart {
        name: "cases".into(),
        title: "A pod's packet at pod_ingress".into(),
        x: String::new(),
        y: "ns above an empty program".into(),
        kind: Kind::Bars(CASES.map(|(name, ..)| name.to_owned()).to_vec()),
        series: series.into(),
    }
}
