//! Entering a place. Not by `ip netns exec`: that mounts a fresh /sys, which hides cgroups and bpffs.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

pub(super) fn command(
    namespace: &Path,
    cgroup: &Path,
    program: impl AsRef<OsStr>,
) -> Result<Command> {
    let namespace = open(namespace)?;
    let procs = cgroup.join("cgroup.procs");
    let procs = OpenOptions::new()
        .write(true)
        .open(&procs)
        .with_context(|| format!("cannot open {}", procs.display()))?;
    let mut command = Command::new(program);
    // SAFETY: between fork and exec only two system calls are made, on files opened before; nothing allocates or locks.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::write(procs.as_fd(), b"0").map_err(io::Error::from)?;
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
        });
    }
    Ok(command)
}

/// Runs `work` on a thread of its own inside a network namespace. The thread's cgroup stays the process's: what
/// socket hooks should see needs a process (`Topology::command`).
pub fn in_namespace<T: Send>(
    namespace: &Path,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let file = open(namespace)?;
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter {}", namespace.display()))?;
                work()
            })
            .join()
            .map_err(|_| anyhow!("a thread in {} panicked", namespace.display()))?
    })
}

fn open(namespace: &Path) -> Result<File> {
    File::open(namespace)
        .with_context(|| format!("cannot open the namespace {}", namespace.display()))
}
