//! ICMP errors about packets that were translated (D11): closed ports, and ways too narrow.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::topology::{NODES, in_namespace};
use xtask::traffic::{Probe, Protocol};

use crate::Case;
use crate::capture::{Capture, Seen};
use crate::lab::{Lab, UDP_PORT};
use crate::paths::Way;
use crate::wire::{OUTSIDE, OUTSIDE_AND_DSR, udp_ways};

const PACKETS: &[&str] = &["packets_only", "packets_only_bridge"];

pub const CASES: &[Case] = &[
    Case {
        name: "a_closed_port_of_a_backend_refuses_inside",
        settings: PACKETS,
        test: closed_inside,
    },
    Case {
        name: "a_closed_port_of_a_backend_refuses_outside",
        settings: OUTSIDE_AND_DSR,
        test: closed_outside,
    },
    Case {
        name: "an_error_about_an_answer_reaches_the_backend",
        settings: OUTSIDE_AND_DSR,
        test: error_about_answer,
    },
    Case {
        name: "a_narrow_path_to_a_pod_is_found_inside",
        settings: PACKETS,
        test: narrow_inside,
    },
    Case {
        name: "a_narrow_path_to_a_pod_is_found_outside",
        settings: OUTSIDE_AND_DSR,
        test: narrow_outside,
    },
    Case {
        name: "a_narrow_path_back_is_found",
        settings: OUTSIDE,
        test: narrow_back,
    },
];

fn closed_inside(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        for from in ["pod-b", "pod-d", "node1", "node2"] {
            lab.refused(from, way.protocol, way.cluster_ip(6))?;
            lab.refused(from, way.protocol, way.cluster_ip(7))?;
        }
        lab.refused("pod-a", way.protocol, way.cluster_ip(6))
            .context("a pod that reaches itself")?;
    }
    Ok(())
}

fn closed_outside(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        for node in NODES {
            for n in [6, 7] {
                let to = way.node_port(lab, node, n);
                let capture = Capture::start(&lab.topology, "client")?;
                lab.refused("client", way.protocol, to)?;
                for error in capture.stop()?.iter().filter(|seen| seen.icmp().is_some()) {
                    error.check().with_context(|| format!("{to}"))?;
                    if let Some((src, _, dst, port)) = error.quoted() {
                        ensure!(
                            error.src == to.ip(),
                            "an error about {to} comes from {}",
                            error.src
                        );
                        let own = lab.address("client", way.v6);
                        ensure!(
                            (src, dst, port) == (own, to.ip(), to.port()),
                            "{to}: a wrong quote: {error:?}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// The client has gone before the answer comes.
fn error_about_answer(lab: &mut Lab) -> Result<()> {
    let client = lab.topology.place("client").namespace_file();
    in_namespace(&client, || {
        // By default it sends few errors.
        std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0")?;
        Ok(std::fs::write("/proc/sys/net/ipv6/icmp/ratelimit", "0")?)
    })?;
    let leave = |to: SocketAddr| {
        in_namespace(&client, || {
            let (domain, datagram) = (socket2::Domain::for_address(to), socket2::Type::DGRAM);
            let socket = socket2::Socket::new(domain, datagram, None)?;
            // So many that the last answers come after the socket has gone.
            for _ in 0..100 {
                socket.send_to(b"bye", &to.into())?;
            }
            Ok(())
        })
    };
    for way in udp_ways() {
        for (n, pod) in [(2, "pod-a"), (3, "pod-c")] {
            let to = way.node_port(lab, "node1", n);
            let told = |seen: &Seen| seen.icmp() == Some(if way.v6 { (1, 4) } else { (3, 3) });
            let mut error = None;
            for _ in 0..10 {
                let capture = Capture::start(&lab.topology, pod)?;
                leave(to)?;
                error = capture.stop()?.into_iter().find(told);
                if error.is_some() {
                    break;
                }
            }
            let error = error.with_context(|| format!("{to}: {pod} is not told"))?;
            error.check()?;
            let (src, port, dst, _) = error.quoted().context("an error without a quote")?;
            let own = (lab.address(pod, way.v6), UDP_PORT);
            // It quotes what the backend has sent: to the client, or to the node in its place.
            let masquerades = n == 3 && lab.setting.dsr == "off";
            let client = lab.address(if masquerades { "node1" } else { "client" }, way.v6);
            ensure!(
                (src, port) == own && dst == client,
                "{to}: a wrong quote: {error:?}"
            );
        }
    }
    Ok(())
}

const NARROW: u32 = 1300;

/// Megabytes both ways, and the proof that somebody was told of the narrow path.
fn squeeze(lab: &Lab, from: &str, to: SocketAddr, told: &str, about: &str) -> Result<()> {
    let transfer = Probe::tcp(to)
        .bytes(1 << 20)
        .timeout(Duration::from_secs(4));
    let answers = transfer.run(&lab.topology, from)?;
    ensure!(
        answers.iter().all(|a| a.by().is_some()),
        "{from} → {to}: {answers:?}"
    );
    let route = lab.tool(told, &format!("ip route get {about}"))?;
    ensure!(
        route.contains(&format!("mtu {NARROW}")),
        "{told} was not told about {about}: {route}"
    );
    for place in [from, told] {
        lab.tool(place, "ip route flush cache")?;
        lab.tool(place, "ip -6 route flush cache")?;
    }
    Ok(())
}

/// The route from a node to a pod of its own, of this MTU. Locked: others are not known to bpf_fib_lookup.
fn pod_route(lab: &Lab, node: &str, pod: &str, v6: bool, mtu: u32) -> Result<()> {
    let (addr, length) = (lab.address(pod, v6), if v6 { 128 } else { 32 });
    let device = if lab.setting.name.ends_with("bridge") {
        "cni0".to_owned()
    } else {
        format!("veth{pod}")
    };
    lab.tool(
        node,
        &format!("ip route replace {addr}/{length} dev {device} mtu lock {mtu}"),
    )
    .map(drop)
}

fn tcp_ways() -> impl Iterator<Item = Way> {
    Way::ALL
        .into_iter()
        .filter(|way| way.protocol == Protocol::Tcp)
}

fn narrow_inside(lab: &mut Lab) -> Result<()> {
    for way in tcp_ways() {
        pod_route(lab, "node1", "pod-a", way.v6, NARROW)?;
        for from in ["pod-d", "node2"] {
            let to = way.cluster_ip(2);
            squeeze(lab, from, to, from, &to.ip().to_string())?;
        }
        pod_route(lab, "node1", "pod-a", way.v6, 1500)?;
    }
    Ok(())
}

fn narrow_outside(lab: &mut Lab) -> Result<()> {
    for way in tcp_ways() {
        pod_route(lab, "node1", "pod-a", way.v6, NARROW)?;
        for node in NODES {
            let to = way.node_port(lab, node, 2);
            squeeze(lab, "client", to, "client", &to.ip().to_string())
                .with_context(|| format!("by {node}"))?;
        }
        pod_route(lab, "node1", "pod-a", way.v6, 1500)?;
    }
    Ok(())
}

/// Between node2 and the client: the answers of its own pod are too big, and those that it brings back. (For
/// those bpf_fib_lookup knows locked MTUs only.)
fn narrow_back(lab: &mut Lab) -> Result<()> {
    for way in tcp_ways() {
        let (client, length) = (lab.address("client", way.v6), if way.v6 { 128 } else { 32 });
        lab.tool(
            "node2",
            &format!("ip route add {client}/{length} dev eth0 mtu lock {NARROW}"),
        )?;
        let about = lab.address("node2", way.v6).to_string();
        squeeze(
            lab,
            "client",
            way.node_port(lab, "node2", 2),
            "pod-a",
            &about,
        )
        .context("a backend elsewhere")?;
        squeeze(
            lab,
            "client",
            way.node_port(lab, "node2", 3),
            "pod-c",
            &client.to_string(),
        )
        .context("a local one")?;
        lab.tool("node2", &format!("ip route del {client}/{length}"))?;
    }
    Ok(())
}
