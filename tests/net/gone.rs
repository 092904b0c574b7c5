//! What cannot start says why, and what is taken away leaves nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::agents::eventually;
use xtask::topology::NODES;
use xtask::traffic::Probe;

use crate::Case;
use crate::lab::Lab;
use crate::life::{links, new_connections};
use crate::paths::Way;

/// Every kind of hook is in one of them.
const HOOKS: &[&str] = &["xdp_native", "xdp_generic"];

pub const CASES: &[Case] = &[
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
    Case {
        name: "cleanup_names_what_is_left_and_puts_settings_back",
        settings: &["socket_tcp"],
        test: left,
    },
];

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
        all.len() == 2 * 17,
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
    // A program that is attached, pinned or open is loaded; the last one goes a moment after its last user.
    eventually("no program is loaded", Duration::from_secs(3), || {
        let loaded = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .map(|program| program.id());
        Ok(!loaded.into_iter().any(|id| programs.contains(&id)))
    })?;
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
    let text = String::from_utf8_lossy(&again.stdout);
    ensure!(
        again.status.success() && text.starts_with("nothing of svcplane is pinned at "),
        "a second cleanup: {again:?}"
    );
    lab.start(&[])?;
    new_connections(lab)
}

const SETTING: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";

fn left(lab: &mut Lab) -> Result<()> {
    let setting = |lab: &Lab| lab.tool("node1", &format!("cat {SETTING}"));
    let before = setting(lab)?;
    for time in ["23h", "24h"] {
        lab.agents
            .iter_mut()
            .try_for_each(|agent| agent.stop().map(drop))?;
        lab.start(&[&format!("--conntrack-tcp-timeout-established={time}")])?;
    }
    let set = setting(lab)?;
    ensure!(set.trim() == "86400", "the timeout is {set}");

    // An agent that runs has its programs open, whatever is pinned.
    let pid = lab.agents[1].process.0.id();
    let output = lab.agent("node2", "cleanup", &[])?;
    fails(
        &output,
        1,
        &[&format!("process {pid} (svc-agent) has "), "open: end it"],
    )?;
    lab.agents
        .iter_mut()
        .try_for_each(|agent| agent.stop().map(drop))?;

    // What is mounted on cannot be removed.
    let pins = lab.topology.bpf_root("node1").join("v1/links");
    let busy = fs::read_dir(&pins)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("connect4@"));
    let busy = busy.context("no link of connect4 is pinned")?;
    let mount = |options: &[&str]| -> Result<()> {
        let status = std::process::Command::new(options[0])
            .args(&options[1..])
            .arg(&busy)
            .status()?;
        ensure!(status.success(), "{options:?}: {status}");
        Ok(())
    };
    mount(&["mount", "--bind", "/dev/null"])?;
    let output = lab.agent("node1", "cleanup", &[]);
    mount(&["umount"])?;
    fails(
        &output?,
        1,
        &[
            &format!("cannot remove {}: ", busy.display()),
            "1 program (id ",
            "1 link (id ",
        ],
    )?;
    let output = lab.agent("node1", "cleanup", &[])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success()
            && text.starts_with("removed 1 pin from ")
            && text.contains("1 program, ")
            && text.contains("nothing is left"),
        "{output:?}"
    );
    ensure!(
        setting(lab)? == before,
        "the timeout was {before} and is {}",
        setting(lab)?
    );
    lab.start(&[])?;
    new_connections(lab)
}
