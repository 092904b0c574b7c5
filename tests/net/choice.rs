//! Which backend is chosen, and NodePorts by loopback addresses.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use xtask::traffic::{Probe, Protocol, spread};

use crate::Case;
use crate::lab::Lab;
use crate::paths::{PODS, Way};

pub const CASES: &[Case] = &[
    Case {
        name: "connections_spread_evenly",
        settings: &["socket_tcp", "packets_only", "xdp_generic"],
        test: even,
    },
    Case {
        name: "two_nodes_choose_the_same_backend_for_a_client",
        settings: &["socket_tcp", "xdp_native"],
        test: same_backend,
    },
    Case {
        name: "a_node_reaches_node_ports_by_loopback",
        settings: &["socket_tcp", "socket_all", "socket_host_only"],
        test: loopback,
    },
    Case {
        name: "a_node_reaches_node_ports_by_its_own_address",
        settings: &["socket_tcp", "socket_all", "socket_host_only"],
        test: own_address,
    },
];

/// 300 of three are 100 each, give or take 8.2 (σ): nobody waits for 7 σ.
fn even(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        for (from, to) in [
            ("pod-d", way.cluster_ip(1)),
            ("client", way.node_port(lab, "node2", 1)),
        ] {
            let spread = spread(&lab.answered(from, way.protocol, to, 300)?);
            for pod in PODS {
                let part = spread.get(pod).copied().unwrap_or(0);
                ensure!(
                    (42..=158).contains(&part),
                    "{from} → {to} {}: {spread:?}",
                    way.protocol
                );
            }
        }
    }
    Ok(())
}

/// The router in front of the cluster changes its mind.
fn same_backend(lab: &mut Lab) -> Result<()> {
    let ask = |way: &Way| -> Result<Vec<String>> {
        let to = way.load_balancer()?;
        (50_000..50_012)
            .map(|port| {
                let answers = Probe::udp(to)
                    .source_port(port)
                    .run(&lab.topology, "client")?;
                ensure!(
                    answers.iter().all(|a| a.by().is_some()),
                    "{to}: {answers:?}"
                );
                Ok(answers.iter().filter_map(|a| a.by()).collect())
            })
            .collect()
    };
    let ways = Way::ALL.iter().filter(|way| way.protocol == Protocol::Udp);
    let by_node1 = ways.clone().map(ask).collect::<Result<Vec<_>>>()?;
    let route = |node: &str| -> Result<()> {
        let (v4, v6) = (lab.address(node, false), lab.address(node, true));
        lab.tool("client", &format!("ip route replace 192.0.2.0/24 via {v4}"))?;
        lab.tool(
            "client",
            &format!("ip route replace 2001:db8::/32 via {v6}"),
        )
        .map(drop)
    };
    route("node2")?;
    let by_node2 = ways.map(ask).collect::<Result<Vec<_>>>()?;
    route("node1")?;
    ensure!(
        by_node1 == by_node2,
        "node1 chose {by_node1:?}, node2 {by_node2:?}"
    );
    let different = by_node1
        .concat()
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>();
    ensure!(
        different.len() > 1,
        "all 24 went to {different:?}: that proves nothing"
    );
    Ok(())
}

fn loopback(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        let own = |n| {
            let ip = if way.v6 {
                Ipv6Addr::LOCALHOST.into()
            } else {
                Ipv4Addr::LOCALHOST.into()
            };
            SocketAddr::new(ip, way.node_port(lab, "node1", n).port())
        };
        lab.answered_by("node1", way.protocol, own(1), &PODS)?;
        lab.answered_by("node1", way.protocol, own(2), &["pod-a"])?;
        lab.answered_by("node2", way.protocol, own(2), &["pod-a"])?;
        lab.answered_by("node1", way.protocol, own(5), &["node1"])?;
        lab.refused("node1", way.protocol, own(4))?;
    }
    Ok(())
}

fn own_address(lab: &mut Lab) -> Result<()> {
    for way in Way::ALL {
        for node in ["node1", "node2"] {
            lab.answered_by(node, way.protocol, way.node_port(lab, node, 1), &PODS)?;
            lab.answered_by(node, way.protocol, way.node_port(lab, node, 2), &["pod-a"])?;
            lab.refused(node, way.protocol, way.node_port(lab, node, 4))?;
        }
    }
    Ok(())
}
