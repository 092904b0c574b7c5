//! What a process has used.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::traffic::Running;

use crate::bench::noise::ticks_per_second;

#[derive(Clone, Copy, Default)]
pub(super) struct Usage {
    /// In user mode and in the kernel, all threads.
    pub(super) cpu: Duration,
    /// MiB.
    pub(super) resident: f64,
    pub(super) most_resident: f64,
}

pub(super) fn usage(process: &Running) -> Result<Usage> {
    let pid = process.0.id();
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has it ended?"))
    };
    let stat = read("stat")?;
    // proc(5): after the name, which may have blanks, utime and stime are the 12th and 13th.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    let status = read("status")?;
    Ok(Usage {
        cpu: Duration::from_secs_f64(ticks as f64 / ticks_per_second()?),
        resident: mebibytes(&status, "VmRSS:"),
        most_resident: mebibytes(&status, "VmHWM:"),
    })
}

/// MiB of all eBPF maps that it has open, each once.
pub(super) fn map_memory(process: &Running) -> Result<f64> {
    let folder = format!("/proc/{}/fdinfo", process.0.id());
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // It may have been closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        if let (Some(id), Some(bytes)) = (number(&text, "map_id:"), number(&text, "memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum::<u64>() as f64 / f64::from(1 << 20))
}

fn mebibytes(status: &str, field: &str) -> f64 {
    number(status, field).unwrap_or(0) as f64 / 1024.0
}

/// The number behind a field's name.
fn number(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(field))?;
    line[field.len()..].split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_proc_is_found_by_its_name() {
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(mebibytes(status, "VmRSS:"), 1.0);
        assert_eq!(number(status, "VmSwap:"), None);
    }
}
