//! Backends go while sockets stay (D6, D7, D8), and kube-proxy's connections live through the change (`--takeover`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::agents::eventually;
use xtask::topology::NODES;
use xtask::traffic::{Conversation, Outcome, Protocol};

use crate::Case;
use crate::churn::{pod_b_leaves, still};
use crate::lab::{Lab, backends_of};
use crate::paths::{PODS, Way};

pub const CASES: &[Case] = &[
    Case {
        name: "udp_sockets_leave_a_gone_backend_with_the_next_datagram",
        settings: &["socket_tcp", "packets_only", "xdp_native"],
        test: next_datagram,
    },
    Case {
        name: "connected_udp_sockets_of_a_gone_backend_are_aborted",
        settings: &["socket_all"],
        test: aborted,
    },
    Case {
        name: "a_socket_that_was_refused_reaches_the_first_endpoint",
        settings: &["socket_all", "socket_tcp"],
        test: refused_then_answered,
    },
    Case {
        name: "established_connections_to_a_deleted_pod_go_on",
        settings: &["packets_only"],
        test: left_alone,
    },
    Case {
        name: "clients_of_a_gone_backend_are_reset_if_wanted",
        settings: &["packets_only"],
        test: reset,
    },
    Case {
        name: "connections_of_another_proxy_live_through_a_takeover",
        settings: &["packets_only", "socket_tcp"],
        test: takeover,
    },
    Case {
        name: "connections_live_on_with_another_proxy_when_they_are_handed_over",
        settings: &["packets_only", "xdp_native"],
        test: hand_over,
    },
];

fn udp_ways() -> impl Iterator<Item = Way> {
    Way::ALL.into_iter().filter(|way| way.is_udp())
}

/// A conversation by an unconnected socket with one backend of several.
fn unconnected(lab: &Lab, from: &str, way: Way, by: &str) -> Result<Conversation> {
    for _ in 0..60 {
        let to = way.cluster_ip(1);
        let mut conversation = Conversation::unconnected(&lab.topology, from, to)?;
        if conversation.say()?.by() == Some(by) {
            return Ok(conversation);
        }
    }
    bail!("none of 60 sockets got {by}")
}

fn next_datagram(lab: &mut Lab) -> Result<()> {
    let mut conversations = Vec::new();
    for way in udp_ways() {
        let connected = |from, to| lab.conversation(from, Protocol::Udp, to, "pod-b");
        conversations.push(("pod-d", connected("pod-d", way.cluster_ip(1))?));
        conversations.push((
            "client",
            connected("client", way.node_port(lab, "node1", 1))?,
        ));
        conversations.push(("node1", connected("node1", way.cluster_ip(1))?));
        conversations.push(("pod-a", unconnected(lab, "pod-a", way, "pod-b")?));
    }
    pod_b_leaves(lab)?;
    for (from, conversation) in &mut conversations {
        for _ in 0..3 {
            let answer = conversation.say()?;
            ensure!(
                matches!(answer.by(), Some("pod-a" | "pod-c")),
                "{from} after pod-b has left: {answer:?}"
            );
        }
    }
    lab.restore()
}

/// The sweep may be resting for a second after its last one, and then looks at every namespace.
const RESTED: Duration = Duration::from_secs(3);

/// The next datagram of a conversation fails at once, from a moment on that comes within `time`.
fn told(conversation: &mut Conversation, time: Duration) -> Result<()> {
    eventually("an aborted socket", time, || {
        let start = Instant::now();
        let answer = conversation.say()?;
        let Outcome::Failed(_) = answer.outcome else {
            return Ok(false);
        };
        let took = start.elapsed();
        ensure!(took < Duration::from_millis(500), "only after {took:?}");
        Ok(true)
    })
    .map(drop)
}

fn aborted(lab: &mut Lab) -> Result<()> {
    for way in udp_ways() {
        let mut gone = Vec::new();
        let mut staying = Vec::new();
        for (from, to) in [
            ("pod-d", way.cluster_ip(1)),
            ("node1", way.cluster_ip(1)),
            ("node1", way.node_port(lab, "node1", 1)),
        ] {
            gone.push((
                from,
                to,
                lab.conversation(from, Protocol::Udp, to, "pod-b")?,
            ));
            let other = lab.conversation(from, Protocol::Udp, to, "pod-c")?;
            staying.push((format!("{from} → {to}"), other));
        }
        pod_b_leaves(lab)?;
        for (from, to, mut conversation) in gone {
            told(&mut conversation, RESTED).with_context(|| format!("{from} → {to}"))?;
            let mut anew = Conversation::open(&lab.topology, from, Protocol::Udp, to)?;
            let answer = anew.say()?;
            ensure!(
                matches!(answer.by(), Some("pod-a" | "pod-c")),
                "{from} → {to} anew: {answer:?}"
            );
        }
        still(&mut staying)?;
        at_home(lab)?;
        lab.restore()?;
    }
    Ok(())
}

/// A thread of the agent that stayed in a pod's network namespace would keep that alive.
fn at_home(lab: &Lab) -> Result<()> {
    for agent in &lab.agents {
        let home = lab.topology.place(agent.node).namespace_file();
        let home = fs::metadata(home)?.ino();
        let tasks = format!("/proc/{}/task", agent.process.0.id());
        for task in fs::read_dir(tasks)? {
            let at = fs::metadata(task?.path().join("ns/net"))?.ino();
            ensure!(at == home, "a thread of {} stays elsewhere", agent.node);
        }
    }
    Ok(())
}

fn refused_then_answered(lab: &mut Lab) -> Result<()> {
    let mut conversations = Vec::new();
    for way in udp_ways() {
        for from in ["pod-a", "node1"] {
            let to = way.cluster_ip(4);
            let mut socket = Conversation::unconnected(&lab.topology, from, to)?;
            let answer = socket.say()?;
            // An unconnected socket hears of a refusal only from the socket hook.
            ensure!(answer.by().is_none(), "{from} → {to}: {answer:?}");
            conversations.push((format!("{from} → {to}"), socket));
        }
    }
    lab.edit("selector: {no: such}", "selector: {all: 'yes'}")?;
    lab.wait_for("all families have endpoints", |backends| {
        backends_of(backends, "none:udp") == 6
    })?;
    still(&mut conversations)?;
    lab.restore()
}

/// Conversations with pod-b by packets, over TCP.
fn with_pod_b(lab: &Lab) -> Result<Vec<(String, Conversation)>> {
    let mut all = Vec::new();
    for way in Way::ALL.into_iter().filter(|way| !way.is_udp()) {
        for (from, to) in [
            ("pod-d", way.cluster_ip(1)),
            ("node1", way.cluster_ip(1)),
            ("client", way.node_port(lab, "node2", 1)),
        ] {
            let conversation = lab.conversation(from, way.protocol, to, "pod-b")?;
            all.push((format!("{from} → {to}"), conversation));
        }
    }
    Ok(all)
}

/// Its process goes on, as one does that is shutting down.
fn delete_pod_b(lab: &Lab) -> Result<()> {
    lab.delete("name: pod-b")?;
    lab.wait_for("pod-b is deleted", |backends| {
        !backends.contains("10.244.1.11") && !backends.contains("1::b")
    })
}

fn left_alone(lab: &mut Lab) -> Result<()> {
    let mut conversations = with_pod_b(lab)?;
    delete_pod_b(lab)?;
    for _ in 0..3 {
        still(&mut conversations)?;
    }
    lab.restore()
}

fn reset(lab: &mut Lab) -> Result<()> {
    restart(lab, &["--reset-gone-backends"])?;
    let conversations = with_pod_b(lab)?;
    delete_pod_b(lab)?;
    for (what, mut conversation) in conversations {
        let answer = conversation.say()?;
        ensure!(
            matches!(answer.outcome, Outcome::Failed(_) | Outcome::Refused),
            "{what}: {answer:?}, expected a reset"
        );
        ensure!(
            answer.took < Duration::from_millis(500),
            "{what}: {answer:?}"
        );
    }
    lab.restore()?;
    restart(lab, &[])
}

fn restart(lab: &mut Lab, more: &[&str]) -> Result<()> {
    for agent in &mut lab.agents {
        agent.stop()?;
    }
    lab.start(more)
}

/// Every kind of connection of the packet path, and the way back to another proxy.
fn hand_over(lab: &mut Lab) -> Result<()> {
    // As on any node where something asks: else the node's own connections would be new ones to the other proxy's rules.
    for line in [
        "nft add table inet tracking",
        "nft add chain inet tracking out { type filter hook output priority 0 ; }",
        "nft add rule inet tracking out ct state invalid counter",
    ] {
        lab.tool("node1", line)?;
    }
    let mut conversations = Vec::new();
    for way in Way::ALL {
        for (from, to) in [
            ("pod-a", way.cluster_ip(1)),
            ("node1", way.cluster_ip(1)),
            ("client", way.node_port(lab, "node1", 1)),
        ] {
            let one = lab.conversation(from, way.protocol, to, "pod-c")?;
            conversations.push((format!("{from} → {to}"), one));
        }
    }
    lab.agents[0].stop()?;
    let refused = lab.agent("node1", "cleanup", &["--hand-over"])?;
    ensure!(
        refused.status.code() == Some(1),
        "without another proxy: {refused:?}"
    );
    still_by(&mut conversations, "pod-c")?;
    let rules = lab.topology.scratch().join("other-proxy.nft");
    // By its name it is known to be one.
    fs::write(&rules, RULES.replace("other-proxy", "kube-proxy"))?;
    lab.tool("node1", &format!("nft -f {}", rules.display()))?;
    let output = lab.agent("node1", "cleanup", &["--hand-over"])?;
    let outcome = handed_over(lab, &output, &mut conversations);
    for table in ["kube-proxy", "tracking"] {
        let _ = lab.tool("node1", &format!("nft delete table inet {table}"));
    }
    outcome?;
    lab.agents[1].stop()?;
    lab.start(&[])
}

fn handed_over(
    lab: &Lab,
    output: &Output,
    conversations: &mut [(String, Conversation)],
) -> Result<()> {
    ensure!(output.status.success(), "{output:?}");
    // What was not handed over would get pod-b by the rules, or nobody.
    still_by(conversations, "pod-c")?;
    for way in Way::ALL {
        lab.answered_by("pod-a", way.protocol, way.cluster_ip(1), &["pod-b"])?;
    }
    Ok(())
}

/// What kube-proxy does to reach pod-b by the ClusterIP from pods and processes of node1.
const RULES: &str = "
table inet other-proxy {
  chain services {
    ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.244.1.11:8080
    ip daddr 10.96.0.1 udp dport 53 dnat ip to 10.244.1.11:5353
    ip6 daddr fd00:96::1 tcp dport 80 dnat ip6 to [fd00:244:1::b]:8080
    ip6 daddr fd00:96::1 udp dport 53 dnat ip6 to [fd00:244:1::b]:5353
  }
  chain prerouting { type nat hook prerouting priority -100; jump services; }
  chain output { type nat hook output priority -100; jump services; }
}
";

fn takeover(lab: &mut Lab) -> Result<()> {
    for agent in &mut lab.agents {
        agent.stop()?;
    }
    for node in NODES {
        let output = lab.agent(node, "cleanup", &[])?;
        ensure!(output.status.success(), "cleanup: {output:?}");
    }
    let rules = lab.topology.scratch().join("other-proxy.nft");
    std::fs::write(&rules, RULES)?;
    lab.tool("node1", &format!("nft -f {}", rules.display()))?;
    let outcome = taken_over(lab);
    // Gone already where all went well.
    let _ = lab.tool("node1", "nft delete table inet other-proxy");
    outcome?;
    restart(lab, &[])
}

fn taken_over(lab: &mut Lab) -> Result<()> {
    let mut conversations = Vec::new();
    for way in Way::ALL {
        for from in ["pod-a", "node1"] {
            let to = way.cluster_ip(1);
            let mut one = Conversation::open(&lab.topology, from, way.protocol, to)?;
            let answer = one.say()?;
            ensure!(
                answer.by() == Some("pod-b"),
                "{from} → {to} through the other proxy: {answer:?}"
            );
            conversations.push((format!("{from} → {to}"), one));
        }
    }
    lab.start(&["--takeover"])?;
    still_by(&mut conversations, "pod-b")?;
    // What is new is ours. Without the socket hooks the node's own packets meet the rules first, while they are there.
    let anew = |lab: &Lab, from| {
        Way::ALL.into_iter().try_for_each(|way| {
            lab.answered_afresh(from, way.protocol, way.cluster_ip(1), &PODS)
                .map(drop)
        })
    };
    anew(lab, "pod-a")?;
    still_by(&mut conversations, "pod-b")?;
    drop(conversations);
    lab.tool("node1", "nft delete table inet other-proxy")?;
    anew(lab, "node1")?;
    anew(lab, "pod-a")
}

fn still_by(conversations: &mut [(String, Conversation)], by: &str) -> Result<()> {
    for (what, conversation) in conversations {
        for _ in 0..2 {
            let answer = conversation.say()?;
            ensure!(answer.by() == Some(by), "{what}: {answer:?}");
        }
    }
    Ok(())
}
