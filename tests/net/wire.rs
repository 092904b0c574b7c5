//! What is on the wire: checksums, fragments, hop limits, options.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc;
use svc_agent::dataplane::Pinned;
use svc_common::reason::Reason;
use xtask::topology::{NODES, PODS, in_namespace};
use xtask::traffic::{Probe, Protocol};

use crate::Case;
use crate::capture::{Capture, Seen, TCP, UDP};
use crate::lab::Lab;
use crate::paths::Way;

/// Where packets from outside are met by each kind of hook.
pub const OUTSIDE: &[&str] = &["packets_only", "xdp_native", "xdp_generic"];

/// The same, and where remote backends get them in tunnels.
pub const OUTSIDE_AND_DSR: &[&str] = &[
    "packets_only",
    "xdp_native",
    "xdp_generic",
    "dsr_ipip",
    "dsr_geneve",
];

pub const CASES: &[Case] = &[
    Case {
        name: "xdp_forwards_without_the_stack",
        settings: &["xdp_native", "xdp_generic"],
        test: xdp_forwards,
    },
    Case {
        name: "checksums_are_right_without_offload",
        settings: OUTSIDE_AND_DSR,
        test: checksums,
    },
    Case {
        name: "fragments_are_answered",
        settings: &[
            "socket_tcp",
            "packets_only",
            "xdp_native",
            "dsr_ipip",
            "dsr_geneve",
        ],
        test: fragments,
    },
    Case {
        name: "the_last_hop_is_not_forwarded",
        settings: OUTSIDE_AND_DSR,
        test: last_hop,
    },
    Case {
        name: "a_forwarded_packet_loses_hops",
        settings: OUTSIDE_AND_DSR,
        test: hops,
    },
    Case {
        name: "ip_options_are_carried",
        settings: OUTSIDE_AND_DSR,
        test: options,
    },
];

/// Everything that can be asked, by local and remote backends.
fn targets(lab: &Lab, way: Way) -> [(&'static str, SocketAddr); 6] {
    [
        ("pod-b", way.cluster_ip(2)),
        ("pod-d", way.cluster_ip(2)),
        ("pod-a", way.cluster_ip(2)),
        ("client", way.node_port(lab, "node1", 2)),
        ("client", way.node_port(lab, "node2", 2)),
        ("node2", way.cluster_ip(2)),
    ]
}

fn offload(lab: &Lab, state: &str) -> Result<()> {
    for place in PODS.iter().chain(&NODES).chain(&["client"]) {
        lab.tool(place, &format!("ethtool -K eth0 tx {state}"))?;
    }
    Ok(())
}

fn checksums(lab: &mut Lab) -> Result<()> {
    // Where a device finishes checksums they are not to be seen.
    offload(lab, "off")?;
    for way in Way::ALL {
        for (from, to) in targets(lab, way) {
            // By the socket hook a pod reaches itself without any device.
            if from == "pod-a" && lab.setting.socket_lb != "off" {
                continue;
            }
            let captures = [from, "pod-a"]
                .map(|place| Capture::start(&lab.topology, place).map(|capture| (place, capture)));
            let answers = Probe::new(way.protocol, to)
                .count(3)
                .bytes(701)
                .run(&lab.topology, from)?;
            ensure!(
                answers.iter().all(|a| a.by().is_some()),
                "{from} → {to}: {answers:?}"
            );
            for capture in captures {
                let (place, capture) = capture?;
                let seen = capture.stop()?;
                let protocol = if way.protocol == Protocol::Tcp {
                    TCP
                } else {
                    UDP
                };
                let ours = seen.iter().filter(|seen| seen.protocol == protocol).count();
                ensure!(
                    ours >= 3,
                    "{place} saw only {ours} packets of {from} → {to}"
                );
                seen.iter()
                    .try_for_each(|seen| seen.check())
                    .with_context(|| format!("{from} → {to} in {place}"))?;
            }
        }
        lab.refused("client", way.protocol, way.node_port(lab, "node1", 4))?;
    }
    refusals(lab)?;
    if !lab.topology.options.like_nics {
        offload(lab, "on")?;
    }
    Ok(())
}

/// The answers that we write ourselves.
fn refusals(lab: &Lab) -> Result<()> {
    for way in Way::ALL {
        let asks = [
            ("pod-b", way.cluster_ip(4)),
            ("client", way.node_port(lab, "node2", 4)),
        ];
        // A socket hook sends nothing.
        for (from, to) in asks
            .into_iter()
            .filter(|(from, _)| *from == "client" || lab.setting.socket_lb == "off")
        {
            let capture = Capture::start(&lab.topology, from)?;
            lab.refused(from, way.protocol, to)?;
            let seen = capture.stop()?;
            ensure!(seen.len() >= 6, "{from} saw {seen:?}");
            seen.iter()
                .try_for_each(|seen| seen.check())
                .with_context(|| format!("{from} → {to}"))?;
        }
    }
    Ok(())
}

pub fn udp_ways() -> impl Iterator<Item = Way> {
    Way::ALL
        .into_iter()
        .filter(|way| way.protocol == Protocol::Udp)
}

/// How often a reason was counted on both nodes.
pub fn counted(lab: &Lab, reason: Reason) -> Result<u64> {
    let mut sum = 0;
    for node in NODES {
        let reasons = Pinned::open(&lab.topology.bpf_root(node))?.reasons()?;
        sum += reasons
            .iter()
            .filter(|(other, _)| *other == reason)
            .map(|(_, count)| count)
            .sum::<u64>();
    }
    Ok(sum)
}

fn fragments(lab: &mut Lab) -> Result<()> {
    let before = counted(lab, Reason::FragmentUnknown)?;
    for way in udp_ways() {
        for (from, to) in targets(lab, way) {
            let probe = Probe::udp(to).bytes(4000).count(3);
            let mut answers = probe.run(&lab.topology, from)?;
            // The first one may find out that the way through a tunnel is narrower; UDP does not send it again.
            if lab.setting.dsr != "off" && answers[0].by().is_none() {
                answers.remove(0);
            }
            let dropped = counted(lab, Reason::FragmentUnknown)? - before;
            ensure!(
                answers.iter().all(|a| a.by().is_some()),
                "{from} → {to}: {answers:?}; {dropped} dropped"
            );
        }
    }
    Ok(())
}

/// Sends a datagram with a hop limit, and returns what came to `place`.
fn send_with(
    lab: &Lab,
    to: SocketAddr,
    place: &str,
    prepare: impl FnOnce(&socket2::Socket) -> Result<()> + Send,
) -> Result<Vec<Seen>> {
    let capture = Capture::start(&lab.topology, place)?;
    in_namespace(&lab.topology.place("client").namespace_file(), || {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::DGRAM, None)?;
        prepare(&socket)?;
        socket.send_to(b"hop", &to.into())?;
        sleep(Duration::from_millis(50));
        Ok(())
    })?;
    capture.stop()
}

fn limit(v6: bool, hops: u32) -> impl FnOnce(&socket2::Socket) -> Result<()> + Send {
    move |socket| {
        if v6 {
            socket.set_unicast_hops_v6(hops)?;
        } else {
            socket.set_ttl_v4(hops)?;
        }
        Ok(())
    }
}

fn last_hop(lab: &mut Lab) -> Result<()> {
    for way in udp_ways() {
        for (node, n, pod) in [("node1", 3, "pod-c"), ("node1", 2, "pod-a")] {
            let to = way.node_port(lab, node, n);
            let seen = send_with(lab, to, pod, limit(way.v6, 1))?;
            ensure!(
                seen.iter().all(|seen| seen.protocol != UDP),
                "{to}: {pod} got {seen:?}"
            );
            let seen = send_with(lab, to, "client", limit(way.v6, 1))?;
            let error = seen
                .iter()
                .find(|seen| seen.icmp() == Some(if way.v6 { (3, 0) } else { (11, 0) }));
            let error = error.with_context(|| {
                format!("{to}: nobody says that the time is exceeded: {seen:?}")
            })?;
            error.check()?;
            let (src, _, dst, port) = error.quoted().context("an error without a quote")?;
            ensure!(
                (src, dst, port) == (lab.address("client", way.v6), to.ip(), to.port()),
                "{to}: {error:?}"
            );
        }
    }
    Ok(())
}

fn hops(lab: &mut Lab) -> Result<()> {
    for way in udp_ways() {
        // By node1 to pod-c, two nodes forward; to pod-a one does.
        for (n, pod, left) in [(3, "pod-c", 8), (2, "pod-a", 9)] {
            let to = way.node_port(lab, "node1", n);
            let seen = send_with(lab, to, pod, limit(way.v6, 10))?;
            let ttl = seen
                .iter()
                .find(|seen| seen.protocol == UDP)
                .map(|seen| seen.ttl);
            ensure!(
                ttl == Some(left),
                "{to}: {pod} saw {ttl:?} of 10 hops left, expected {left}"
            );
        }
    }
    Ok(())
}

/// Four no-operation options. IPv6 has extension headers in their place.
fn options(lab: &mut Lab) -> Result<()> {
    lab.tool("client", "ethtool -K eth0 tx off")?;
    for (n, pod) in [(2, "pod-a"), (3, "pod-c")] {
        let to = Way {
            v6: false,
            protocol: Protocol::Udp,
        }
        .node_port(lab, "node1", n);
        let seen = send_with(lab, to, pod, |socket| {
            let nops = [1u8; 4];
            // SAFETY: the kernel reads four bytes at the pointer to four bytes.
            let status = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_IP,
                    libc::IP_OPTIONS,
                    nops.as_ptr().cast(),
                    4,
                )
            };
            ensure!(
                status == 0,
                "IP_OPTIONS: {}",
                std::io::Error::last_os_error()
            );
            Ok(())
        })?;
        let ours = seen
            .iter()
            .find(|seen| seen.protocol == UDP && seen.payload.ends_with(b"hop"));
        ours.with_context(|| format!("{to}: {pod} saw only {seen:?}"))?
            .check()?;
    }
    if !lab.topology.options.like_nics {
        offload(lab, "on")?;
    }
    Ok(())
}

/// A packet socket sees what the stack is given, and XDP comes before it.
fn xdp_forwards(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        let to = way.node_port(lab, "node1", 3);
        // The neighbours get to know each other by the stack.
        lab.answered_by("client", way.protocol, to, &["pod-c"])?;
        let capture = Capture::start(&lab.topology, "node1")?;
        lab.answered_by("client", way.protocol, to, &["pod-c"])?;
        let seen = capture.stop()?;
        let ours: Vec<_> = seen
            .iter()
            .filter(|seen| [TCP, UDP].contains(&seen.protocol))
            .collect();
        ensure!(
            ours.is_empty(),
            "{to} {}: the stack of node1 saw {ours:?}",
            way.protocol
        );
    }
    Ok(())
}
