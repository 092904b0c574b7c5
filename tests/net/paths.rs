//! The paths that every setting must carry, for both families and protocols.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use xtask::traffic::Probe;

use crate::lab::Lab;
pub use svc_tests::lab::{PODS, Way};

pub type Test = (&'static str, fn(&Lab, Way) -> Result<()>);

pub const TESTS: [Test; 15] = [
    (
        "a_pod_reaches_every_backend_of_a_cluster_ip",
        pod_to_cluster_ip,
    ),
    (
        "a_process_of_the_node_reaches_a_cluster_ip",
        node_to_cluster_ip,
    ),
    (
        "outside_reaches_a_node_port_on_every_node",
        outside_to_node_port,
    ),
    (
        "outside_reaches_load_balancer_and_external_ips",
        outside_to_external,
    ),
    (
        "a_pod_reaches_node_ports_and_load_balancer_ips",
        pod_to_external,
    ),
    ("a_local_backend_sees_the_client", local_backend_sees_client),
    (
        "a_remote_backend_sees_the_node_or_with_dsr_the_client",
        remote_backend_sees_node,
    ),
    ("a_pod_reaches_itself", hairpin),
    (
        "a_service_without_endpoints_refuses_pods_and_nodes",
        empty_inside,
    ),
    ("a_service_without_endpoints_refuses_outside", empty_outside),
    (
        "an_undefined_port_of_a_cluster_ip_is_refused",
        undefined_port,
    ),
    (
        "a_cluster_ip_is_silent_to_the_outside",
        cluster_ip_from_outside,
    ),
    ("a_backend_on_the_host_network_answers", host_backend),
    ("megabytes_pass_both_ways", megabytes),
    ("direct_traffic_is_left_alone", direct),
];

fn pod_to_cluster_ip(lab: &Lab, way: Way) -> Result<()> {
    let vip = way.cluster_ip(1);
    for answer in lab.answered_by("pod-d", way.protocol, vip, &PODS)? {
        ensure!(
            Lab::seen(&answer)?.1 == vip,
            "the socket's peer is not the Service: {answer:?}"
        );
    }
    lab.answered_by("pod-a", way.protocol, vip, &PODS).map(drop)
}

fn node_to_cluster_ip(lab: &Lab, way: Way) -> Result<()> {
    lab.answered_by("node1", way.protocol, way.cluster_ip(1), &PODS)?;
    lab.answered_by("node2", way.protocol, way.cluster_ip(2), &["pod-a"])?;
    lab.answered_by("node1", way.protocol, way.cluster_ip(2), &["pod-a"])
        .map(drop)
}

fn outside_to_node_port(lab: &Lab, way: Way) -> Result<()> {
    for node in ["node1", "node2"] {
        lab.answered_by("client", way.protocol, way.node_port(lab, node, 1), &PODS)?;
        lab.answered_by(
            "client",
            way.protocol,
            way.node_port(lab, node, 2),
            &["pod-a"],
        )?;
        lab.answered_by(
            "client",
            way.protocol,
            way.node_port(lab, node, 3),
            &["pod-c"],
        )?;
    }
    Ok(())
}

fn outside_to_external(lab: &Lab, way: Way) -> Result<()> {
    lab.answered_by(
        "client",
        way.protocol,
        way.at("192.0.2.127", "2001:db8:2::127")?,
        &PODS,
    )?;
    lab.answered_by(
        "client",
        way.protocol,
        way.at("198.51.100.32", "2001:db8:100::32")?,
        &PODS,
    )
    .map(drop)
}

fn pod_to_external(lab: &Lab, way: Way) -> Result<()> {
    lab.answered_by("pod-b", way.protocol, way.node_port(lab, "node1", 1), &PODS)?;
    lab.answered_by(
        "pod-b",
        way.protocol,
        way.node_port(lab, "node2", 3),
        &["pod-c"],
    )?;
    lab.answered_by(
        "pod-b",
        way.protocol,
        way.at("192.0.2.127", "2001:db8:2::127")?,
        &PODS,
    )?;
    lab.answered_by(
        "node1",
        way.protocol,
        way.at("198.51.100.32", "2001:db8:100::32")?,
        &PODS,
    )
    .map(drop)
}

fn local_backend_sees_client(lab: &Lab, way: Way) -> Result<()> {
    for answer in lab.answered_by(
        "client",
        way.protocol,
        way.node_port(lab, "node1", 2),
        &["pod-a"],
    )? {
        let (seen, _) = Lab::seen(&answer)?;
        ensure!(
            seen.ip() == lab.address("client", way.v6),
            "pod-a saw {seen}"
        );
    }
    Ok(())
}

fn remote_backend_sees_node(lab: &Lab, way: Way) -> Result<()> {
    for answer in lab.answered_by(
        "client",
        way.protocol,
        way.node_port(lab, "node2", 2),
        &["pod-a"],
    )? {
        let (seen, _) = Lab::seen(&answer)?;
        if lab.setting.dsr != "off" {
            ensure!(
                seen.ip() == lab.address("client", way.v6),
                "pod-a saw {seen}"
            );
            continue;
        }
        ensure!(
            seen.ip() == lab.address("node2", way.v6),
            "pod-a saw {seen}"
        );
        ensure!(
            !(32_768..=60_999).contains(&seen.port()),
            "port {} is one that the node hands out",
            seen.port()
        );
    }
    Ok(())
}

fn hairpin(lab: &Lab, way: Way) -> Result<()> {
    lab.answered_by("pod-a", way.protocol, way.cluster_ip(2), &["pod-a"])?;
    lab.answered_by(
        "pod-a",
        way.protocol,
        way.node_port(lab, "node1", 2),
        &["pod-a"],
    )
    .map(drop)
}

fn empty_inside(lab: &Lab, way: Way) -> Result<()> {
    for from in ["pod-a", "node1"] {
        lab.refused(from, way.protocol, way.cluster_ip(4))?;
        lab.refused(
            from,
            way.protocol,
            way.at("192.0.2.128", "2001:db8:2::128")?,
        )?;
    }
    Ok(())
}

fn empty_outside(lab: &Lab, way: Way) -> Result<()> {
    lab.refused("client", way.protocol, way.node_port(lab, "node1", 4))?;
    lab.refused(
        "client",
        way.protocol,
        way.at("192.0.2.128", "2001:db8:2::128")?,
    )
}

fn undefined_port(lab: &Lab, way: Way) -> Result<()> {
    let undefined = SocketAddr::new(way.cluster_ip(1).ip(), 4321);
    lab.refused("pod-a", way.protocol, undefined)?;
    lab.refused("node1", way.protocol, undefined)
}

fn cluster_ip_from_outside(lab: &Lab, way: Way) -> Result<()> {
    lab.silent("client", way.protocol, way.cluster_ip(1))
}

fn host_backend(lab: &Lab, way: Way) -> Result<()> {
    for from in ["pod-a", "pod-c", "node1", "node2"] {
        lab.answered_by(from, way.protocol, way.cluster_ip(5), &["node1"])?;
    }
    for node in ["node1", "node2"] {
        lab.answered_by(
            "client",
            way.protocol,
            way.node_port(lab, node, 5),
            &["node1"],
        )?;
    }
    Ok(())
}

fn megabytes(lab: &Lab, way: Way) -> Result<()> {
    let bytes = if way.is_udp() { 1_000 } else { 8 << 20 };
    let ways = [
        ("pod-b", way.cluster_ip(2)),
        ("pod-d", way.cluster_ip(2)),
        ("node1", way.cluster_ip(3)),
        ("client", way.node_port(lab, "node1", 2)),
        ("client", way.node_port(lab, "node2", 2)),
    ];
    for (from, to) in ways {
        let timeout = std::time::Duration::from_secs(10);
        let answers = Probe::new(way.protocol, to)
            .bytes(bytes)
            .timeout(timeout)
            .run(&lab.topology, from)?;
        ensure!(
            answers.iter().all(|a| a.by().is_some()),
            "{from} → {to}: {answers:?}"
        );
    }
    Ok(())
}

fn direct(lab: &Lab, way: Way) -> Result<()> {
    for (from, to) in [
        ("pod-a", "pod-b"),
        ("pod-a", "pod-c"),
        ("client", "pod-a"),
        ("node2", "pod-b"),
    ] {
        lab.answered_by(from, way.protocol, way.direct(lab, to), &[to])?;
    }
    Ok(())
}
