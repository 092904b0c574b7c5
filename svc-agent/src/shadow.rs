//! `svc-agent diff --shadow`: what svcplane would change on a node that kube-proxy serves. Nothing is loaded or written:
//! the state is made from the cluster's objects as `run` makes it, and held against kube-proxy's rules.

mod compare;
mod iptables;
mod proxy;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::config::{Dsr, Run};
use crate::diff::planned;
use crate::look;
use crate::node::Devices;
use crate::plan::{Capacities, Planner};
use crate::rivals;
use crate::run;
use crate::source::once::{self, Of};
use proxy::{Frontend, Key};

pub use compare::Comparison;

/// One look at both.
pub fn look_once(options: &Run) -> Result<Comparison> {
    let devices = look::devices().context("reading the node's devices")?;
    let theirs = theirs(&devices)?;
    let node_name = options
        .node_name()
        .context("reading the host's name; give --hostname-override")?;
    let place = look::place(&crate::config::Look {
        kubeconfig: options.kubeconfig.clone(),
        manifests: options.manifests.clone(),
        hostname_override: None,
    });
    let cluster = run::cluster(options, node_name);
    let objects = look::block_on(once::read(&place, cluster, Of::All))??;
    let planner = Planner::empty(Capacities::default());
    let planned = planned(planner, objects, options, &devices);
    let dsr = options.dsr != Dsr::Off;
    let mut notes = Vec::new();
    if !options.external_cluster_ip {
        notes.push(
            "ClusterIPs are not answered from outside of the cluster, which kube-proxy does; --external-cluster-ip is as it is"
                .into(),
        );
    }
    if dsr {
        notes.push("--dsr shows endpoints the client, and lets them answer it directly".into());
    }
    if !compare::knows_pods(&planned.maps) {
        notes.push(
            "pods of other nodes whose packets come in by an outside device count as outside; give --cluster-cidr as kube-proxy has it"
                .into(),
        );
    }
    let refused: BTreeSet<String> = planned.refusals.iter().map(ToString::to_string).collect();
    Ok(Comparison::new(
        &theirs,
        &compare::ours(&planned.maps, dsr),
        notes,
        refused.into_iter().collect(),
    ))
}

/// What kube-proxy does, by whichever of its rules are here.
fn theirs(devices: &Devices) -> Result<BTreeMap<Key, Frontend>> {
    let own = |v6| {
        let addresses = devices.values().flat_map(|device| &device.addresses);
        compare::own(addresses.copied(), v6)
    };
    let mut found = BTreeMap::new();
    let mut is_here = false;
    for v6 in [false, true] {
        let rules = rules::read(v6).context(
            "reading kube-proxy's nftables rules over netlink; this needs CAP_NET_ADMIN: run it with sudo",
        )?;
        let frontends = match rules {
            Some(rules) => proxy::frontends(&rules, v6, &own(v6)),
            None => match iptables::read(v6)? {
                Some(rules) => iptables::frontends(&rules, &own(v6)),
                None => continue,
            },
        };
        is_here = true;
        found.extend(frontends);
    }
    if is_here {
        return Ok(found);
    }
    let others = rivals::find(devices);
    match others.first() {
        Some(sign) => bail!(
            "kube-proxy has no rules of its nftables or iptables mode in this network namespace, and others cannot be compared: {sign}"
        ),
        None => bail!(
            "no rules of kube-proxy are in this network namespace; run it on a node that kube-proxy serves, as root"
        ),
    }
}

#[cfg(test)]
fn backends(fate: &Option<proxy::Fate>) -> Vec<String> {
    let backends = fate.iter().flat_map(|fate| &fate.backends);
    backends.map(ToString::to_string).collect()
}
