//! The flags of `svc-agent top`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{DEFAULT_BPF_ROOT, Output};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  svc-agent top                                 the busiest Services, every 2 seconds
  svc-agent top services -n shop --sort live    those of a namespace, by open connections
  svc-agent top services web:http --interval 1s
  svc-agent top --once -o json | jq '.items[0]'

Rates are those of this node, of the time between two looks. Packets and bytes are counted only if the agent runs with
--service-metrics traffic, and never those of sockets that are connected to their backend directly. On a terminal it
goes on until Ctrl-C; elsewhere, with --once, and as JSON or YAML, there is one table, after one interval.")]
pub struct Top {
    /// What to show.
    #[arg(value_enum, default_value_t = Topped::Services)]
    pub what: Topped,
    /// Only the Service of this name, or one of its ports.
    #[arg(value_name = "NAME[:PORT]")]
    pub name: Option<String>,
    /// Only of this namespace.
    #[arg(short = 'n', long, value_name = "NS")]
    pub namespace: Option<String>,
    /// What the first have most of.
    #[arg(long, value_enum, default_value_t = SortBy::Connections)]
    pub sort: SortBy,
    /// Time between two looks.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    pub interval: Duration,
    /// Print one table, and end.
    #[arg(long)]
    pub once: bool,
    /// How many are shown on a terminal; 0: all.
    #[arg(long, value_name = "NUMBER", default_value_t = 30)]
    pub lines: usize,
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Folder of the pinned maps.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPF_ROOT)]
    pub bpf_root: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Topped {
    #[value(aliases = ["svc", "service"])]
    Services,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// New connections.
    Connections,
    /// Open connections.
    Live,
    Packets,
    Bytes,
    Name,
}

/// Seconds with an optional fraction and `s`, or milliseconds with `ms`.
fn interval(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.parse::<f64>().map(|number| number * unit);
    match seconds {
        Ok(seconds) if (0.1..=3_600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!(
            "{text:?} is no time between 100ms and an hour, such as 2s or 500ms"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_a_unit_and_bounds() {
        for (text, millis) in [("2s", 2_000), ("500ms", 500), ("1.5", 1_500)] {
            assert_eq!(interval(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "50ms", "2m", "-1s", "NaN", "inf"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
