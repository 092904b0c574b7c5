//! Removing a topology by its name alone, so that it works from a signal, from a later run, and half-way through.

use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

static LIVE: Mutex<Vec<String>> = Mutex::new(Vec::new());
static WAKE: AtomicI32 = AtomicI32::new(-1);

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

/// From now on SIGINT, SIGTERM and SIGHUP remove this topology, and every other live one, before the process ends.
pub(super) fn on_signals(name: &str) -> Result<()> {
    static ONCE: Once = Once::new();
    live().push(name.to_owned());
    let mut outcome = Ok(());
    ONCE.call_once(|| outcome = install());
    outcome
}

pub(super) fn forget(name: &str) {
    live().retain(|live| live != name);
}

fn live() -> std::sync::MutexGuard<'static, Vec<String>> {
    LIVE.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn install() -> Result<()> {
    let (read, write) = nix::unistd::pipe().context("cannot make a pipe")?;
    for fd in [read.as_raw_fd(), write.as_raw_fd()] {
        nix::ioctl_none_bad!(close_on_exec, nix::libc::FIOCLEX);
        // SAFETY: FIOCLEX takes no argument and the descriptor is open.
        unsafe { close_on_exec(fd) }.context("cannot mark a pipe close-on-exec")?;
    }
    WAKE.store(write.into_raw_fd(), Ordering::SeqCst);
    std::thread::spawn(move || {
        let mut signal = [0; 1];
        while nix::unistd::read(&read, &mut signal) != Ok(1) {}
        // Held until the end: a thread whose children were just killed must not report that as a failure.
        let names = live();
        for name in names.iter() {
            remove(name);
        }
        std::process::exit(128 + i32::from(signal[0]));
    });
    let action = SigAction::new(
        SigHandler::Handler(wake),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only writes one byte to a descriptor that stays open: async-signal-safe.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }
    Ok(())
}

extern "C" fn wake(signal: i32) {
    let byte = u8::try_from(signal).unwrap_or(1);
    // SAFETY: the descriptor is the pipe's writing end, never closed; the buffer is one byte of this frame.
    unsafe { nix::libc::write(WAKE.load(Ordering::SeqCst), (&raw const byte).cast(), 1) };
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
