//! `--host-routing auto`: packets for pods of a node skip its stack, until something there is for them.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::agents::eventually;
use xtask::traffic::{Probe, Protocol};

use crate::Case;
use crate::lab::{Lab, TCP_PORT, UDP_PORT};
use crate::paths::Way;

const SOON: Duration = Duration::from_secs(5);
const SETTINGS: &[&str] = &["socket_tcp", "packets_only"];

pub const CASES: &[Case] = &[
    Case {
        name: "packets_for_pods_here_skip_the_stack",
        settings: SETTINGS,
        test: skip,
    },
    Case {
        name: "datagrams_in_fragments_reach_pods_here",
        settings: SETTINGS,
        test: fragments,
    },
    Case {
        name: "a_rule_for_forwarded_packets_is_met_as_soon_as_it_is_there",
        settings: SETTINGS,
        test: rule,
    },
    Case {
        name: "source_nat_keeps_only_what_comes_from_outside_in_the_stack",
        settings: SETTINGS,
        test: source_nat,
    },
    Case {
        name: "a_pods_queue_is_not_passed_by",
        settings: SETTINGS,
        test: queue,
    },
    Case {
        name: "a_packet_at_its_last_hop_is_answered_by_the_node",
        settings: SETTINGS,
        test: last_hop,
    },
    Case {
        name: "a_pod_that_comes_back_on_another_device_is_reached",
        settings: SETTINGS,
        test: comes_back,
    },
    Case {
        name: "told_to_leave_packets_to_the_stack_they_are",
        settings: &["socket_all"],
        test: left,
    },
];

/// Packets that a node's stack has forwarded.
fn forwarded(lab: &Lab, node: &str, v6: bool) -> Result<u64> {
    if v6 {
        let text = lab.tool(node, "cat /proc/net/snmp6")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Ip6OutForwDatagrams"));
        return Ok(line.context("no Ip6OutForwDatagrams")?.trim().parse()?);
    }
    let text = lab.tool(node, "cat /proc/net/snmp")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().context("Ip:")?, lines.next().context("Ip:")?);
    let at = names.split(' ').position(|name| name == "ForwDatagrams");
    let value = values.split(' ').nth(at.context("no ForwDatagrams")?);
    Ok(value.context("no value")?.parse()?)
}

/// Where pod-a is asked: at its own address, and by its Service.
fn ways_to_pod_a(lab: &Lab, way: Way) -> [SocketAddr; 2] {
    [way.direct(lab, "pod-a"), way.cluster_ip(2)]
}

/// Twenty answers of pod-a, and how many packets the stack of node1 has forwarded for them.
fn ask(lab: &Lab, from: &str, way: Way, to: SocketAddr) -> Result<u64> {
    let before = forwarded(lab, "node1", way.v6)?;
    lab.answered(from, way.protocol, to, 20)?;
    Ok(forwarded(lab, "node1", way.v6)? - before)
}

/// Waits until pods' packets to pod-a skip the stack, or do not.
fn settled(lab: &Lab, skips: bool) -> Result<()> {
    let way = Way::ALL[0];
    let what = if skips { "skip" } else { "meet" };
    eventually(&format!("packets {what} the stack"), SOON, || {
        Ok((ask(lab, "pod-b", way, way.direct(lab, "pod-a"))? < 10) == skips)
    })
    .map(drop)
}

fn skip(lab: &mut Lab) -> Result<()> {
    settled(lab, true)?;
    for way in Way::ALL {
        let to_node = way.node_port(lab, "node1", 2);
        let from_pod = ways_to_pod_a(lab, way).map(|to| ("pod-b", to));
        let from_outside = [("client", to_node), ("pod-d", way.cluster_ip(2))];
        // The first packets of all may have to find their neighbours.
        lab.answered("client", way.protocol, to_node, 1)?;
        for (from, to) in from_pod.into_iter().chain(from_outside) {
            let seen = ask(lab, from, way, to)?;
            // What leaves the node is routed by the stack: the answers to those outside.
            let most = if from == "pod-b" { 8 } else { 150 };
            ensure!(seen < most, "{from} → {to}: {seen} packets met the stack");
        }
        // A pod's own Service leads back to it.
        lab.answered_by("pod-a", way.protocol, way.cluster_ip(2), &["pod-a"])?;
    }
    Ok(())
}

fn fragments(lab: &mut Lab) -> Result<()> {
    for v6 in [false, true] {
        let way = Way {
            protocol: Protocol::Udp,
            v6,
        };
        for to in ways_to_pod_a(lab, way) {
            let answers = Probe::new(Protocol::Udp, to)
                .bytes(6_000)
                .count(5)
                .run(&lab.topology, "pod-b")?;
            ensure!(
                answers.iter().all(|answer| answer.by().is_some()),
                "{to}: {answers:?}"
            );
        }
    }
    Ok(())
}

fn rule(lab: &mut Lab) -> Result<()> {
    settled(lab, true)?;
    lab.tool("node1", "nft add table inet guard")?;
    lab.tool(
        "node1",
        "nft add chain inet guard f { type filter hook forward priority 0 ; policy accept ; }",
    )?;
    let drop_to = |port: u16, family: &str, addr: &str| {
        format!(
            "nft add rule inet guard f {family} daddr {addr} meta l4proto {{ tcp, udp }} th dport {port} drop"
        )
    };
    for port in [TCP_PORT, UDP_PORT] {
        lab.tool("node1", &drop_to(port, "ip", "10.244.1.10"))?;
        lab.tool("node1", &drop_to(port, "ip6", "fd00:244:1::a"))?;
    }
    let first = Way::ALL[0];
    eventually("the rule is met", SOON, || {
        let probe = Probe::new(first.protocol, first.direct(lab, "pod-a"));
        let answers = probe
            .timeout(Duration::from_millis(300))
            .run(&lab.topology, "pod-b")?;
        Ok(answers.iter().all(|answer| answer.by().is_none()))
    })?;
    for way in Way::ALL {
        for to in ways_to_pod_a(lab, way) {
            lab.silent("pod-b", way.protocol, to)?;
        }
    }
    let log = lab.agents[0].log();
    ensure!(
        log.contains("by the host's stack: nftables chain inet guard f has rules"),
        "the log does not say why: {log}"
    );
    lab.tool("node1", "nft delete table inet guard")?;
    settled(lab, true)
}

fn source_nat(lab: &mut Lab) -> Result<()> {
    lab.tool("node1", "nft add table ip outward")?;
    lab.tool(
        "node1",
        "nft add chain ip outward p { type nat hook postrouting priority 100 ; }",
    )?;
    lab.tool(
        "node1",
        "nft add rule ip outward p ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade",
    )?;
    let said = |text: &str| {
        eventually(&format!("the log says {text:?}"), SOON, || {
            Ok(lab.agents[0].log().contains(text))
        })
        .map(drop)
    };
    said("from outside by the stack: nftables chain ip outward p")?;
    let way = Way::ALL[0];
    ensure!(!way.v6, "the rule is about IPv4");
    let seen = ask(lab, "pod-b", way, way.direct(lab, "pod-a"))?;
    ensure!(seen < 8, "{seen} packets between pods met the stack");
    lab.answered("client", way.protocol, way.node_port(lab, "node1", 2), 5)?;
    lab.answered("pod-d", way.protocol, way.cluster_ip(2), 5)?;
    // Whoever leaves is masqueraded, and gets its answers.
    lab.tool("pod-b", "ping -c 2 -i 0.2 -W 2 172.18.0.100")?;
    lab.tool("node1", "nft delete table ip outward")?;
    settled(lab, true)
}

fn queue(lab: &mut Lab) -> Result<()> {
    settled(lab, true)?;
    lab.tool(
        "node1",
        "tc qdisc add dev vethpod-a root tbf rate 1gbit burst 1mb latency 50ms",
    )?;
    settled(lab, false)?;
    lab.tool("node1", "tc qdisc del dev vethpod-a root")?;
    settled(lab, true)?;
    // A filter of what the pod sends: everything from pods stays where it is met.
    lab.tool("node1", "tc qdisc add dev vethpod-b ingress")?;
    settled(lab, false)?;
    lab.tool("node1", "tc qdisc del dev vethpod-b ingress")?;
    settled(lab, true)
}

fn last_hop(lab: &mut Lab) -> Result<()> {
    settled(lab, true)?;
    let out = lab.tool("pod-b", "ping -c 1 -W 2 -t 64 10.244.1.10")?;
    ensure!(out.contains("ttl=63"), "{out}");
    let client = lab.topology.place("pod-b").namespace_file();
    let told = xtask::topology::in_namespace(&client, || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.set_ttl(1)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect(("10.244.1.10", UDP_PORT))?;
        socket.send(b"x")?;
        Ok(socket
            .recv(&mut [0; 64])
            .map_err(|error| error.raw_os_error()))
    })?;
    // "Time exceeded in transit" is no hard error for a UDP socket: it is not answered by the pod, that is all.
    ensure!(told.is_err(), "a packet at its last hop reached the pod");
    Ok(())
}

fn comes_back(lab: &mut Lab) -> Result<()> {
    settled(lab, true)?;
    let pod = lab.topology.place("pod-a").namespace.clone();
    lab.tool("node1", "ip link del vethpod-a")?;
    for line in [
        &format!("ip link add vethpod-a type veth peer name eth0 netns {pod}"),
        "ip addr add 10.244.1.1/32 dev vethpod-a",
        "ip addr add fe80::1/64 dev vethpod-a nodad",
        "ip link set vethpod-a up",
    ] {
        lab.tool("node1", line)?;
    }
    for line in [
        "ip addr add 10.244.1.10/32 dev eth0",
        "ip addr add fd00:244:1::a/128 dev eth0 nodad",
        "ip link set eth0 up",
        "ip route add 10.244.1.1 dev eth0 scope link",
        "ip route add default via 10.244.1.1",
        "ip route add default via fe80::1 dev eth0",
    ] {
        lab.tool("pod-a", line)?;
    }
    lab.tool("node1", "ip route add 10.244.1.10/32 dev vethpod-a")?;
    lab.tool("node1", "ip route add fd00:244:1::a/128 dev vethpod-a")?;
    for way in Way::ALL {
        for to in ways_to_pod_a(lab, way) {
            lab.answered("pod-b", way.protocol, to, 5)?;
        }
    }
    settled(lab, true)
}

fn left(lab: &mut Lab) -> Result<()> {
    let way = Way::ALL[0];
    let seen = ask(lab, "pod-b", way, way.direct(lab, "pod-a"))?;
    ensure!(seen > 20, "only {seen} packets met the stack");
    let log = fs::read_to_string(&lab.agents[0].log_file)?;
    ensure!(log.contains("--host-routing kernel"), "{log}");
    Ok(())
}
