//! Services and endpoints change while clients come and talk.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::agents::eventually;
use xtask::traffic::{Answer, Conversation, Outcome, Probe, Protocol, spread};

use crate::Case;
use crate::lab::{Lab, backends_of};
use crate::paths::{PODS, Way};

const BOTH_PATHS: &[&str] = &["socket_tcp", "packets_only", "xdp_native"];

pub const CASES: &[Case] = &[
    Case {
        name: "a_new_pod_gets_its_part",
        settings: BOTH_PATHS,
        test: scale_up,
    },
    Case {
        name: "a_pod_not_ready_keeps_its_connections_and_gets_no_more",
        settings: BOTH_PATHS,
        test: unready,
    },
    Case {
        name: "a_deleted_service_answers_nobody",
        settings: BOTH_PATHS,
        test: deleted,
    },
    Case {
        name: "the_first_endpoint_is_found_at_once",
        settings: BOTH_PATHS,
        test: first_endpoint,
    },
    Case {
        name: "no_connection_fails_while_backends_come_and_go",
        settings: BOTH_PATHS,
        test: coming_and_going,
    },
];

const POD_B: &str = "{ip: 'fd00:244:1::b'}], conditions: [{type: Ready, status: 'True'}]";

pub fn pod_d_joins(lab: &Lab) -> Result<()> {
    lab.edit("all: 'not yet'", "all: 'yes'")?;
    lab.wait_for("pod-d has joined", |backends| {
        backends_of(backends, "all:tcp") == 8
    })
}

pub fn pod_b_leaves(lab: &Lab) -> Result<()> {
    lab.edit(POD_B, &POD_B.replace("True", "False"))?;
    lab.wait_for("pod-b has left", |backends| {
        !backends.contains("10.244.1.11") && !backends.contains("1::b")
    })
}

fn scale_up(lab: &mut Lab) -> Result<()> {
    pod_d_joins(lab)?;
    for way in Way::ALL {
        for (from, to) in [
            ("pod-a", way.cluster_ip(1)),
            ("client", way.node_port(lab, "node1", 1)),
        ] {
            lab.answered_afresh(
                from,
                way.protocol,
                to,
                &["pod-a", "pod-b", "pod-c", "pod-d"],
            )?;
        }
    }
    lab.restore()?;
    for way in Way::ALL {
        lab.answered_afresh("pod-a", way.protocol, way.cluster_ip(1), &PODS)?;
    }
    Ok(())
}

fn unready(lab: &mut Lab) -> Result<()> {
    let mut conversations = Vec::new();
    for way in Way::ALL
        .into_iter()
        .filter(|way| way.protocol == Protocol::Tcp)
    {
        for (from, to) in [
            ("pod-a", way.cluster_ip(1)),
            ("pod-d", way.cluster_ip(1)),
            ("node2", way.cluster_ip(1)),
            ("client", way.node_port(lab, "node1", 1)),
            ("client", way.node_port(lab, "node2", 1)),
        ] {
            let conversation = lab.conversation(from, way.protocol, to, "pod-b")?;
            conversations.push((format!("{from} → {to}"), conversation));
        }
    }
    pod_b_leaves(lab)?;
    for way in Way::ALL {
        for (from, to) in [
            ("pod-d", way.cluster_ip(1)),
            ("client", way.node_port(lab, "node2", 1)),
        ] {
            lab.answered_afresh(from, way.protocol, to, &["pod-a", "pod-c"])?;
        }
    }
    still(&mut conversations)?;
    lab.restore()?;
    still(&mut conversations)
}

/// Every one of them is answered.
pub fn still(conversations: &mut [(String, Conversation)]) -> Result<()> {
    for (name, conversation) in conversations {
        let answer = conversation.say().with_context(|| name.clone())?;
        ensure!(answer.by().is_some(), "{name}: {answer:?}");
    }
    Ok(())
}

fn deleted(lab: &mut Lab) -> Result<()> {
    lab.delete("kind: Service\nmetadata: {name: one-c}")?;
    lab.wait_for("the Service has gone", |backends| {
        !backends.contains("one-c")
    })?;
    for way in Way::ALL {
        // Nobody has the address any more: who answers for it, if anybody, is for the network to say.
        let probe = Probe::new(way.protocol, way.cluster_ip(3))
            .connected()
            .timeout(Duration::from_millis(200));
        let answers = probe.run(&lab.topology, "pod-d")?;
        ensure!(answers.iter().all(|a| a.by().is_none()), "{answers:?}");
        for node in ["node1", "node2"] {
            lab.refused("client", way.protocol, way.node_port(lab, node, 3))?;
        }
        lab.answered_afresh("pod-d", way.protocol, way.cluster_ip(2), &["pod-a"])?;
    }
    lab.restore()?;
    for way in Way::ALL {
        lab.answered_afresh("pod-d", way.protocol, way.cluster_ip(3), &["pod-c"])?;
    }
    Ok(())
}

fn first_endpoint(lab: &mut Lab) -> Result<()> {
    let mut udp = Vec::new();
    for way in Way::ALL {
        for (from, to) in [
            ("pod-a", way.cluster_ip(4)),
            ("client", way.node_port(lab, "node1", 4)),
        ] {
            lab.refused(from, way.protocol, to)?;
            if way.protocol == Protocol::Udp {
                let mut conversation = Conversation::open(&lab.topology, from, way.protocol, to)?;
                let answer = conversation.say()?;
                ensure!(
                    answer.outcome == Outcome::Refused,
                    "{from} → {to}: {answer:?}"
                );
                udp.push((format!("{from} → {to}"), conversation));
            }
        }
    }
    lab.edit("selector: {no: such}", "selector: {all: 'yes'}")?;
    let probe = Probe::tcp(Way::ALL[0].cluster_ip(4));
    eventually(
        "the first endpoint is found",
        Duration::from_secs(1),
        || {
            Ok(probe
                .run(&lab.topology, "pod-a")?
                .iter()
                .all(|a| a.by().is_some()))
        },
    )?;
    lab.wait_for("all families have endpoints", |backends| {
        backends_of(backends, "none:udp") == 6 && backends_of(backends, "none:tcp") == 6
    })?;
    for way in Way::ALL {
        lab.answered_afresh(
            "client",
            way.protocol,
            way.node_port(lab, "node1", 4),
            &PODS,
        )?;
    }
    // The very sockets that were refused (D8).
    still(&mut udp)?;
    lab.restore()?;
    for way in Way::ALL {
        lab.refused("pod-a", way.protocol, way.cluster_ip(4))?;
    }
    Ok(())
}

fn coming_and_going(lab: &mut Lab) -> Result<()> {
    let mut streams = Vec::new();
    for way in Way::ALL {
        for (from, to) in [
            ("pod-d", way.cluster_ip(1)),
            ("client", way.node_port(lab, "node1", 1)),
        ] {
            let probe = Probe::new(way.protocol, to)
                .count(150)
                .pause(Duration::from_millis(4));
            let mut command = probe.command(&lab.topology, from)?;
            streams.push((
                format!("{from} → {to}"),
                command.stdout(Stdio::piped()).spawn()?,
            ));
        }
    }
    for _ in 0..3 {
        pod_d_joins(lab)?;
        pod_b_leaves(lab)?;
        lab.restore()?;
    }
    for (name, stream) in streams {
        let output = stream.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        let answers = text
            .lines()
            .map(str::parse)
            .collect::<Result<Vec<Answer>>>()?;
        ensure!(answers.len() == 150, "{name}: {} answers", answers.len());
        ensure!(
            answers.iter().all(|a| a.by().is_some()),
            "{name}: {:?}",
            spread(&answers)
        );
    }
    Ok(())
}
