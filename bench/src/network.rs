//! A network and mount namespace of the bench's own, with the devices, routes and neighbours that route lookups ask for.
//! The kernel removes all of it, and every pinned map, with the process.
//!
//! 10.0.0.1 is the node, 10.1 its pods, 10.2 the pods of other nodes, 10.192/10 is outside; fd00:0::1 and so on likewise.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;

pub(crate) const NIC: &str = "nic";
pub(crate) const PODS: &str = "pods";

/// Moves this process there, and onto one CPU.
pub(crate) fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("cannot make namespaces: the benchmark needs CAP_SYS_ADMIN")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    mount(
        Some("bpf"),
        crate::rig::BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        none,
    )
    .context("cannot mount a bpf file system")?;
    pin_to_last_cpu()?;
    for (name, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
    ] {
        std::fs::write(format!("/proc/sys/net/{name}"), value)
            .with_context(|| format!("cannot set net/{name}"))?;
    }
    for device in [NIC, PODS] {
        ip(&format!(
            "link add {device} type veth peer name {device}-peer"
        ))?;
        ip(&format!("link set {device}-peer up"))?;
        ip(&format!("link set {device} up"))?;
    }
    for (own, router, pods, far, outside, vips) in [
        (
            "10.0.0.1/24",
            "10.0.0.2",
            "10.1.0.0/16",
            "10.2.0.0/16",
            "10.192.0.0/10",
            "10.96.0.0/12",
        ),
        (
            "fd00::1/64",
            "fd00::2",
            "fd00:1::/64",
            "fd00:2::/64",
            "fd00:9::/64",
            "fd00:96::/64",
        ),
    ] {
        ip(&format!("addr add {own} dev {NIC}"))?;
        ip(&format!(
            "neigh add {router} lladdr 02:00:00:00:00:aa dev {NIC} nud permanent"
        ))?;
        ip(&format!("route add {pods} dev {PODS}"))?;
        for net in [far, outside, vips] {
            ip(&format!("route add {net} via {router}"))?;
        }
    }
    Ok(())
}

/// Bursts of one CPU can be held against each other.
fn pin_to_last_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    let last = std::thread::available_parallelism()?.get() - 1;
    cpus.set(last).context("no such CPU")?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("cannot stay on one CPU")
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .context("cannot run `ip` (iproute2)")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {}", error.trim());
    Ok(())
}
