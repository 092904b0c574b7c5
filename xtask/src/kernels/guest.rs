//! A kernel under QEMU's emulator: it boots into our script, whose output comes back by the second serial port.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::step;

/// What the script calls of busybox.
pub(super) const APPLETS: [&str; 11] = [
    "sh", "mount", "mkdir", "cat", "insmod", "uname", "reboot", "ls", "dmesg", "sleep", "stty",
];

pub(super) const INIT: &str = r#"#!/bin/sh
export PATH=/bin HOME=/ TMPDIR=/tmp DIR=/svcplane SVCPLANE_BIN=/svcplane
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 none /sys/fs/cgroup
# Before 5.11 maps are charged to it.
ulimit -l unlimited
ulimit -n 65536
for module in $(cat /modules/order); do insmod /modules/$module.ko || echo "cannot load $module"; done
ip link set lo up
stty -F /dev/ttyS1 raw
. /stages >/dev/ttyS1 2>&1 </dev/null
sleep 1
reboot -f
"#;

/// Processors and memory of a guest.
const SIZE: [&str; 4] = ["-smp", "2", "-m", "4G"];

/// What ends the script's output.
const DONE: &str = "== done";

/// Boots, waits for the end, and returns what the script printed; of a guest that did not get there, what there was, and
/// the last lines of its console.
pub(super) fn run(
    kernel: &Path,
    initramfs: &Path,
    folder: &Path,
    limit: Duration,
) -> Result<String> {
    let [console, output] = ["console.log", "output.log"].map(|name| folder.join(name));
    for log in [&console, &output] {
        let _ = fs::remove_file(log);
    }
    let mut qemu = Command::new("qemu-system-x86_64");
    // Hardware virtualisation would be another machine each time: emulation is the same everywhere.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(SIZE)
        .args(["-nic", "none", "-display", "none", "-no-reboot", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args([
            "-append",
            "console=ttyS0 loglevel=4 panic=-1 mitigations=off random.trust_cpu=on",
        ]);
    for log in [&console, &output] {
        qemu.arg("-serial").arg(format!("file:{}", log.display()));
    }
    let child = qemu.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut guest = Guest(child.context("cannot run qemu-system-x86_64")?);
    let deadline = Instant::now() + limit;
    let mut told = 0;
    let ended = loop {
        let text = read(&output);
        told = tell(&text, told);
        if guest
            .0
            .try_wait()
            .context("cannot wait for QEMU")?
            .is_some()
        {
            break "ended";
        }
        if text.lines().any(|line| line == DONE) {
            break "done";
        }
        if Instant::now() > deadline {
            break "stopped for its time was over";
        }
        sleep(Duration::from_millis(200));
    };
    drop(guest);
    let text = read(&output);
    if text.lines().any(|line| line == DONE) {
        return Ok(text);
    }
    let console = read(&console);
    let lines: Vec<_> = console.lines().collect();
    let last = &lines[lines.len().saturating_sub(12)..];
    Ok(format!(
        "{text}\n== lost the guest {ended}; its console:\n{}\n",
        last.join("\n")
    ))
}

/// Says which stages have ended since line `told`.
fn tell(text: &str, told: usize) -> usize {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines: Vec<_> = whole.lines().collect();
    for line in lines.iter().skip(told) {
        if let Some(stage) = line.strip_prefix("== end ") {
            step(&format!("  {stage}"));
        }
    }
    lines.len()
}

fn read(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

/// Ends with its value.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
