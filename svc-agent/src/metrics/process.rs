//! `process_…`, as every exporter has them: what the agent itself costs.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::{counters, gauges};

/// This process, by /proc/self.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Some(stat) = Stat::read() else {
            return Ok(());
        };
        // A counter of whole numbers would lose what a quiet agent uses.
        let mut rows = counters(
            &mut encoder,
            "process_cpu_seconds",
            "CPU time that the agent has used, in user and system mode",
        )?;
        rows.counter_f64(stat.cpu_seconds)?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory of the agent that is in RAM",
                stat.resident,
            ),
            (
                "process_virtual_memory_bytes",
                "Address space of the agent",
                stat.virtual_size,
            ),
            (
                "process_start_time_seconds",
                "When the agent was started, since the epoch",
                stat.started,
            ),
            (
                "process_open_fds",
                "File descriptors that the agent has open",
                open_files(),
            ),
            (
                "process_max_fds",
                "File descriptors that the agent may have open",
                most_files(),
            ),
        ] {
            gauges(&mut encoder, name, help)?.gauge(&[], value)?;
        }
        Ok(())
    }
}

struct Stat {
    cpu_seconds: f64,
    resident: f64,
    virtual_size: f64,
    started: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program is in brackets, and may have any characters.
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        // proc_pid_stat(5) numbers them from 1, and `state` is the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let unit = |name| {
            nix::unistd::sysconf(name)
                .ok()
                .flatten()
                .map(|value| value as f64)
        };
        let tick = unit(nix::unistd::SysconfVar::CLK_TCK)?;
        let page = unit(nix::unistd::SysconfVar::PAGE_SIZE)?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / tick,
            resident: field(24)? * page,
            virtual_size: field(23)?,
            started: booted()? + field(22)? / tick,
        })
    }
}

fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn open_files() -> f64 {
    // The folder itself is open while it is read.
    fs::read_dir("/proc/self/fd").map_or(0.0, |fds| fds.count().saturating_sub(1) as f64)
}

fn most_files() -> f64 {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .map_or(0.0, |(soft, _)| soft as f64)
}
