//! Instrument 4: how every figure grows with the number of Services, endpoints and flows.

use std::collections::BTreeMap;

use super::figure::Figure;
use super::stats;
use super::table::{Table, number, size};

const SIZES: [&str; 3] = ["services", "endpoints", "flows"];

/// One line a figure that was measured at three sizes or more.
pub(super) fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new(
        "Growth of cost: the exponent e of cost ~ size^e, by least squares",
        [
            "instrument",
            "figure",
            "of",
            "by",
            "from",
            "to",
            "cost",
            "exponent",
        ],
    );
    table.note = "0 is no growth, 1 is proportional. Costs are medians, at the smallest and the largest size.".into();
    for by in SIZES {
        for ((instrument, row, contestant, others), points) in groups(figures, by) {
            let Some(exponent) = stats::exponent(&points) else {
                continue;
            };
            let (first, last) = (points[0], points[points.len() - 1]);
            let figure = if others.is_empty() {
                row
            } else {
                format!("{row}, {others}")
            };
            table.row([
                instrument,
                figure,
                contestant,
                by.into(),
                size(first.0 as u64),
                size(last.0 as u64),
                format!("{} → {}", number(first.1), number(last.1)),
                format!("{exponent:.3}"),
            ]);
        }
    }
    table
}

type Name = (String, String, String, String);

/// What differs in one size only, as (size, cost), by size.
fn groups(figures: &[Figure], by: &str) -> BTreeMap<Name, Vec<(f64, f64)>> {
    let mut groups: BTreeMap<Name, Vec<(f64, f64)>> = BTreeMap::new();
    for figure in figures {
        let Some(at) = figure.parameters.get(by).and_then(|at| at.parse().ok()) else {
            continue;
        };
        let others = figure.parameters.iter().filter(|(name, _)| *name != by);
        let others: Vec<String> = others
            .map(|(name, value)| match value.parse::<u64>() {
                Ok(0) => format!("ever new {name}"),
                Ok(value) if SIZES.contains(&name.as_str()) => format!("{} {name}", size(value)),
                _ => value.clone(),
            })
            .collect();
        let name = (
            figure.instrument.clone(),
            format!("{} ({})", figure.row, figure.unit),
            figure.contestant.clone(),
            others.join(", "),
        );
        groups.entry(name).or_default().push((at, figure.median));
    }
    for points in groups.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_at_three_sizes_has_an_exponent() {
        let figures = [10, 1_000, 100_000].map(|services| {
            Figure::new(
                "packet",
                "known",
                "svcplane",
                "ns",
                vec![f64::from(services) * 2.0],
            )
            .with("services", services)
            .with("flows", 1)
        });
        let rows = table(&figures).rows;
        assert_eq!(rows.len(), 1);
        assert_eq!(
            rows[0],
            [
                "packet",
                "known (ns), 1 flows",
                "svcplane",
                "services",
                "10",
                "100k",
                "20.0 → 200,000",
                "1.000"
            ]
        );
        assert!(table(&figures[..2]).rows.is_empty());
    }
}
