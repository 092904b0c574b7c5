//! Two states of the lab's manifests that endpoints come and go between. Who leaves still answers, as a pod does that is
//! about to end: a proxy that knows of it only later loses nothing by that.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svc_tests::lab::{Lab, MANIFESTS, Setting, backends_of};
use xtask::agents::{Agent, eventually};
use xtask::topology::{Cni, NODES};

/// Every kind of hook: of sockets, tcx and XDP.
pub const SETTING: Setting = Setting {
    name: "faults",
    socket_lb: "tcp",
    xdp: "native",
    cni: Cni::Ptp,
    dsr: "off",
    host_routing: "auto",
};

/// Made by the first test that needs it.
static LAB: Mutex<Option<Lab>> = Mutex::new(None);

/// Does something in a lab with running agents and the first state of its manifests.
pub fn in_lab(work: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let mut lab = LAB.lock().unwrap_or_else(PoisonError::into_inner);
    let mut running = match lab.take() {
        Some(running) => running,
        None => Lab::new(SETTING)?,
    };
    write(&running, false)?;
    wait_for(&running, false)?;
    let outcome = work(&mut running);
    match outcome {
        // Whatever a failed one has left shall not fail the next one.
        Err(error) => Err(error.context(running.logs())),
        Ok(()) => {
            *lab = Some(running);
            Ok(())
        }
    }
}

/// Removes the lab; nobody drops it when the process exits.
pub fn remove_lab() {
    *LAB.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// On a machine that others have as well.
const SOON: Duration = Duration::from_secs(30);

/// The other state, or the first: pod-d instead of pod-b.
pub fn write(lab: &Lab, other: bool) -> Result<()> {
    let text = if other {
        let pod_b = "{ip: 'fd00:244:1::b'}], conditions: [{type: Ready, status: 'True'}]";
        MANIFESTS
            .replace("all: 'not yet'", "all: 'yes'")
            .replace(pod_b, &pod_b.replace("True", "False"))
    } else {
        MANIFESTS.to_owned()
    };
    lab.write("services.yaml", &text)
}

/// Waits until it is in the maps of both nodes.
pub fn wait_for(lab: &Lab, other: bool) -> Result<Duration> {
    eventually("the change is in the maps", SOON, || {
        for node in NODES {
            let backends = lab.backends(node)?;
            let has = |address: &str| {
                let mut lines = backends.lines();
                lines.any(|line| line.contains("all:tcp") && line.contains(address))
            };
            if backends_of(&backends, "all:tcp") != 6
                || has("10.244.2.11") != other
                || has("10.244.1.11") == other
            {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// How many map entries each agent has written for what it found at its start.
pub fn written_at_start(lab: &Lab) -> Result<Vec<usize>> {
    let of = |log: &str| {
        let line = log.lines().rev().find(|line| line.contains("synced: "))?;
        let (before, _) = line.split_once(" map entries written")?;
        before.rsplit(' ').next()?.parse().ok()
    };
    let agents = lab.agents.iter();
    agents
        .map(|agent| of(&agent.log()).with_context(|| format!("{} has not synced", agent.node)))
        .collect()
}

/// How many map entries running agents write from one state to the other: the most that any of them does.
pub fn cost(lab: &Lab) -> Result<usize> {
    let mut most = 0;
    for other in [true, false] {
        forget_logs(lab)?;
        write(lab, other)?;
        wait_for(lab, other)?;
        for agent in &lab.agents {
            let log = agent.log();
            let wrote = log.lines().filter_map(|line| {
                let (_, after) = line.split_once("wrote ")?;
                after.split(' ').next()?.parse::<usize>().ok()
            });
            most = most.max(wrote.sum());
        }
    }
    ensure!(most > 0, "the agents tell of no writes");
    Ok(most)
}

/// Starts the agents, and does not wait.
pub fn start(lab: &Lab) -> Result<Vec<Agent>> {
    let flags = lab.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    NODES
        .into_iter()
        .map(|node| Agent::start(&lab.topology, node, &flags))
        .collect()
}

pub fn forget_logs(lab: &Lab) -> Result<()> {
    let mut agents = lab.agents.iter();
    Ok(agents.try_for_each(|agent| fs::write(&agent.log_file, ""))?)
}
