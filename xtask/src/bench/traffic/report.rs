//! What the bursts say: figures, tables, charts, and whether the machine was quiet enough for them.

use xtask::load::{Burst, Work};

use super::super::chart::{Chart, Kind, Series};
use super::super::figure::{Figure, Outcome};
use super::super::stats::{median, spread};
use super::super::table::{Table, number, size};
use super::Case;
use super::contestants::Way;

/// How exactly the median of a ratio is to be known, and how many may be less so.
const EXACT: f64 = 0.02;
const DISTURBED: f64 = 0.2;

const STAGES: [&str; 2] = ["From pods", "From outside"];

pub(super) fn outcome(cases: &[Case]) -> Outcome {
    let mut outcome = Outcome {
        figures: cases.iter().flat_map(figures).collect(),
        charts: charts(cases),
        noise: noise(cases),
        ..Outcome::default()
    };
    for stage in STAGES {
        let cases: Vec<_> = cases.iter().filter(|case| case.stage == stage).collect();
        if cases.is_empty() {
            continue;
        }
        let present = sizes(&cases).join(" / ");
        let title = |what: &str| {
            format!("{stage}: {what}, as a ratio to direct; {present} Services present")
        };
        outcome.tables.push(table(
            title("CPU time of one transaction"),
            |case, index| case.cpu(index),
            &cases,
        ));
        outcome.tables.push(table(
            title("99th percentile of the time that one takes"),
            |case, index| case.time(index, |burst| burst.p99),
            &cases,
        ));
    }
    outcome
}

impl Case {
    fn row(&self) -> String {
        format!("{}: {}", self.way.name(), self.work)
    }

    fn family(&self) -> &'static str {
        if self.v6 { "v6" } else { "v4" }
    }

    /// Nanoseconds of CPU time that each transaction took, by burst.
    fn cpu(&self, contestant: usize) -> Vec<f64> {
        let units = self.work.units();
        let each = |burst: &Burst| burst.cpu as f64 / (burst.round_trips * units) as f64;
        self.bursts[contestant].1.iter().map(each).collect()
    }

    /// A time of a round trip, by burst.
    fn time(&self, contestant: usize, which: fn(&Burst) -> u64) -> Vec<f64> {
        let bursts = self.bursts[contestant].1.iter();
        bursts.map(|burst| which(burst) as f64).collect()
    }

    fn lost(&self, contestant: usize) -> usize {
        let bursts = self.bursts[contestant].1.iter();
        bursts.map(|burst| burst.lost).sum()
    }
}

/// Round by round.
fn ratios(samples: &[f64], direct: &[f64]) -> Vec<f64> {
    let pairs = samples.iter().zip(direct);
    pairs.map(|(sample, direct)| sample / direct).collect()
}

/// The standard error of the median, from the quartiles of samples.
fn error(samples: &[f64]) -> f64 {
    let deviation = spread(samples) * median(samples) / 1.35;
    1.25 * deviation / (samples.len() as f64).sqrt()
}

/// One line for whoever waits.
pub(super) fn line(case: &Case) -> String {
    let direct = case.cpu(0);
    let mut line = format!(
        "{:>6} {} {}: direct {:.0} ns",
        case.services,
        case.family(),
        case.row(),
        median(&direct)
    );
    for (index, (name, _)) in case.bursts.iter().enumerate().skip(1) {
        let ratios = ratios(&case.cpu(index), &direct);
        line += &format!(", {name} {:.3}±{:.3}", median(&ratios), error(&ratios));
        if case.lost(index) > 0 {
            line += &format!(" ({} lost)", case.lost(index));
        }
    }
    line
}

fn figures(case: &Case) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (index, (name, _)) in case.bursts.iter().enumerate() {
        let figure = |what: &str, unit: &str, samples| {
            Figure::new(
                "traffic",
                format!("{}: {what}", case.row()),
                *name,
                unit,
                samples,
            )
            .with("family", case.family())
        };
        let cpu = figure("CPU", "ns", case.cpu(index));
        // The growth of these is looked at; of all of them it would be a long list.
        let fitted = matches!(case.work, Work::TcpConnect | Work::UdpPackets)
            && matches!(case.way, Way::PodToLocal | Way::OutsideToRemote);
        let by = if fitted { "services" } else { "present" };
        figures.push(cpu.with(by, case.services));
        let ratio = ratios(&case.cpu(index), &case.cpu(0));
        let of_direct = figure("CPU, ratio to direct", "", ratio);
        figures.push(of_direct.with("present", case.services));
        for (what, times) in [
            ("p50", case.time(index, |burst| burst.p50)),
            ("p99", case.time(index, |burst| burst.p99)),
            ("p99.9", case.time(index, |burst| burst.p999)),
        ] {
            figures.push(figure(what, "ns", times).with("present", case.services));
        }
    }
    figures
}

fn sizes(cases: &[&Case]) -> Vec<String> {
    let mut sizes: Vec<_> = cases.iter().map(|case| case.services).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
        .iter()
        .map(|services| size(*services as u64))
        .collect()
}

/// Rows by way, work and family; in a cell the ratios at all numbers of Services.
fn table(title: String, samples: impl Fn(&Case, usize) -> Vec<f64>, cases: &[&Case]) -> Table {
    let names = cases[0].bursts.iter().skip(1).map(|(name, _)| *name);
    let columns = ["way", "work", "family", "direct, ns"]
        .into_iter()
        .chain(names);
    let mut table = Table::new(title, columns);
    table.note = "Medians of the ratios of bursts that alternate; in a cell one for each number of Services. \
                  CPU time is that of client, server and softirqs together, on one CPU; of udp-packets it is that of one \
                  packet, of tcp-bulk that of a mebibyte."
        .into();
    let mut rows: Vec<(Way, bool, Work)> = Vec::new();
    for case in cases {
        let row = (case.way, case.v6, case.work);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows.sort();
    for row in rows {
        let same: Vec<_> = cases
            .iter()
            .filter(|case| (case.way, case.v6, case.work) == row)
            .collect();
        let first = same[0];
        let mut cells = vec![
            first.way.name().to_owned(),
            first.work.to_string(),
            first.family().to_owned(),
            number(median(&samples(first, 0))),
        ];
        for contestant in 1..first.bursts.len() {
            let ratio = |case: &&&Case| {
                let ratios = ratios(&samples(case, contestant), &samples(case, 0));
                format!("{:.2}", median(&ratios))
            };
            cells.push(same.iter().map(ratio).collect::<Vec<_>>().join(" / "));
        }
        table.row(cells);
    }
    table
}

fn noise(cases: &[Case]) -> Vec<String> {
    let mut all = 0;
    let mut inexact = 0;
    for case in cases {
        for index in 1..case.bursts.len() {
            all += 1;
            let ratios = ratios(&case.cpu(index), &case.cpu(0));
            inexact += usize::from(error(&ratios) > EXACT * median(&ratios));
        }
    }
    if inexact as f64 <= f64::from(all) * DISTURBED {
        return Vec::new();
    }
    vec![format!(
        "of {all} ratios, {inexact} are not known to {:.0} %",
        EXACT * 100.0
    )]
}

fn charts(cases: &[Case]) -> Vec<Chart> {
    let mut charts = vec![
        by_work(cases, Way::PodToLocal, "pods"),
        by_work(cases, Way::OutsideToRemote, "outside"),
        by_services(cases),
    ];
    charts.retain(|chart| chart.series.iter().any(|series| series.points.len() > 1));
    charts
}

/// All kinds of work on one way, side by side.
fn by_work(cases: &[Case], way: Way, name: &str) -> Chart {
    let services = cases
        .iter()
        .map(|case| case.services)
        .filter(|n| *n <= 1_000);
    let services = services.max().unwrap_or_default();
    let cases: Vec<_> = cases
        .iter()
        .filter(|case| case.way == way && !case.v6 && case.services == services)
        .collect();
    Chart {
        name: name.into(),
        title: format!("{} (IPv4, {services} Services)", way.name()),
        x: String::new(),
        y: "CPU time of a transaction, direct = 1".into(),
        kind: Kind::Bars(cases.iter().map(|case| case.work.to_string()).collect()),
        series: series(&cases, |place, _| place as f64),
    }
}

fn by_services(cases: &[Case]) -> Chart {
    let cases: Vec<_> = cases
        .iter()
        .filter(|case| case.way == Way::PodToLocal && !case.v6 && case.work == Work::TcpConnect)
        .collect();
    Chart {
        name: "services".into(),
        title: "Connect, ask, close, by the number of Services (IPv4)".into(),
        x: "Services present".into(),
        y: "CPU time of a transaction, direct = 1".into(),
        kind: Kind::Lines,
        series: series(&cases, |_, case| case.services as f64),
    }
}

/// The ratios of each contestant, at what `x` says of a case.
fn series(cases: &[&Case], x: impl Fn(usize, &Case) -> f64) -> Vec<Series> {
    let Some(first) = cases.first() else {
        return Vec::new();
    };
    let of = |contestant: usize| {
        let points = cases.iter().enumerate().map(|(place, case)| {
            let ratios = ratios(&case.cpu(contestant), &case.cpu(0));
            (x(place, case), median(&ratios))
        });
        Series {
            name: first.bursts[contestant].0.into(),
            points: points.collect(),
        }
    };
    (1..first.bursts.len()).map(of).collect()
}
