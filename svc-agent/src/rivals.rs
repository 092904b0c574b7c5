//! Other service proxies on this node: kube-proxy by what each of its modes leaves in the kernel, by its process and by
//! its ports; Cilium and Calico by their devices. Only what belongs to this network namespace is looked at.

pub mod nftables;
mod process;
#[cfg(test)]
mod tests;

use std::fs;
use std::process::Command;

use crate::node::Devices;
use nftables::{Chain, Ruleset};

/// What to do about a kube-proxy.
const REMOVE: &str = "stop kube-proxy, then run `kube-proxy --cleanup`; connections that it \
                      translates live on only with `svc-agent run --takeover`";
/// kube-proxy's own; kubelet has chains named KUBE-… too.
const CHAINS: [&str; 3] = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-CANARY"];
/// The ports that kube-proxy and svc-agent both serve by default.
const PORTS: [(u16, &str, &str); 2] = [
    (10256, "/healthz", "--healthz-bind-address"),
    (10249, "/metrics", "--metrics-bind-address"),
];

/// One line for each sign of another proxy: what is there and what to do.
pub fn find(devices: &Devices) -> Vec<String> {
    let mut found = Vec::new();
    match nftables::read() {
        Ok(ruleset) => found.extend(in_nftables(&ruleset)),
        Err(error) => tracing::debug!("nftables cannot be read: {error}"),
    }
    found.extend(in_legacy_iptables());
    let services = fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
    found.extend(in_ipvs(&services, devices));
    for (name, pid) in process::named(&["kube-proxy", "kube-router"]) {
        found.push(format!(
            "{name} is running (process {pid}): two proxies serve the same Services; {REMOVE}"
        ));
    }
    found.extend(by_device(devices));
    found
}

/// Ports of ours that another program has.
pub fn taken_ports() -> Vec<String> {
    let mut lines = Vec::new();
    for (port, what, flag) in PORTS {
        let Some(owner) = process::listening_on(port) else {
            continue;
        };
        match owner.as_deref() {
            Some("svc-agent") => (),
            owner => lines.push(format!(
                "port {port} ({what}) is taken by {}: stop it, or give `run` another {flag}",
                owner.unwrap_or("a process that is not visible from here, kube-proxy perhaps")
            )),
        }
    }
    lines
}

fn in_nftables(ruleset: &Ruleset) -> Vec<String> {
    let mut found = Vec::new();
    let tables: Vec<String> = ruleset
        .tables
        .iter()
        .filter(|(_, name)| name == "kube-proxy")
        .map(|(family, name)| format!("{family} {name}"))
        .collect();
    if !tables.is_empty() {
        found.push(format!(
            "kube-proxy's nftables rules are here (table {}): {REMOVE}",
            tables.join(", table ")
        ));
    }
    let chains: Vec<String> = ruleset
        .chains
        .iter()
        .filter(|chain| is_kube_proxys(&chain.name))
        .map(
            |Chain {
                 family,
                 table,
                 name,
                 ..
             }| format!("{family} {table} {name}"),
        )
        .collect();
    if !chains.is_empty() {
        found.push(format!(
            "kube-proxy's iptables (nft) rules are here (chain {}): {REMOVE}",
            chains.join(", ")
        ));
    }
    found
}

fn is_kube_proxys(chain: &str) -> bool {
    CHAINS.contains(&chain)
}

/// The old iptables keeps its rules to itself: only its own program can read them.
fn in_legacy_iptables() -> Vec<String> {
    let mut found = Vec::new();
    for (names, program) in [
        ("/proc/net/ip_tables_names", "iptables-legacy-save"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        let tables = fs::read_to_string(names).unwrap_or_default();
        if !tables.lines().any(|table| table == "nat") {
            continue;
        }
        match Command::new(program).args(["-t", "nat"]).output() {
            Ok(output) if output.status.success() => {
                let rules = String::from_utf8_lossy(&output.stdout);
                let chains = legacy_chains(&rules);
                if !chains.is_empty() {
                    found.push(format!(
                        "kube-proxy's iptables (legacy) rules are here (chain {}): {REMOVE}",
                        chains.join(", ")
                    ));
                }
            }
            _ => found.push(format!(
                "legacy iptables has a nat table here, and {program} is not: see on the host whether \
                 `{program} -t nat | grep KUBE-SERVICES` finds kube-proxy's rules"
            )),
        }
    }
    found
}

/// iptables-save declares a chain by `:NAME POLICY [packets:bytes]`.
fn legacy_chains(rules: &str) -> Vec<&str> {
    rules
        .lines()
        .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
        .filter(|chain| is_kube_proxys(chain))
        .collect()
}

/// Three lines of /proc/net/ip_vs are its head; a virtual service begins with its protocol.
fn in_ipvs(services: &str, devices: &Devices) -> Option<String> {
    let count = services
        .lines()
        .skip(3)
        .filter(|line| {
            line.split_whitespace()
                .next()
                .is_some_and(|word| ["TCP", "UDP", "SCTP", "FWM"].contains(&word))
        })
        .count();
    let device = devices.values().any(|d| d.name == "kube-ipvs0");
    match (count, device) {
        (0, false) => None,
        (count, true) => Some(format!(
            "kube-proxy's IPVS mode is here (device kube-ipvs0, {count} virtual services): {REMOVE}"
        )),
        (count, false) => Some(format!(
            "IPVS has {count} virtual services (`ipvsadm -ln`): if they are kube-proxy's, {REMOVE}"
        )),
    }
}

fn by_device(devices: &Devices) -> Vec<String> {
    let has = |name: &str| devices.values().any(|d| d.name == name);
    let mut found = Vec::new();
    if has("cilium_host") {
        found.push(
            "Cilium is here (device cilium_host): if it serves Services, set its kubeProxyReplacement to false".into(),
        );
    }
    if has("bpfin.cali") {
        found.push(
            "Calico's eBPF dataplane is here (device bpfin.cali), which serves Services itself: set its bpfEnabled \
             to false"
                .into(),
        );
    }
    found
}
