//! Figures: what every instrument hands in, and `target/bench/*.json` holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::chart::Chart;
use super::stats;
use super::table::Table;

/// One figure: what was measured of whom, under which circumstances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// packet, traffic or programming.
    pub instrument: String,
    pub row: String,
    /// Who did the work: svcplane, a peer, or a floor.
    pub contestant: String,
    /// Family, path and the like, and the sizes `services`, `endpoints` and `flows` as plain numbers: the growth of cost is
    /// fitted to these.
    pub parameters: BTreeMap<String, String>,
    pub unit: String,
    pub samples: Vec<f64>,
    pub median: f64,
    /// Distance of the quartiles as a share of the median.
    pub spread: f64,
    pub least: f64,
}

impl Figure {
    pub fn new(
        instrument: &str,
        row: impl Into<String>,
        contestant: impl Into<String>,
        unit: &str,
        samples: Vec<f64>,
    ) -> Self {
        Self {
            instrument: instrument.into(),
            row: row.into(),
            contestant: contestant.into(),
            parameters: BTreeMap::new(),
            unit: unit.into(),
            median: stats::median(&samples),
            spread: stats::spread(&samples),
            least: stats::least(&samples),
            samples,
        }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.parameters.insert(name.into(), value.to_string());
        self
    }
}

/// What an instrument comes back with.
#[derive(Default)]
pub struct Outcome {
    pub figures: Vec<Figure>,
    /// For the terminal, and for docs/performance.md.
    pub tables: Vec<Table>,
    /// Likewise for the document; the file's name is the instrument's and the chart's.
    pub charts: Vec<Chart>,
    /// Why the figures are not to be trusted; empty: they are.
    pub noise: Vec<String>,
}

pub(super) fn write(folder: &Path, instrument: &str, figures: &[Figure]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{instrument}.json"));
    let text = serde_json::to_string_pretty(figures).context("cannot encode the figures")?;
    fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// The figures of every instrument that has been run into `folder`.
pub(super) fn read(folder: &Path, instrument: &str) -> Result<Vec<Figure>> {
    let path = folder.join(format!("{instrument}.json"));
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is of another version: remove it", path.display()))
}
