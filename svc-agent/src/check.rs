//! `svc-agent check`: can this node run the agent, and what to do where it cannot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::config::{Check, HostRouting, Xdp};
use crate::dataplane::{self, OwnPrograms};
use crate::node::{
    Devices, Reached, Selection, SnatPorts, Watch, default_addresses, strictly_filtered,
};
use crate::privileges::{Capability, Held, Set, TO_START};
use crate::realtime;
use crate::rivals;
use crate::routing::{self, Facts};
use crate::run::cgroup_root;
use crate::say::say;

/// What one look at the node found.
enum Finding {
    Good(String),
    /// Works, but somebody will wonder one day.
    Warning(String),
    Bad(String),
}
use Finding::{Bad, Good, Warning};

/// Says what is missing when the process is not root.
pub fn must_be_root() -> Result<()> {
    if nix::unistd::Uid::effective().is_root() {
        return Ok(());
    }
    bail!(
        "loading eBPF programs needs root (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN): run it with sudo"
    )
}

/// Prints the findings; an error when one of them is bad.
pub fn check(options: &Check) -> Result<()> {
    let mut findings = vec![
        privileges(),
        kernel(),
        btf(),
        bpffs(&options.bpf_root),
        cgroup(options),
        forwarding(),
    ];
    findings.extend(realtime::warning().map(Warning));
    findings.extend(devices(options));
    findings.extend(reverse_path_filter());
    findings.extend(snat_ports());
    findings.extend(other_proxies());
    let lines = findings.iter().map(|finding| match finding {
        Good(text) => format!("ok       {text}\n"),
        Warning(text) => format!("warning  {text}\n"),
        Bad(text) => format!("FAILED   {text}\n"),
    });
    say(&lines.collect::<String>())?;
    let bad = findings.iter().filter(|f| matches!(f, Bad(_))).count();
    if bad > 0 {
        bail!(
            "this node cannot run svcplane yet: {bad} of {} checks failed",
            findings.len()
        );
    }
    Ok(())
}

/// Whether the programs can be loaded with what is held here.
fn privileges() -> Finding {
    if let Err(error) = must_be_root() {
        return Bad(error.to_string());
    }
    let held = match Held::read() {
        Ok(held) => held,
        Err(error) => return Warning(format!("capabilities cannot be read: {error}")),
    };
    let missing = missing(held.effective);
    if missing.is_empty() {
        Good(format!(
            "running as root, with capabilities: {}",
            held.effective
        ))
    } else {
        Bad(format!(
            "running as root without the capabilities {}: add them to the container's, see docs/deploy.md",
            missing.join(", ")
        ))
    }
}

/// SYS_ADMIN has in it what BPF and PERFMON were made of.
fn missing(held: Set) -> Vec<&'static str> {
    let stands_in = |wanted| wanted != Capability::NET_ADMIN && held.has(Capability::SYS_ADMIN);
    let missing = TO_START
        .into_iter()
        .filter(|wanted| !held.has(*wanted) && !stands_in(*wanted));
    missing.map(Capability::name).collect()
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 6) => {
            Good(format!("Linux {release} (tcx)"))
        }
        (Some(major), Some(minor)) if (major, minor) >= (6, 1) => Good(format!(
            "Linux {release} (no tcx before 6.6: programs go through clsact)"
        )),
        _ => Bad(format!(
            "Linux {release:?} is older than 6.1: upgrade the kernel"
        )),
    }
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Good("the kernel has BTF".into())
    } else {
        Warning("no /sys/kernel/btf/vmlinux: the verifier's messages will lack source lines (CONFIG_DEBUG_INFO_BTF)".into())
    }
}

fn bpffs(root: &Path) -> Finding {
    if dataplane::is_bpffs(root) {
        Good(format!("{} is on a bpf file system", root.display()))
    } else {
        Bad(format!(
            "{} is not on a bpf file system: mount -t bpf bpf /sys/fs/bpf, or give --bpf-root",
            root.display()
        ))
    }
}

fn cgroup(options: &Check) -> Finding {
    let root: Result<PathBuf> = options.cgroup_root.clone().map_or_else(cgroup_root, Ok);
    match root {
        Ok(root) if root.join("cgroup.procs").exists() => {
            Good(format!("cgroup2 at {}", root.display()))
        }
        Ok(root) => Bad(format!(
            "{} is not a cgroup: give --cgroup-root, or run with --socket-lb off",
            root.display()
        )),
        Err(error) => Bad(format!(
            "{error:#}: mount -t cgroup2 none /sys/fs/cgroup, or run with --socket-lb off"
        )),
    }
}

fn forwarding() -> Finding {
    let on = |path| fs::read_to_string(path).is_ok_and(|value| value.trim() != "0");
    match (
        on("/proc/sys/net/ipv4/ip_forward"),
        on("/proc/sys/net/ipv6/conf/all/forwarding"),
    ) {
        (true, true) => Good("IPv4 and IPv6 are forwarded".into()),
        (true, false) => Warning(
            "IPv6 is not forwarded: sysctl -w net.ipv6.conf.all.forwarding=1 to serve it".into(),
        ),
        (false, _) => Bad("IPv4 is not forwarded: sysctl -w net.ipv4.ip_forward=1".into()),
    }
}

/// Runs one netlink request outside of the agent.
fn read_devices() -> Result<Devices> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { Ok(Watch::open()?.devices().await?) })
}

fn devices(options: &Check) -> Vec<Finding> {
    let devices = match read_devices() {
        Ok(devices) => devices,
        Err(error) => return vec![Bad(format!("{error:#}"))],
    };
    let selection = Selection {
        devices: options.devices.clone(),
        pod_devices: Vec::new(),
    };
    let node = Reached {
        node: default_addresses(&devices),
        ..Reached::default()
    };
    let outside: Vec<&str> = devices
        .values()
        .filter(|d| selection.is_outside(d, &node))
        .map(|d| d.name.as_str())
        .collect();
    let pods = devices
        .values()
        .filter(|d| selection.is_pod(d, &node))
        .count();
    let mut findings = vec![if outside.is_empty() {
        Bad("no device leads outside: no default route; give --devices".into())
    } else {
        Good(format!(
            "outside devices: {}; pod devices: {pods}",
            outside.join(", ")
        ))
    }];
    let others: Vec<&str> = devices
        .values()
        .filter(|d| !d.loopback && !d.ethernet && !d.layer3 && !d.addresses.is_empty())
        .map(|d| d.name.as_str())
        .collect();
    if !others.is_empty() {
        findings.push(Warning(format!(
            "devices with neither Ethernet nor IP headers first are not served: {}",
            others.join(", ")
        )));
    }
    let hooks = selection.hooks(&devices, &node, Xdp::Off);
    let verdict = routing::verdict(
        HostRouting::Auto,
        false,
        &Facts::read(&devices, &hooks, &OwnPrograms::default()),
    );
    findings.push(Good(format!("packets will go {}", verdict.why)));
    findings
}

/// Strict mode (1) drops answers that come from a pod's device with a Service's address; `default` is what a new pod's
/// device gets.
fn reverse_path_filter() -> Vec<Finding> {
    let names = fs::read_dir("/proc/sys/net/ipv4/conf")
        .into_iter()
        .flatten()
        .flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut strict = strictly_filtered(names.filter(|name| name != "all" && name != "lo"));
    strict.sort();
    if strict.is_empty() {
        return Vec::new();
    }
    vec![Warning(format!(
        "rp_filter is strict (1) for {}: UDP from this node's own processes to Services with pods here will be lost; \
         sysctl -w net.ipv4.conf.all.rp_filter=2",
        strict.join(", ")
    ))]
}

fn snat_ports() -> Option<Finding> {
    SnatPorts::read().warning().map(Warning)
}

/// A kube-proxy that runs or was not cleaned up, or another dataplane that serves Services.
fn other_proxies() -> Vec<Finding> {
    let devices = read_devices().unwrap_or_default();
    let mut found: Vec<Finding> = rivals::find(&devices).into_iter().map(Warning).collect();
    if found.is_empty() {
        found.push(Good("no other service proxy is here".into()));
    }
    found.extend(rivals::taken_ports().into_iter().map(Warning));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_that_is_missing_is_named() {
        let only = |capabilities: &[Capability]| capabilities.iter().copied().collect::<Set>();
        assert_eq!(missing(only(&[])), ["BPF", "NET_ADMIN", "PERFMON"]);
        assert_eq!(missing(only(&TO_START)), [""; 0]);
        let instead = only(&[Capability::SYS_ADMIN]);
        assert_eq!(missing(instead), ["NET_ADMIN"]);
    }
}
