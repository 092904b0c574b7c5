//! What a Service asks for: who may come, and who is to answer (C11, B12, B13, B15).

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svc_common::family::{Family, V4, V6};
use xtask::agents::eventually;
use xtask::topology::NODES;
use xtask::traffic::{Conversation, Protocol, spread};

use crate::Case;
use crate::churn::still;
use crate::lab::Lab;
use crate::paths::Way;

pub const CASES: &[Case] = &[
    Case {
        name: "source_ranges_let_in_whom_they_name",
        settings: &["socket_tcp", "packets_only", "xdp_generic"],
        test: ranges,
    },
    Case {
        name: "round_robin_takes_turns",
        settings: &["socket_tcp", "packets_only"],
        test: turns,
    },
    Case {
        name: "connections_follow_the_weights",
        settings: &["socket_tcp", "packets_only"],
        test: weights,
    },
    Case {
        name: "least_connections_counts_what_is_open",
        settings: &["socket_tcp", "packets_only"],
        test: least,
    },
    Case {
        name: "a_client_keeps_its_backend_by_affinity",
        settings: &["socket_tcp", "packets_only"],
        test: affinity,
    },
    Case {
        name: "a_node_keeps_its_backend_through_loopback_and_cluster_ip",
        settings: &["socket_tcp", "socket_all"],
        test: own_affinity,
    },
];

const FILE: &str = "wishes.yaml";

/// Runs with one more file of manifests.
fn with(lab: &mut Lab, text: &str, test: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    lab.write(FILE, text)?;
    lab.wait_for("the wish is heard", |backends| backends.contains("wish"))?;
    test(lab)?;
    fs::remove_file(lab.manifests.join(FILE))?;
    lab.wait_for("the wish is forgotten", |backends| {
        !backends.contains("wish")
    })
}

/// The Service `wish` at 10.96.0.40, NodePort 30140, load balancer 192.0.2.140.
fn service(meta: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: wish{meta}}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.40
  clusterIPs: [10.96.0.40, 'fd00:96::40']
{spec}
  ports: [{{name: tcp, port: 80, targetPort: 8080, nodePort: 30140}}]
status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.140}}, {{ip: '2001:db8:2::140'}}]}}}}
"
    )
}

fn algorithm(name: &str) -> String {
    let meta = format!(", annotations: {{svcplane.io/algorithm: {name}}}");
    service(&meta, "  selector: {all: 'yes'}")
}

fn tcp() -> impl Iterator<Item = Way> {
    Way::ALL
        .into_iter()
        .filter(|way| way.protocol == Protocol::Tcp)
}

fn at(v6: bool, v4_text: &str, v6_text: &str, port: u16) -> Result<SocketAddr> {
    let text = if v6 { v6_text } else { v4_text };
    Ok(SocketAddr::new(text.parse()?, port))
}

fn load_balancer(way: Way) -> Result<SocketAddr> {
    at(way.v6, "192.0.2.140", "2001:db8:2::140", 80)
}

fn cluster_ip(way: Way) -> Result<SocketAddr> {
    at(way.v6, "10.96.0.40", "fd00:96::40", 80)
}

fn node_port(lab: &Lab, way: Way) -> SocketAddr {
    SocketAddr::new(lab.address("node1", way.v6), 30140)
}

fn ranges(lab: &mut Lab) -> Result<()> {
    let client = [lab.address("client", false), lab.address("client", true)];
    let own = [format!("{}/32", client[0]), format!("{}/128", client[1])];
    let others = ["203.0.113.0/24".to_owned(), "2001:db8:cafe::/48".to_owned()];
    let manifest = |ranges: &[String]| {
        let list = format!("  loadBalancerSourceRanges: {ranges:?}\n  selector: {{one: a}}");
        service("", &list)
    };
    let change = |lab: &Lab, ranges: &[String]| -> Result<()> {
        lab.write(FILE, &manifest(ranges))?;
        let wanted: BTreeSet<String> = ranges.iter().cloned().collect();
        eventually("the ranges are there", Duration::from_secs(5), || {
            let all = NODES.into_iter().map(|node| in_maps(lab, node));
            Ok(all
                .collect::<Result<Vec<_>>>()?
                .iter()
                .all(|r| *r == wanted))
        })
        .map(drop)
    };
    with(lab, &manifest(&own), |lab| {
        let mut conversations = Vec::new();
        for way in tcp() {
            let to = load_balancer(way)?;
            conversations.push((
                to.to_string(),
                lab.conversation("client", Protocol::Tcp, to, "pod-a")?,
            ));
            lab.silent("pod-b", Protocol::Tcp, to)?;
            lab.silent("node1", Protocol::Tcp, to)?;
        }
        change(lab, &others)?;
        still(&mut conversations).context("a change of ranges cuts live connections")?;
        for way in tcp() {
            lab.silent("client", Protocol::Tcp, load_balancer(way)?)?;
            lab.answered_by("client", Protocol::Tcp, node_port(lab, way), &["pod-a"])?;
            lab.answered_by("pod-b", Protocol::Tcp, cluster_ip(way)?, &["pod-a"])?;
        }
        change(lab, &others[..1])?;
        for way in tcp() {
            let to = load_balancer(way)?;
            if way.v6 {
                lab.answered_by("client", Protocol::Tcp, to, &["pod-a"])?;
            } else {
                lab.silent("client", Protocol::Tcp, to)?;
            }
        }
        Ok(())
    })
}

/// RANGES of a node.
fn in_maps(lab: &Lab, node: &str) -> Result<BTreeSet<String>> {
    let maps = lab.maps(node)?;
    let v4 = maps
        .v4
        .ranges
        .iter()
        .map(|(source, length)| format!("{}/{length}", V4::addr_to_std(source.addr)));
    let v6 = maps
        .v6
        .ranges
        .iter()
        .map(|(source, length)| format!("{}/{length}", V6::addr_to_std(source.addr)));
    Ok(v4.chain(v6).collect())
}

fn turns(lab: &mut Lab) -> Result<()> {
    with(lab, &algorithm("round-robin"), |lab| {
        for way in tcp() {
            for (from, to) in [
                ("pod-d", cluster_ip(way)?),
                ("client", node_port(lab, way)),
                ("client", load_balancer(way)?),
            ] {
                let spread = spread(&lab.answered(from, Protocol::Tcp, to, 12)?);
                ensure!(
                    spread.len() == 3 && spread.values().all(|n| *n == 4),
                    "{from} → {to}: {spread:?}"
                );
            }
        }
        Ok(())
    })
}

/// A slice of one weight, in both families.
fn slice(pod: &str, weight: u16) -> String {
    let (v4, v6) = match pod {
        "pod-a" => ("10.244.1.10", "fd00:244:1::a"),
        "pod-b" => ("10.244.1.11", "fd00:244:1::b"),
        _ => ("10.244.2.10", "fd00:244:2::a"),
    };
    let of = |family: &str, address: &str| {
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: wish-{pod}-{}
  labels: {{kubernetes.io/service-name: wish}}
  annotations: {{svcplane.io/weight: '{weight}'}}
addressType: {family}
endpoints: [{{addresses: ['{address}']}}]
ports: [{{name: tcp, port: 8080}}]
",
            family.to_lowercase()
        )
    };
    of("IPv4", v4) + &of("IPv6", v6)
}

/// 200 at 3 to 1 are 150, give or take 6.1 (σ).
fn weights(lab: &mut Lab) -> Result<()> {
    let manifest = service("", "") + &slice("pod-a", 3) + &slice("pod-b", 0) + &slice("pod-c", 1);
    with(lab, &manifest, |lab| {
        for way in tcp() {
            for (from, to) in [("pod-d", cluster_ip(way)?), ("client", node_port(lab, way))] {
                let spread = spread(&lab.answered(from, Protocol::Tcp, to, 200)?);
                let of = |pod: &str| spread.get(pod).copied().unwrap_or(0);
                ensure!(
                    (108..=192).contains(&of("pod-a")) && of("pod-b") == 0,
                    "{from} → {to}: {spread:?}"
                );
            }
        }
        Ok(())
    })
}

/// Open connections of `wish`, as the maps of node1 have them.
fn connections(lab: &Lab) -> Result<Vec<u64>> {
    let maps = lab.maps("node1")?;
    let states = maps.v4.backends.iter();
    let of_wish = states.filter(|(key, _)| {
        let label = maps.services.get(&key.service);
        key.port.get() != 0 && label.is_some_and(|label| label.contains("wish"))
    });
    Ok(of_wish.map(|(_, state)| state.connections).collect())
}

fn least(lab: &mut Lab) -> Result<()> {
    let meta = ", annotations: {svcplane.io/algorithm: least-connections}";
    let manifest = |weight| {
        service(meta, "") + &slice("pod-a", 1) + &slice("pod-b", weight) + &slice("pod-c", 1)
    };
    with(lab, &manifest(1), |lab| {
        let to = SocketAddr::new(lab.address("node1", false), 30140);
        let mut conversations = Vec::new();
        for n in 0..18 {
            let conversation = Conversation::open(&lab.topology, "client", Protocol::Tcp, to)?;
            conversations.push((format!("conversation {n}"), conversation));
        }
        still(&mut conversations)?;
        let open = connections(lab)?;
        ensure!(
            open.iter().sum::<u64>() == 18 && open.iter().all(|n| (2..=10).contains(n)),
            "18 connections are counted as {open:?}"
        );
        lab.write(FILE, &manifest(0))?;
        lab.wait_for("pod-b is drained", |backends| {
            let of_wish = |line: &&str| line.contains("wish");
            !backends
                .lines()
                .filter(of_wish)
                .any(|line| line.contains("10.244.1.11"))
        })?;
        still(&mut conversations).context("a weight of 0 cuts live connections")?;
        ensure!(
            connections(lab)? == open,
            "{open:?}, and another count after a change of weight"
        );
        // A recount, by the agent, finds the same.
        std::thread::sleep(Duration::from_secs(11));
        ensure!(connections(lab)? == open, "{open:?}, then another count");
        drop(conversations);
        eventually("no connection is open", Duration::from_secs(15), || {
            Ok(connections(lab)?.iter().sum::<u64>() == 0)
        })
        .map(drop)
    })
}

fn affinity(lab: &mut Lab) -> Result<()> {
    let spec = "  sessionAffinity: ClientIP\n  selector: {all: 'yes'}";
    with(lab, &service("", spec), |lab| {
        for way in tcp() {
            for from in ["client", "pod-d"] {
                let mut answers = lab.answered(from, Protocol::Tcp, load_balancer(way)?, 10)?;
                if from == "client" {
                    answers.extend(lab.answered(from, Protocol::Tcp, node_port(lab, way), 10)?);
                } else {
                    answers.extend(lab.answered(from, Protocol::Tcp, cluster_ip(way)?, 10)?);
                }
                let spread = spread(&answers);
                ensure!(spread.len() == 1, "{from}: {spread:?}");
            }
        }
        let output = lab.agent("node1", "get", &["affinity", "wish"])?;
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let client = lab.address("client", false).to_string();
        ensure!(
            table
                .lines()
                .any(|line| line.contains(&client) && line.contains("wish:tcp")),
            "no {client} in\n{table}"
        );
        Ok(())
    })
}

/// C5 with affinity: the socket hook on the node's own addresses, packets to the ClusterIP, and one entry for both.
fn own_affinity(lab: &mut Lab) -> Result<()> {
    let spec = "  sessionAffinity: ClientIP\n  selector: {all: 'yes'}";
    let udp = ", {name: udp, protocol: UDP, port: 53, targetPort: 5353, nodePort: 30141}]";
    let manifest =
        service("", spec).replace("nodePort: 30140}]", &format!("nodePort: 30140}}{udp}"));
    with(lab, &manifest, |lab| {
        for way in Way::ALL {
            let (node_port, port) = match way.protocol {
                Protocol::Tcp => (30140, 80),
                Protocol::Udp => (30141, 53),
            };
            let own = lab.address("node1", way.v6);
            let mut answers = Vec::new();
            for to in [
                at(way.v6, "127.0.0.1", "::1", node_port)?,
                SocketAddr::new(own, node_port),
                at(way.v6, "10.96.0.40", "fd00:96::40", port)?,
            ] {
                answers.extend(lab.answered("node1", way.protocol, to, 12)?);
            }
            let spread = spread(&answers);
            ensure!(spread.len() == 1, "{own}, port {node_port}: {spread:?}");
        }
        Ok(())
    })
}
