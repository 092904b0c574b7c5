//! `--record`: the tables of the last runs in docs/performance.md, between markers, and the charts beside it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::chart::Chart;
use super::table::Table;

/// Writes one instrument's tables and charts into `docs/performance.md`; the rest of it stays.
pub(super) fn record(
    docs: &Path,
    instrument: &str,
    tables: &[Table],
    charts: &[Chart],
    noise: &[String],
) -> Result<()> {
    let images = docs.join("charts");
    fs::create_dir_all(&images).context("cannot make the folder of charts")?;
    let mut section = String::new();
    if !noise.is_empty() {
        section += &format!("Recorded on a noisy machine: {}.\n\n", noise.join("; "));
    }
    for table in tables {
        section += &table.markdown();
        section.push('\n');
    }
    for chart in charts {
        let name = format!("{instrument}-{}.svg", chart.name);
        fs::write(images.join(&name), chart.svg())
            .with_context(|| format!("cannot write {name}"))?;
        section += &format!("![{}](charts/{name})\n\n", chart.title);
    }
    let path = docs.join("performance.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = between(&text, instrument, &section)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn between(text: &str, instrument: &str, section: &str) -> Result<String> {
    let begin = format!("<!-- {instrument}: written by `cargo xtask bench --record` -->\n");
    let end = format!("<!-- {instrument}: end -->");
    let (before, rest) = text
        .split_once(&begin)
        .with_context(|| format!("docs/performance.md has no line {begin}"))?;
    let (_, after) = rest
        .split_once(&end)
        .with_context(|| format!("docs/performance.md has no {end}"))?;
    Ok(format!("{before}{begin}\n{section}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_written_anew() {
        let text = "a\n<!-- packet: written by `cargo xtask bench --record` -->\nold\n<!-- packet: end -->\nb\n";
        let new = between(text, "packet", "new\n").unwrap();
        assert_eq!(new, text.replace("old", "\nnew"));
        assert!(between(text, "traffic", "new").is_err());
    }
}
