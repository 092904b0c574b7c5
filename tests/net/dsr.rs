//! Direct server return (D12): tunnels to remote backends, whose answers do not come back this way.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol as Number, Socket, Type};
use svc_common::reason::Reason;
use xtask::topology::in_namespace;
use xtask::traffic::{Probe, Protocol};

use crate::Case;
use crate::capture::{Capture, Seen, TCP, UDP};
use crate::frames;
use crate::lab::{Lab, TCP_PORT, UDP_PORT};
use crate::paths::Way;
use crate::wire::{counted, udp_ways};

const DSR: &[&str] = &["dsr_ipip", "dsr_geneve"];

pub const CASES: &[Case] = &[
    Case {
        name: "answers_bypass_the_first_node",
        settings: DSR,
        test: bypass,
    },
    Case {
        name: "a_load_balancer_address_keeps_the_client_on_every_node",
        settings: DSR,
        test: load_balancer,
    },
    Case {
        name: "a_packet_too_big_for_the_tunnel_is_reported",
        settings: DSR,
        test: too_big,
    },
    Case {
        name: "megabytes_find_their_way_through_the_tunnel",
        settings: DSR,
        test: megabytes,
    },
    Case {
        name: "a_pod_reaches_itself_and_its_node_by_another_nodes_port",
        settings: DSR,
        test: roundabout,
    },
    Case {
        name: "only_nodes_are_believed_and_only_about_listed_backends",
        settings: DSR,
        test: belief,
    },
];

/// A tunnelled packet: its protocol, or None for other packets.
fn is_tunnelled(lab: &Lab, seen: &Seen) -> bool {
    match lab.setting.dsr {
        "geneve" => seen.protocol == UDP && seen.payload[2..4] == 6081u16.to_be_bytes(),
        _ => [4, 41].contains(&seen.protocol),
    }
}

fn overhead(lab: &Lab, v6: bool) -> u16 {
    (if v6 { 40 } else { 20 }) + if lab.setting.dsr == "geneve" { 24 } else { 0 }
}

fn bypass(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        let to = way.node_port(lab, "node1", 3);
        let client = lab.address("client", way.v6);
        // The neighbours get to know each other.
        lab.answered_by("client", way.protocol, to, &["pod-c"])?;
        let captures = ["node1", "node2"].map(|node| Capture::start(&lab.topology, node));
        for answer in lab.answered_by("client", way.protocol, to, &["pod-c"])? {
            let (seen, peer) = Lab::seen(&answer)?;
            ensure!(seen.ip() == client, "{to}: pod-c saw {seen}");
            ensure!(peer == to, "{to}: the answer came from {peer}");
        }
        let [first, second] = captures;
        let (first, second) = (first?.stop()?, second?.stop()?);
        let back = first
            .iter()
            .find(|seen| [TCP, UDP].contains(&seen.protocol) && seen.dst == client);
        ensure!(back.is_none(), "{to}: an answer came by node1: {back:02x?}");
        let tunnelled: Vec<_> = second
            .iter()
            .filter(|seen| is_tunnelled(lab, seen))
            .collect();
        ensure!(
            tunnelled.len() >= 5,
            "{to}: node2 saw {} tunnelled packets",
            tunnelled.len()
        );
        for seen in tunnelled {
            headers(lab, way, to, seen).with_context(|| format!("{to}: {seen:02x?}"))?;
        }
    }
    Ok(())
}

/// What is on the wire between the nodes.
fn headers(lab: &Lab, way: Way, to: SocketAddr, seen: &Seen) -> Result<()> {
    let ends = (lab.address("node1", way.v6), lab.address("pod-c", way.v6));
    ensure!((seen.src, seen.dst) == ends, "expected {ends:?}");
    let port = if way.protocol == Protocol::Tcp {
        TCP_PORT
    } else {
        UDP_PORT
    }
    .to_be_bytes();
    let inner = if lab.setting.dsr == "geneve" {
        ensure!(seen.payload[6..8] == [0, 0], "a UDP checksum");
        ensure!(seen.payload[20..22] == port, "another port in the option");
        &seen.payload[24..]
    } else {
        let label = if way.v6 {
            &seen.header[2..4]
        } else {
            &seen.header[4..6]
        };
        ensure!(label == port, "another port in the header");
        &seen.payload[..]
    };
    let (dst, l4) = if way.v6 {
        (IpAddr::from(<[u8; 16]>::try_from(&inner[24..40])?), 40)
    } else {
        (IpAddr::from(<[u8; 4]>::try_from(&inner[16..20])?), 20)
    };
    ensure!(
        SocketAddr::new(dst, u16::from_be_bytes([inner[l4 + 2], inner[l4 + 3]])) == to,
        "the tunnelled packet is not for {to}"
    );
    Ok(())
}

fn load_balancer(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        let client = lab.address("client", way.v6);
        for answer in lab.answered_by(
            "client",
            way.protocol,
            way.load_balancer()?,
            &crate::paths::PODS,
        )? {
            let (seen, _) = Lab::seen(&answer)?;
            ensure!(seen.ip() == client, "{:?} saw {seen}", answer.by());
        }
    }
    Ok(())
}

fn too_big(lab: &mut Lab) -> Result<()> {
    for way in udp_ways() {
        let to = way.node_port(lab, "node1", 3);
        let capture = Capture::start(&lab.topology, "client")?;
        // With its headers it fits the LAN, but not the tunnel.
        let bytes = if way.v6 { 1_440 } else { 1_460 };
        let probe = Probe::udp(to)
            .bytes(bytes)
            .count(3)
            .timeout(Duration::from_millis(300));
        let answers = probe.run(&lab.topology, "client")?;
        let seen = capture.stop()?;
        let what = if way.v6 { (2, 0) } else { (3, 4) };
        let told = seen.iter().find(|seen| seen.icmp() == Some(what));
        let told = told.with_context(|| format!("{to}: the client is not told: {answers:?}"))?;
        told.check()?;
        ensure!(told.src == to.ip(), "{to}: told by {}", told.src);
        let mtu = u16::from_be_bytes([told.payload[6], told.payload[7]]);
        ensure!(mtu == 1_500 - overhead(lab, way.v6), "{to}: told {mtu}");
        ensure!(
            answers.iter().any(|answer| answer.by().is_some()),
            "{to}: smaller packets do not pass: {answers:?}"
        );
        forget_paths(lab)?;
    }
    Ok(())
}

fn forget_paths(lab: &Lab) -> Result<()> {
    lab.tool("client", "ip route flush cache")?;
    lab.tool("client", "ip -6 route flush cache").map(drop)
}

fn megabytes(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL
        .into_iter()
        .filter(|way| way.protocol == Protocol::Tcp)
    {
        let to = way.node_port(lab, "node1", 3);
        let probe = Probe::tcp(to)
            .bytes(16 << 20)
            .timeout(Duration::from_secs(10));
        let answers = probe.run(&lab.topology, "client")?;
        ensure!(
            answers.iter().all(|a| a.by().is_some()),
            "{to}: {answers:?}"
        );
        let route = lab.tool("client", &format!("ip route get {}", to.ip()))?;
        let mtu = 1_500 - overhead(lab, way.v6);
        ensure!(
            route.contains(&format!("mtu {mtu}")),
            "the client was not told: {route}"
        );
        forget_paths(lab)?;
    }
    Ok(())
}

fn roundabout(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        for (from, node, n, pod) in [
            ("pod-a", "node2", 2, "pod-a"),
            ("pod-b", "node2", 2, "pod-a"),
            ("pod-d", "node1", 2, "pod-a"),
            ("pod-d", "node1", 3, "pod-c"),
            ("node1", "node2", 2, "pod-a"),
        ] {
            let to = way.node_port(lab, node, n);
            lab.answered_by(from, way.protocol, to, &[pod])?;
        }
    }
    Ok(())
}

/// Sends `inner` by IP in IP to pod-c, and returns what pod-c gets.
fn send(lab: &Lab, from: &str, inner: &frames::Frame) -> Result<Vec<Seen>> {
    let v6 = inner.src.is_ipv6();
    let to = SocketAddr::new(lab.address("pod-c", v6), 0);
    let capture = Capture::start(&lab.topology, "pod-c")?;
    in_namespace(&lab.topology.place(from).namespace_file(), || {
        let number = Number::from(if v6 { 41 } else { 4 });
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(number))?;
        socket.send_to(&inner.packet(), &to.into())?;
        Ok(())
    })?;
    capture.stop()
}

fn belief(lab: &mut Lab) -> Result<()> {
    for way in udp_ways() {
        let frontend = way.node_port(lab, "node1", 3);
        let client = lab.address("client", way.v6);
        let hello = frames::udp(client, frontend.ip())
            .sport(9_999)
            .payload(b"hello");
        let carried = |seen: &Seen| [4, 41].contains(&seen.protocol);
        let plain = |seen: &Seen| seen.protocol == UDP && seen.payload.ends_with(b"hello");
        let before = counted(lab, Reason::BadTunnel)?;
        // Of nobody that we know, or for nobody: another tunnel's.
        for (from, port) in [("client", frontend.port()), ("node1", 9)] {
            let seen = send(lab, from, &hello.clone().port(port))?;
            ensure!(
                seen.iter().any(carried) && !seen.iter().any(plain),
                "{from}, port {port}: pod-c saw {seen:02x?}"
            );
        }
        ensure!(
            counted(lab, Reason::BadTunnel)? == before,
            "another tunnel's packet was dropped"
        );
        // The header does not name a port of pod-c's.
        let seen = send(lab, "node1", &hello.clone().port(frontend.port()))?;
        ensure!(
            !seen.iter().any(|seen| carried(seen) || plain(seen)),
            "pod-c saw {seen:02x?}"
        );
        ensure!(
            counted(lab, Reason::BadTunnel)? == before + 1,
            "the drop was not counted"
        );
    }
    Ok(())
}
