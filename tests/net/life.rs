//! The agent comes and goes, pods come and go: traffic stays.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::agents::eventually;
use xtask::topology::NODES;
use xtask::traffic::{Conversation, Probe, Running};

use crate::Case;
use crate::churn::{pod_b_leaves, still};
use crate::lab::Lab;
use crate::paths::{PODS, Way};

const MOST: &[&str] = &["socket_tcp", "packets_only", "xdp_native"];

pub const CASES: &[Case] = &[
    Case {
        name: "traffic_goes_on_after_sigterm_and_a_restart_writes_nothing",
        settings: MOST,
        test: terminated,
    },
    Case {
        name: "traffic_goes_on_after_sigkill_and_a_restart_writes_nothing",
        settings: MOST,
        test: killed,
    },
    Case {
        name: "what_changed_while_no_agent_ran_is_followed",
        settings: MOST,
        test: while_away,
    },
    Case {
        name: "an_agent_outlives_whoever_reads_its_log",
        settings: &["packets_only"],
        test: unread,
    },
    Case {
        name: "hooks_follow_the_devices_of_pods",
        settings: &["packets_only"],
        test: devices,
    },
];

/// Conversations by every path.
fn conversations(lab: &Lab) -> Result<Vec<(String, Conversation)>> {
    let mut all = Vec::new();
    for way in Way::ALL {
        for (from, to) in [
            ("pod-d", way.cluster_ip(2)),
            ("pod-b", way.cluster_ip(2)),
            ("node2", way.cluster_ip(2)),
            ("client", way.node_port(lab, "node1", 2)),
            ("client", way.node_port(lab, "node2", 2)),
        ] {
            let conversation = Conversation::open(&lab.topology, from, way.protocol, to)?;
            all.push((format!("{from} → {to}"), conversation));
        }
    }
    still(&mut all)?;
    Ok(all)
}

pub fn new_connections(lab: &Lab) -> Result<()> {
    for way in Way::ALL {
        lab.answered_afresh("pod-d", way.protocol, way.cluster_ip(1), &PODS)?;
        lab.answered_afresh(
            "client",
            way.protocol,
            way.node_port(lab, "node2", 1),
            &PODS,
        )?;
    }
    Ok(())
}

fn terminated(lab: &mut Lab) -> Result<()> {
    outlived(lab, |lab| {
        for agent in &mut lab.agents {
            let start = Instant::now();
            let status = agent.stop()?;
            ensure!(
                status.code() == Some(0),
                "{} ended with {status}",
                agent.node
            );
            ensure!(
                start.elapsed() < Duration::from_secs(2),
                "{} took {:?} to end",
                agent.node,
                start.elapsed()
            );
        }
        Ok(())
    })
}

fn killed(lab: &mut Lab) -> Result<()> {
    outlived(lab, |lab| {
        lab.agents.iter_mut().for_each(|agent| agent.process.kill());
        Ok(())
    })
}

fn outlived(lab: &mut Lab, end: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let maps = |lab: &Lab| {
        NODES
            .into_iter()
            .map(|node| Ok(format!("{:?}", lab.maps(node)?)))
            .collect::<Result<Vec<_>>>()
    };
    let pins = |lab: &Lab| NODES.map(|node| links(lab, node));
    let mut conversations = conversations(lab)?;
    let (maps_before, pins_before) = (maps(lab)?, pins(lab));
    end(lab)?;
    still(&mut conversations)?;
    new_connections(lab)?;
    for agent in &lab.agents {
        fs::write(&agent.log_file, "")?;
    }
    lab.start(&[])?;
    still(&mut conversations)?;
    new_connections(lab)?;
    ensure!(maps(lab)? == maps_before, "the maps are not as they were");
    ensure!(pins(lab) == pins_before, "the links are not as they were");
    for agent in &lab.agents {
        let log = agent.log();
        ensure!(
            log.contains(" 0 map entries written"),
            "{} wrote something",
            agent.node
        );
        let complaint = log.lines().find(|line| {
            !line.contains("default/none") && (line.contains("WARN") || line.contains("ERROR"))
        });
        ensure!(complaint.is_none(), "{}: {complaint:?}", agent.node);
    }
    Ok(())
}

fn unread(lab: &mut Lab) -> Result<()> {
    lab.agents[0].stop()?;
    let (reader, writer) = std::io::pipe()?;
    let mut command = lab.topology.agent("node1", "run")?;
    command
        .args(lab.flags())
        .stdout(Stdio::null())
        .stderr(writer);
    lab.agents[0].process = Running(command.spawn()?);
    // Else this process would keep the pipe open.
    drop(command);
    drop(reader);
    lab.agents[0].wait_until_healthy(&lab.topology, Duration::from_secs(90))?;
    // Each change is a line of the log.
    pod_b_leaves(lab)?;
    lab.restore()?;
    ensure!(
        lab.agents[0].process.0.try_wait()?.is_none(),
        "it has ended"
    );
    lab.agents[0].stop()?;
    lab.agents.clear();
    lab.start(&[])
}

fn while_away(lab: &mut Lab) -> Result<()> {
    let mut conversations = conversations(lab)?;
    lab.agents
        .iter_mut()
        .try_for_each(|agent| agent.stop().map(drop))?;
    let text = fs::read_to_string(lab.manifests.join("services.yaml"))?;
    lab.delete("kind: Service\nmetadata: {name: one-c}")?;
    let without_c = fs::read_to_string(lab.manifests.join("services.yaml"))?;
    lab.start(&[])?;
    pod_b_leaves(lab)?;
    lab.wait_for("the Service has gone", |backends| {
        !backends.contains("one-c")
    })?;
    for way in Way::ALL {
        lab.answered_afresh(
            "pod-d",
            way.protocol,
            way.cluster_ip(1),
            &["pod-a", "pod-c"],
        )?;
        lab.refused("client", way.protocol, way.node_port(lab, "node1", 3))?;
    }
    still(&mut conversations)?;
    ensure!(text != without_c, "nothing had changed");
    lab.restore()?;
    still(&mut conversations)
}

/// The names of a node's pinned links.
pub fn links(lab: &Lab, node: &str) -> BTreeSet<String> {
    let names = fs::read_dir(lab.topology.bpf_root(node).join("v1/links"))
        .into_iter()
        .flatten()
        .flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn ifindex(lab: &Lab, place: &str, device: &str) -> Result<String> {
    let line = lab.tool(place, &format!("ip -o link show {device}"))?;
    Ok(line.split(':').next().context("no index")?.to_owned())
}

/// A pod's device goes with the pod; a new one comes with the next.
fn devices(lab: &mut Lab) -> Result<()> {
    let of = |index: &str| {
        let end = format!("@{index}");
        links(lab, "node2")
            .into_iter()
            .filter(|name| name.ends_with(&end))
            .collect::<Vec<_>>()
    };
    let pod = lab.topology.place("pod-d").clone();
    let old = ifindex(lab, "node2", "vethpod-d")?;
    ensure!(of(&old).len() == 2, "{:?}", links(lab, "node2"));
    lab.tool("node2", "ip link del vethpod-d")?;
    eventually(
        "the pins of the device have gone",
        Duration::from_secs(2),
        || Ok(of(&old).is_empty()),
    )?;

    let namespace = &pod.namespace;
    for line in [
        format!("ip link add vethpod-d type veth peer name eth0 netns {namespace}"),
        "ip addr add 10.244.2.1/32 dev vethpod-d".into(),
        "ip addr add fe80::1/64 dev vethpod-d nodad".into(),
        "ip link set vethpod-d up".into(),
        format!("ip route add {}/32 dev vethpod-d", pod.v4),
        format!("ip route add {}/128 dev vethpod-d", pod.v6),
    ] {
        lab.tool("node2", &line)?;
    }
    for line in [
        format!("ip addr add {}/32 dev eth0", pod.v4),
        format!("ip addr add {}/128 dev eth0 nodad", pod.v6),
        "ip link set eth0 up".into(),
        "ip route add 10.244.2.1 dev eth0 scope link".into(),
        "ip route add default via 10.244.2.1".into(),
        "ip route add default via fe80::1 dev eth0".into(),
    ] {
        lab.tool("pod-d", &line)?;
    }
    let new = ifindex(lab, "node2", "vethpod-d")?;
    eventually(
        "the new device has its hooks",
        Duration::from_secs(2),
        || Ok(of(&new).len() == 2),
    )?;
    eventually(
        "the new pod reaches a Service",
        Duration::from_secs(2),
        || {
            let probe = Probe::tcp(Way::ALL[2].cluster_ip(2)).timeout(Duration::from_millis(200));
            Ok(probe
                .run(&lab.topology, "pod-d")?
                .iter()
                .all(|answer| answer.by().is_some()))
        },
    )?;
    for way in Way::ALL {
        lab.answered_afresh("pod-d", way.protocol, way.cluster_ip(1), &PODS)?;
    }
    Ok(())
}
