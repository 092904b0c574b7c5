//! Who else was busy while something was measured.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// From a start on.
pub struct Meter {
    start: Instant,
    busy: f64,
    own: f64,
}

impl Meter {
    pub fn start() -> Result<Self> {
        Ok(Self {
            start: Instant::now(),
            busy: busy_seconds()?,
            own: own_seconds()?,
        })
    }

    /// The share of all CPUs' time that others have had since; what this process and its ended children used is not theirs.
    pub fn others(&self) -> Result<f64> {
        let cpus = std::thread::available_parallelism()?.get() as f64;
        let own = own_seconds()? - self.own;
        let others = busy_seconds()? - self.busy - own;
        Ok((others / (cpus * self.start.elapsed().as_secs_f64())).max(0.0))
    }
}

/// Of all CPUs together, with interrupts and what the hypervisor gave to others.
fn busy_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    Ok(busy_ticks(&text) as f64 / ticks_per_second()?)
}

/// In which /proc counts the CPU's time.
pub(super) fn ticks_per_second() -> Result<f64> {
    Ok(sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64)
}

/// proc_stat(5): cpu user nice system idle iowait irq softirq steal …
fn busy_ticks(text: &str) -> u64 {
    let numbers = text.lines().next().unwrap_or_default().split_whitespace();
    let counts = numbers.skip(1).map(|number| number.parse().unwrap_or(0));
    let busy = |place: &usize| !matches!(place, 3 | 4) && *place < 8;
    counts
        .enumerate()
        .filter(|(place, _)| busy(place))
        .map(|(_, count): (usize, u64)| count)
        .sum()
}

fn own_seconds() -> Result<f64> {
    let of = |who| {
        let usage = getrusage(who).context("cannot ask for the CPU's time")?;
        let seconds = [usage.user_time(), usage.system_time()];
        Ok::<_, anyhow::Error>(
            seconds
                .iter()
                .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
                .sum::<f64>(),
        )
    };
    Ok(of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let text = "cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9\n";
        assert_eq!(busy_ticks(text), 1 + 2 + 4 + 8 + 16 + 32);
    }
}
