//! Links, addresses and routes of the topology, as batches for iproute2: one process per namespace.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{Cni, NODES, PODS, Place, Topology, in_namespace};

/// For every interface made later; forwarding comes on top for nodes.
const SYSCTLS: [(&str, &str); 10] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    // Duplicate address detection keeps an address unusable for a second.
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];
const FORWARDING: [(&str, &str); 2] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
];

pub(super) fn wire(topology: &Topology) -> Result<()> {
    let mut namespaces = String::new();
    let mut links = String::new();
    for place in topology.places() {
        writeln!(namespaces, "netns add {}", place.namespace)?;
        links += &link(topology, place)?;
    }
    batch(None, &namespaces)?;
    for place in topology.places() {
        sysctls(place)?;
    }
    batch(None, &links)?;
    for place in topology.places() {
        let lines = match place.name {
            "lan" => lan(place)?,
            "client" => client(place)?,
            _ if place.node == Some(place.name) => node(topology, place)?,
            _ => pod(topology, place)?,
        };
        batch(Some(&place.namespace), &lines)?;
    }
    if topology.options.like_nics {
        for name in ["client", NODES[0], NODES[1]] {
            ethtool(topology.place(name), "eth0", ["tx", "off"])?;
            ethtool(topology.place("lan"), name, ["gro", "on"])?;
            // What GRO has joined here would leave with checksums that are still to be finished.
            ethtool(topology.place("lan"), name, ["tx", "off"])?;
        }
        for pod in PODS {
            ethtool(topology.place(pod), "eth0", ["gro", "on"])?;
        }
    }
    Ok(())
}

/// The place's `eth0`; the other end lies in the LAN or in the pod's node.
fn link(topology: &Topology, place: &Place) -> Result<String> {
    let mtu = topology.options.mtu;
    let namespace = &place.namespace;
    let (peer, peer_namespace) = match place.node {
        None if place.name == "lan" => return Ok(String::new()),
        Some(node) if node != place.name => (
            format!("veth{}", place.name),
            &topology.place(node).namespace,
        ),
        _ => (place.name.to_owned(), &topology.place("lan").namespace),
    };
    Ok(format!(
        "link add eth0 mtu {mtu} netns {namespace} type veth peer name {peer} mtu {mtu} netns {peer_namespace}\n"
    ))
}

fn lan(lan: &Place) -> Result<String> {
    let mut lines = String::from("link set lo up\nlink add br0 type bridge mcast_snooping 0\n");
    writeln!(
        lines,
        "addr add {}/24 dev br0\naddr add {}/64 dev br0 nodad\nlink set br0 up",
        lan.v4, lan.v6
    )?;
    for port in ["client", NODES[0], NODES[1]] {
        writeln!(lines, "link set {port} master br0 up")?;
    }
    Ok(lines)
}

fn on_lan(place: &Place) -> Result<String> {
    let mut lines = String::from("link set lo up\n");
    writeln!(
        lines,
        "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up",
        place.v4, place.v6
    )?;
    Ok(lines)
}

/// Load balancer and external addresses are routed to node1, as a router in front of a cluster would.
fn client(client: &Place) -> Result<String> {
    let mut lines = on_lan(client)?;
    for range in ["192.0.2.0/24", "198.51.100.0/24"] {
        writeln!(lines, "route add {range} via 172.18.0.11")?;
    }
    writeln!(lines, "route add 2001:db8::/32 via fd00:18::11")?;
    // What is only for the inside is routed too: it must be the nodes that do not answer, not the client that cannot ask.
    for (v4, v6, node) in [
        ("10.96.0.0/16", "fd00:96::/112", 11),
        ("10.244.1.0/24", "fd00:244:1::/64", 11),
        ("10.244.2.0/24", "fd00:244:2::/64", 12),
    ] {
        writeln!(
            lines,
            "route add {v4} via 172.18.0.{node}\nroute add {v6} via fd00:18::{node}"
        )?;
    }
    Ok(lines)
}

fn node(topology: &Topology, node: &Place) -> Result<String> {
    let mut lines = on_lan(node)?;
    writeln!(
        lines,
        "route add default via 172.18.0.1\nroute add default via fd00:18::1"
    )?;
    for (number, other) in (1..).zip(NODES).filter(|(_, other)| *other != node.name) {
        let other = topology.place(other);
        writeln!(lines, "route add 10.244.{number}.0/24 via {}", other.v4)?;
        writeln!(lines, "route add fd00:244:{number}::/64 via {}", other.v6)?;
    }
    let (gateway4, gateway6) = gateways(node);
    if topology.options.cni == Cni::Bridge {
        writeln!(
            lines,
            "link add cni0 mtu {} type bridge",
            topology.options.mtu
        )?;
        writeln!(
            lines,
            "addr add {gateway4}/24 dev cni0\naddr add {gateway6}/64 dev cni0 nodad\nlink set cni0 up"
        )?;
    }
    for pod in topology
        .places()
        .iter()
        .filter(|pod| pod.node == Some(node.name) && pod.name != node.name)
    {
        let veth = format!("veth{}", pod.name);
        match topology.options.cni {
            Cni::Bridge => writeln!(lines, "link set {veth} master cni0 up")?,
            Cni::Ptp => {
                writeln!(
                    lines,
                    "addr add {gateway4}/32 dev {veth}\naddr add fe80::1/64 dev {veth} nodad"
                )?;
                writeln!(lines, "link set {veth} up")?;
                writeln!(
                    lines,
                    "route add {}/32 dev {veth}\nroute add {}/128 dev {veth}",
                    pod.v4, pod.v6
                )?;
            }
        }
    }
    Ok(lines)
}

fn pod(topology: &Topology, pod: &Place) -> Result<String> {
    let (gateway4, gateway6) = gateways(topology.place(pod.node.context("a pod has a node")?));
    let mut lines = String::from("link set lo up\n");
    match topology.options.cni {
        Cni::Ptp => {
            writeln!(
                lines,
                "addr add {}/32 dev eth0\naddr add {}/128 dev eth0 nodad\nlink set eth0 up",
                pod.v4, pod.v6
            )?;
            writeln!(
                lines,
                "route add {gateway4} dev eth0 scope link\nroute add default via {gateway4}"
            )?;
            writeln!(lines, "route add default via fe80::1 dev eth0")?;
        }
        Cni::Bridge => {
            writeln!(
                lines,
                "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up",
                pod.v4, pod.v6
            )?;
            writeln!(
                lines,
                "route add default via {gateway4}\nroute add default via {gateway6}"
            )?;
        }
    }
    Ok(lines)
}

fn gateways(node: &Place) -> (String, String) {
    let number = if node.name == NODES[0] { 1 } else { 2 };
    (
        format!("10.244.{number}.1"),
        format!("fd00:244:{number}::1"),
    )
}

fn sysctls(place: &Place) -> Result<()> {
    let forwards = place.node == Some(place.name);
    in_namespace(&place.namespace_file(), || {
        let more = FORWARDING.iter().filter(|_| forwards);
        for (name, value) in SYSCTLS.iter().chain(more) {
            fs::write(format!("/proc/sys/{name}"), value)
                .with_context(|| format!("cannot set {name}"))?;
        }
        Ok(())
    })
}

fn batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let mut ip = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`: run `cargo xtask setup`")?;
    ip.stdin
        .take()
        .context("ip has no stdin")?
        .write_all(lines.as_bytes())?;
    let output = ip.wait_with_output()?;
    if !output.status.success() {
        let line = namespace.unwrap_or("the host");
        bail!(
            "`ip -batch` failed in {line}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn ethtool(place: &Place, device: &str, feature: [&str; 2]) -> Result<()> {
    in_namespace(&place.namespace_file(), || {
        let output = Command::new("ethtool")
            .args(["-K", device])
            .args(feature)
            .output()
            .context("cannot run `ethtool`: run `cargo xtask setup`")?;
        ensure!(
            output.status.success(),
            "`ethtool -K {device} {}` failed: {}",
            feature.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    })
}
