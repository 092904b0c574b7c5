//! Figures → tables and charts.

use super::super::chart::{Chart, Kind, Series};
use super::super::figure::Figure;
use super::super::stats::quantile;
use super::super::table::{Table, number, size};
use super::{PEERS, SVCPLANE, Side};

/// What is said of a figure's samples.
type Say = fn(&Figure) -> String;

pub(super) fn tables(figures: &[Figure]) -> Vec<Table> {
    let sizes = sizes(figures);
    let columns = ["figure".to_owned(), "of".to_owned(), "unit".to_owned()]
        .into_iter()
        .chain(sizes.iter().map(|&n| format!("{} Services", size(n))));
    let mut table = Table::new(
        "Programming: from the API server to the packets (10 endpoints each)",
        columns,
    );
    table.note = "Write to packet: from the API server's answer to a change of an EndpointSlice until the first packet \
                  that takes the new path; asked about every 0.4 ms."
        .into();
    let middle: Say = |figure| number(figure.median);
    let p99: Say = |figure| number(quantile(&figure.samples, 0.99));
    let rows: [(&str, &str, Say); 11] = [
        ("write to packet", "p50", middle),
        ("write to packet", "p99", p99),
        ("cold start, CPU", "", middle),
        ("cold start, wall", "", middle),
        ("memory, most", "", middle),
        ("memory, at rest", "", middle),
        ("memory of the maps", "", middle),
        ("CPU, at rest", "", middle),
        ("CPU at 100 changes a second", "", middle),
        ("write to packet at 100 changes a second", "p50", middle),
        ("write to packet at 100 changes a second", "p99", p99),
    ];
    for (row, which, say) in rows {
        for side in sides() {
            let of = |n: &u64| find(figures, row, side, *n);
            let Some(any) = sizes.iter().find_map(of) else {
                continue;
            };
            let name = format!("{row} {which}");
            let cells = sizes.iter().map(|n| of(n).map_or("—".into(), say));
            let head = [
                name.trim().to_owned(),
                side.name.to_owned(),
                any.unit.clone(),
            ];
            table.row(head.into_iter().chain(cells));
        }
    }
    vec![table]
}

pub(super) fn charts(figures: &[Figure]) -> Vec<Chart> {
    let sizes = sizes(figures);
    if sizes.len() < 2 {
        return Vec::new();
    }
    let chart = |name: &str, row: &str, title: &str, y: &str| Chart {
        name: name.into(),
        title: title.into(),
        x: "Services".into(),
        y: y.into(),
        kind: Kind::Lines,
        series: sides()
            .map(|side| Series {
                name: side.name.into(),
                points: sizes
                    .iter()
                    .filter_map(|&n| {
                        let figure = find(figures, row, side, n)?;
                        Some((n as f64, figure.median)).filter(|(_, cost)| *cost > 0.0)
                    })
                    .collect(),
            })
            .collect(),
    };
    vec![
        chart(
            "latency",
            "write to packet",
            "A write at the API server reaches the packets",
            "ms, median",
        ),
        chart(
            "start",
            "cold start, CPU",
            "What a cold start costs",
            "CPU seconds",
        ),
    ]
}

fn sides() -> impl Iterator<Item = Side> {
    [SVCPLANE].into_iter().chain(PEERS)
}

fn find<'a>(figures: &'a [Figure], row: &str, side: Side, services: u64) -> Option<&'a Figure> {
    figures.iter().find(|figure| {
        figure.row == row && figure.contestant == side.name && services_of(figure) == Some(services)
    })
}

fn services_of(figure: &Figure) -> Option<u64> {
    figure.parameters.get("services")?.parse().ok()
}

fn sizes(figures: &[Figure]) -> Vec<u64> {
    let mut sizes: Vec<u64> = figures.iter().filter_map(services_of).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}
