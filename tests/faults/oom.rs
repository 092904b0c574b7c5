//! An end by the kernel's OOM killer, in a memory cgroup of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::agents::{Agent, eventually};
use xtask::topology::cgroup2_mount;
use xtask::traffic::Running;

/// What fits into it is no agent.
const LIMIT: &str = "33554432";

pub struct MemoryCgroup {
    folder: PathBuf,
}

impl MemoryCgroup {
    /// None: this host has no memory controller that is at hand.
    pub fn new(name: &str) -> Option<Self> {
        let (parent, limit) = hierarchy()?;
        let folder = parent.join(format!("{name}-oom"));
        fs::create_dir_all(&folder).ok()?;
        let group = Self { folder };
        fs::write(group.folder.join(limit), LIMIT).ok()?;
        Some(group)
    }

    /// Has the kernel end this agent for want of memory.
    pub fn end(&self, agent: &mut Agent) -> Result<()> {
        let before = self.kills();
        let pid = agent.process.0.id();
        fs::write(format!("/proc/{pid}/oom_score_adj"), "1000")
            .context("cannot choose the victim")?;
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
            .context("cannot move the agent into the memory cgroup")?;
        // It never meets the end of a line, and keeps all that it has read.
        let hungry = Command::new("sh")
            .args(["-c", "echo 0 > \"$0/cgroup.procs\" && exec tail /dev/zero"])
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start a process that takes memory")?;
        let hungry = Running(hungry);
        eventually("the kernel ends the agent", Duration::from_secs(30), || {
            Ok(agent.process.0.try_wait()?.is_some())
        })?;
        drop(hungry);
        anyhow::ensure!(self.kills() > before, "the kernel tells of no OOM kill");
        Ok(())
    }

    /// How often the kernel has ended a process of this cgroup.
    fn kills(&self) -> u64 {
        ["memory.events", "memory.oom_control"]
            .iter()
            .filter_map(|file| fs::read_to_string(self.folder.join(file)).ok())
            .flat_map(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
                line.and_then(|number| number.parse::<u64>().ok())
            })
            .sum()
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Busy until the last process in it is gone.
        let _ = eventually("the memory cgroup goes", Duration::from_secs(5), || {
            Ok(fs::remove_dir(&self.folder).is_ok())
        });
    }
}

/// Where memory is limited, and by which file.
fn hierarchy() -> Option<(PathBuf, &'static str)> {
    let v2 = cgroup2_mount().ok()?;
    let controllers = fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_whitespace().any(|name| name == "memory") {
        fs::write(v2.join("cgroup.subtree_control"), "+memory").ok()?;
        return Some((v2, "memory.max"));
    }
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let limit = "memory.limit_in_bytes";
    v1.join(limit).exists().then(|| (v1.into(), limit))
}
