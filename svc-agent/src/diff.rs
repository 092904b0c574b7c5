//! `svc-agent diff`: the maps against what they should say by the API server or a folder of manifests. What the agent
//! would do, planned and not done: a plan that is empty is a node whose maps are right.

mod compare;
mod settings;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::config::{Diff, Look, Run};
use crate::dataplane::Pinned;
use crate::desired::Refusal;
use crate::inspect::Snapshot;
use crate::look;
use crate::node::Devices;
use crate::plan::Planner;
use crate::reconcile::Reconciler;
use crate::run;
use crate::shadow;
use crate::source::once::{self, Objects, Of};

pub use compare::{Comparison, Difference};

/// What differs may be on its way: the agent needs a moment.
const MOMENT: Duration = Duration::from_secs(1);

/// Prints what differs.
pub fn diff(options: &Diff) -> Result<ExitCode> {
    if options.shadow {
        let look = || shadow::look_once(&options.run);
        let comparison = twice(look, |comparison| comparison.same)?;
        look::print(&comparison, options.output, shadow::Comparison::text)?;
        return Ok(code(comparison.same));
    }
    let pinned = Pinned::open(&options.run.bpf_root)?;
    let look = || look_once(options, &pinned);
    let comparison = twice(look, Comparison::is_same)?;
    look::print(&comparison, options.output, Comparison::text)?;
    Ok(code(comparison.is_same()))
}

fn twice<T>(look: impl Fn() -> Result<T>, same: impl Fn(&T) -> bool) -> Result<T> {
    let found = look()?;
    if same(&found) {
        return Ok(found);
    }
    std::thread::sleep(MOMENT);
    look()
}

fn code(same: bool) -> ExitCode {
    if same {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn look_once(options: &Diff, pinned: &Pinned) -> Result<Comparison> {
    let mut run = options.run.clone();
    settings::complete(&mut run, pinned)?;
    let devices = look::devices().context("reading the node's devices")?;
    let node_name = run
        .node_name()
        .context("reading the host's name; give --hostname-override")?;
    let place = look::place(&Look {
        kubeconfig: run.kubeconfig.clone(),
        manifests: run.manifests.clone(),
        hostname_override: None,
    });
    let cluster = run::cluster(&run, node_name);
    let objects = look::block_on(once::read(&place, cluster, Of::All))??;
    settings::complete_node_ip(&mut run, pinned, &objects.cluster, &devices)?;
    let maps = pinned.read()?;
    let capacities = pinned.capacities()?;
    let planner = Planner::from_actual(
        maps.v4.clone(),
        maps.v6.clone(),
        maps.services.clone(),
        capacities,
    );
    Ok(compare(&maps, planner, objects, &run, &devices))
}

/// What the maps say against what they would after the agent's next round. Pure, but for the sockets of the node.
fn compare(
    maps: &Snapshot,
    planner: Planner,
    objects: Objects,
    options: &Run,
    devices: &Devices,
) -> Comparison {
    let Planned {
        maps: wanted,
        writes,
        refusals,
    } = planned(planner, objects, options, devices);
    Comparison::new(maps, &wanted, writes, refusals)
}

/// What the maps will say when the agent has done what it has to do.
pub(crate) struct Planned {
    pub(crate) maps: Snapshot,
    /// How many entries it would write.
    pub(crate) writes: usize,
    pub(crate) refusals: Vec<Refusal>,
}

/// The agent's next rounds, planned and not done.
pub(crate) fn planned(
    planner: Planner,
    objects: Objects,
    options: &Run,
    devices: &Devices,
) -> Planned {
    let node_ips = run::node_ips(options, &objects.cluster, devices);
    let (facts, all) = run::facts(options, &objects.cluster, devices, &node_ips);
    let mut reconciler = Reconciler::new(objects.cluster, planner).with_listening(run::listening);
    reconciler.set_cluster_ranges(options.cluster_cidr.iter().copied());
    reconciler.set_facts(facts, all);
    let mut refusals = objects.refusals;
    let mut writes = 0;
    loop {
        let round = reconciler.round();
        writes += round.changes.len();
        refusals.extend(round.refusals.into_values().flatten());
        if round.changes.is_empty() && !round.more {
            break;
        }
        let batch = reconciler.planner.close_generation();
        reconciler.planner.release(batch);
    }
    let maps = Snapshot {
        v4: reconciler.planner.v4().clone(),
        v6: reconciler.planner.v6().clone(),
        services: reconciler.planner.labels().clone(),
    };
    Planned {
        maps,
        writes,
        refusals,
    }
}
