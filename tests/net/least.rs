//! What a running agent may still do, and that this is enough.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svc_agent::privileges::{Capability, Held, Set};
use xtask::topology::NODES;
use xtask::traffic::Running;

use crate::Case;
use crate::churn::{pod_b_leaves, pod_d_joins};
use crate::lab::Lab;
use crate::life::new_connections;
use crate::watch::{METRICS, ask};

pub const CASES: &[Case] = &[
    Case {
        name: "a_running_agent_has_let_go_of_what_it_does_not_need",
        settings: &["socket_tcp", "socket_all"],
        test: let_go,
    },
    Case {
        name: "the_capabilities_that_the_chart_asks_for_are_enough",
        settings: &["socket_tcp"],
        test: as_in_a_pod,
    },
    Case {
        name: "an_agent_that_is_told_to_keeps_its_privileges",
        settings: &["socket_tcp"],
        test: keep,
    },
];

/// What all threads of an agent hold, which is the same.
fn held(lab: &Lab, agent: usize) -> Result<(Held, usize)> {
    let pid = lab.agents[agent].process.0.id();
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        // A thread may have just ended.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let held = Held::parse(&status).with_context(|| status.clone())?;
        for set in ["CapInh", "CapAmb"] {
            let none = format!("{set}:\t0000000000000000");
            ensure!(status.contains(&none), "{set} is not empty: {status}");
        }
        all.push(held);
    }
    let first = *all.first().context("no threads")?;
    ensure!(all.iter().all(|held| *held == first), "{all:?}");
    Ok((first, all.len()))
}

fn let_go(lab: &mut Lab) -> Result<()> {
    let ours = Held::read()?.effective;
    let mut names = vec!["DAC_READ_SEARCH", "NET_BIND_SERVICE", "NET_ADMIN"];
    if lab.setting.socket_lb == "all" {
        names.extend(["SYS_PTRACE", "SYS_ADMIN"]);
    }
    names.push("BPF");
    for (number, node) in NODES.into_iter().enumerate() {
        // Metrics are made by a thread of their own.
        let status = ask(lab, node, METRICS, "GET /statusz", "")?;
        let (held, threads) = held(lab, number)?;
        let found: Vec<&str> = held.effective.iter().map(Capability::name).collect();
        ensure!(found == names, "{node} holds {held}, expected {names:?}");
        ensure!(threads > 1, "{node} has {threads} threads");
        ensure!(
            held.no_new_privileges && held.filtered,
            "{node} holds {held}"
        );
        // Who may not change it leaves it as it is.
        if ours.has(Capability::SETPCAP) {
            ensure!(held.bounding == Set::default(), "{:?}", held.bounding);
        }
        let line = format!("\nPrivileges: {held}\n");
        ensure!(status.contains(&line), "{status}");
    }
    // It follows what comes and goes.
    pod_d_joins(lab)?;
    pod_b_leaves(lab)?;
    lab.restore()?;
    new_connections(lab)
}

fn keep(lab: &mut Lab) -> Result<()> {
    let restart = |lab: &mut Lab, more: &[&str]| -> Result<()> {
        lab.agents
            .iter_mut()
            .try_for_each(|agent| agent.stop().map(drop))?;
        lab.start(more)
    };
    restart(lab, &["--privileges=keep"])?;
    let (held, _) = held(lab, 0)?;
    let ours = Held::read()?;
    ensure!(held == ours, "it holds {held}, and the test {ours}");
    new_connections(lab)?;
    restart(lab, &[])
}

/// With the capabilities of the manifest, and with those of `sysAdmin: false`.
fn as_in_a_pod(lab: &mut Lab) -> Result<()> {
    let manifest = include_str!("../../deploy/svcplane.yaml");
    let line = manifest.lines().find_map(|line| {
        let names = line.trim().strip_prefix("add: [")?;
        names.strip_suffix(']')
    });
    let all: Vec<&str> = line.context("no capabilities")?.split(", ").collect();
    ensure!(all.contains(&"SYS_ADMIN"), "{all:?}");
    let fewer: Vec<&str> = all
        .iter()
        .copied()
        .filter(|name| *name != "SYS_ADMIN")
        .collect();
    for names in [all, fewer] {
        lab.agents[0].stop()?;
        let bounding: String = names
            .iter()
            .map(|name| format!(",+{}", name.to_lowercase()))
            .collect();
        let agent = lab.topology.agent("node1", "run")?;
        let mut command = lab.topology.command("node1", "setpriv")?;
        command
            .arg(format!("--bounding-set=-all{bounding}"))
            .arg(agent.get_program())
            .args(agent.get_args())
            .args(lab.flags());
        let log = File::options().append(true).open(&lab.agents[0].log_file)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        lab.agents[0].process = Running(command.spawn()?);
        lab.agents[0].wait_until_healthy(&lab.topology, Duration::from_secs(90))?;
        let (held, _) = held(lab, 0)?;
        let found: Vec<&str> = held.effective.iter().map(Capability::name).collect();
        ensure!(
            found == ["NET_BIND_SERVICE", "NET_ADMIN", "BPF"] && held.filtered,
            "of {names:?} it holds {held}"
        );
        pod_b_leaves(lab)?;
        lab.restore()?;
        new_connections(lab)?;
    }
    lab.agents
        .iter_mut()
        .try_for_each(|agent| agent.stop().map(drop))?;
    lab.start(&[])
}
