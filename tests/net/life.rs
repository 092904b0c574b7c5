//! The agent comes and goes, pods come and go, and at last everything goes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::agents::eventually;
use xtask::topology::NODES;
use xtask::traffic::{Conversation, Probe};

use crate::Case;
use crate::churn::{pod_b_leaves, still};
use crate::lab::Lab;
use crate::paths::{PODS, Way};

const MOST: &[&str] = &["socket_tcp", "packets_only", "xdp_native"];
/// Every kind of hook is in one of them.
const HOOKS: &[&str] = &["xdp_native", "xdp_generic"];

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
        name: "hooks_follow_the_devices_of_pods",
        settings: &["packets_only"],
        test: devices,
    },
    Case {
        name: "what_cannot_start_says_why_in_one_line",
        settings: &["socket_tcp"],
        test: cannot_start,
    },
    Case {
        name: "unloading_at_exit_leaves_nothing",
        settings: HOOKS,
        test: unload,
    },
    Case {
        name: "cleanup_leaves_nothing",
        settings: &["socket_tcp", "xdp_native"],
        test: cleanup,
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

fn new_connections(lab: &Lab) -> Result<()> {
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
fn links(lab: &Lab, node: &str) -> BTreeSet<String> {
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

/// Fails with this code, and one line (beside its log) that says so.
fn fails(output: &Output, code: i32, says: &[&str]) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code),
        "{}, expected {code}: {text}",
        output.status
    );
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("svc-agent: "))
        .collect();
    ensure!(
        code == 2 || lines.len() == 1,
        "{} lines of error: {text}",
        lines.len()
    );
    ensure!(
        says.iter().all(|words| text.contains(words)),
        "{says:?} is not said: {text}"
    );
    Ok(())
}

fn cannot_start(lab: &mut Lab) -> Result<()> {
    let folder = lab.manifests.display().to_string();
    let run =
        |more: &[&str]| lab.agent("node1", "run", &[&["--manifests", &folder], more].concat());
    fails(
        &run(&["--socket-lb", "never"])?,
        2,
        &["--socket-lb", "tcp, all, host-only, off"],
    )?;
    fails(&run(&["--no-such-flag"])?, 2, &["--no-such-flag"])?;
    fails(
        &run(&["--healthz-bind-address", "nowhere"])?,
        2,
        &["IP:PORT"],
    )?;
    fails(
        &run(&["--kubeconfig", "x"])?,
        2,
        &["--kubeconfig", "--manifests"],
    )?;
    // The running agent has the port.
    fails(&run(&[])?, 1, &["10256"])?;
    let free = ["--healthz-bind-address", "", "--metrics-bind-address", ""];
    let elsewhere = lab.topology.scratch().display().to_string();
    fails(
        &run(&[&free[..], &["--bpf-root", &elsewhere]].concat())?,
        1,
        &["not on a bpf file system", "mount"],
    )?;
    fails(
        &run(&[&free[..], &["--cgroup-root", "/no/such"]].concat())?,
        1,
        &["/no/such"],
    )?;
    let missing = lab.agent(
        "node1",
        "run",
        &[&free[..], &["--manifests", "/no/such"]].concat(),
    )?;
    fails(&missing, 1, &["/no/such"])?;
    let missing = lab.agent(
        "node1",
        "run",
        &[&["--kubeconfig", "/no/such"], &free[..]].concat(),
    )?;
    fails(&missing, 1, &["/no/such"])?;

    // Not root: by a copy that nobody may run too.
    let copy = lab.topology.scratch().join("svc-agent");
    fs::copy(xtask::programs::workspace_binary("svc-agent")?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(lab.topology.scratch(), fs::Permissions::from_mode(0o755))?;
    for verb in ["run", "cleanup"] {
        let mut command = std::process::Command::new(&copy);
        fails(&command.arg(verb).uid(65534).output()?, 1, &["root"])?;
    }
    // None of these attempts has hurt the running agents.
    new_connections(lab)
}

/// The ids of the programs that a node's agent has loaded.
fn programs(lab: &Lab, node: usize) -> Result<BTreeSet<u32>> {
    let folder = format!("/proc/{}/fdinfo", lab.agents[node].process.0.id());
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}

fn all_programs(lab: &Lab) -> Result<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for node in 0..NODES.len() {
        all.extend(programs(lab, node)?);
    }
    ensure!(
        all.len() == 2 * 13,
        "the agents hold {} programs",
        all.len()
    );
    Ok(all)
}

/// No pin, no program anywhere, and no traffic.
fn nothing_is_left(lab: &Lab, programs: &BTreeSet<u32>) -> Result<()> {
    for node in NODES {
        let root = lab.topology.bpf_root(node);
        let left = fs::read_dir(&root).into_iter().flatten().count();
        ensure!(left == 0, "{} holds {left} entries", root.display());
        let xdp = lab.tool(node, "ip -d link show eth0")?;
        ensure!(!xdp.contains("prog/xdp"), "{node}: {xdp}");
    }
    // A program that is attached, pinned or open is loaded; the last one goes a moment after its last user.
    eventually("no program is loaded", Duration::from_secs(3), || {
        let loaded = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .map(|program| program.id());
        Ok(!loaded.into_iter().any(|id| programs.contains(&id)))
    })?;
    for way in Way::ALL {
        for (from, to) in [
            ("pod-d", way.cluster_ip(1)),
            ("node1", way.cluster_ip(1)),
            ("client", way.node_port(lab, "node1", 1)),
        ] {
            let probe = Probe::new(way.protocol, to)
                .timeout(Duration::from_millis(150))
                .connected();
            let answers = probe.run(&lab.topology, from)?;
            ensure!(
                answers.iter().all(|answer| answer.by().is_none()),
                "{from} → {to}: {answers:?}"
            );
        }
        lab.answered_afresh("pod-d", way.protocol, way.direct(lab, "pod-a"), &["pod-a"])?;
    }
    Ok(())
}

fn unload(lab: &mut Lab) -> Result<()> {
    lab.agents
        .iter_mut()
        .try_for_each(|agent| agent.stop().map(drop))?;
    lab.start(&["--unload-on-exit"])?;
    let programs = all_programs(lab)?;
    new_connections(lab)?;
    for agent in &mut lab.agents {
        let status = agent.stop()?;
        ensure!(
            status.code() == Some(0),
            "{} ended with {status}",
            agent.node
        );
    }
    nothing_is_left(lab, &programs)?;
    lab.start(&[])?;
    new_connections(lab)
}

fn cleanup(lab: &mut Lab) -> Result<()> {
    let programs = all_programs(lab)?;
    lab.agents
        .iter_mut()
        .try_for_each(|agent| agent.stop().map(drop))?;
    new_connections(lab)?;
    for node in NODES {
        let expected = links(lab, node).len();
        let output = lab.agent(node, "cleanup", &[])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let removed = text
            .strip_prefix("removed ")
            .and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
        ensure!(
            output.status.success() && removed > Some(expected),
            "{text}"
        );
    }
    nothing_is_left(lab, &programs)?;
    let again = lab.agent("node1", "cleanup", &[])?;
    ensure!(again.status.success(), "a second cleanup: {again:?}");
    lab.start(&[])?;
    new_connections(lab)
}
