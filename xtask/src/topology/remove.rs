//! Removing a topology by its name alone, so that it works from a signal, from a later run, and half-way through.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Removes every part of the topology of this name: processes, namespaces, pins, cgroups. Missing parts are fine.
pub fn remove(name: &str) {
    let cgroups = super::mount_of("cgroup2").map(|mount| mount.join(name));
    if let Some(cgroups) = &cgroups {
        kill_members(cgroups);
    }
    let prefix = format!("{name}-");
    for namespace in
        names_in(Path::new("/run/netns")).filter(|namespace| namespace.starts_with(&prefix))
    {
        let _ = Command::new("ip")
            .args(["netns", "delete", &namespace])
            .output();
    }
    if let Some(pins) = super::mount_of("bpf").map(|mount| mount.join(name)) {
        let _ = fs::remove_dir_all(pins);
    }
    let _ = fs::remove_dir_all(scratch(name));
    if let Some(cgroups) = cgroups {
        // A killed member leaves its cgroup a moment later.
        let deadline = Instant::now() + Duration::from_secs(2);
        while remove_cgroup(&cgroups).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(super) fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// Removes what processes that no longer run have left.
pub(super) fn remove_stale() {
    let mut names: Vec<_> = names_in(Path::new("/run/netns"))
        .chain(
            super::mount_of("cgroup2")
                .into_iter()
                .flat_map(|mount| names_in(&mount)),
        )
        .chain(
            super::mount_of("bpf")
                .into_iter()
                .flat_map(|mount| names_in(&mount)),
        )
        .filter_map(|name| {
            let rest = name.strip_prefix("svcp")?;
            let mut parts = rest.split('-');
            let pid: u32 = parts.next()?.parse().ok()?;
            let run: u32 = parts.next()?.parse().ok()?;
            (!Path::new("/proc").join(pid.to_string()).exists()).then(|| format!("svcp{pid}-{run}"))
        })
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        remove(&name);
    }
}

fn kill_members(cgroup: &Path) {
    for child in folders(cgroup) {
        kill_members(&child);
    }
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another pid namespace.
    for pid in members
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn remove_cgroup(cgroup: &Path) -> std::io::Result<()> {
    for child in folders(cgroup) {
        remove_cgroup(&child)?;
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn names_in(path: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}
