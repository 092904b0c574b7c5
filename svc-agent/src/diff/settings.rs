//! Settings of the running agent that the maps know: whoever asks need not say them again.

use std::net::IpAddr;

use anyhow::Result;
use svc_common::family::Family;
use svc_common::table::{CLUSTER, node_flags};

use crate::cluster::Cluster;
use crate::config::{Cidr, Dsr, Run};
use crate::dataplane::Pinned;
use crate::node::Devices;
use crate::plan::Actual;
use crate::run;

/// Fills in what was not given.
pub(super) fn complete(options: &mut Run, pinned: &Pinned) -> Result<()> {
    let flags = pinned.config()?.flags;
    options.external_cluster_ip |= flags & node_flags::EXTERNAL_CLUSTER_IP != 0;
    if options.dsr == Dsr::Off && flags & node_flags::DSR_IPIP != 0 {
        options.dsr = Dsr::Ipip;
    }
    if options.dsr == Dsr::Off && flags & node_flags::DSR_GENEVE != 0 {
        options.dsr = Dsr::Geneve;
    }
    if options.cluster_cidr.is_empty() && flags & node_flags::CLUSTER_CIDR != 0 {
        let maps = pinned.read()?;
        let of_pods = pod_ranges(&maps.v4).chain(pod_ranges(&maps.v6));
        options.cluster_cidr = of_pods.collect();
    }
    Ok(())
}

fn pod_ranges<F: Family>(actual: &Actual<F>) -> impl Iterator<Item = Cidr> {
    let of_pods = actual
        .ranges
        .iter()
        .filter(|(source, _)| source.service == CLUSTER);
    of_pods.filter_map(|(source, bits)| {
        format!("{}/{bits}", F::addr_to_std(source.addr))
            .parse()
            .ok()
    })
}

/// The node's addresses, where the agent has others than it would find by itself: it was told them.
pub(super) fn complete_node_ip(
    options: &mut Run,
    pinned: &Pinned,
    cluster: &Cluster,
    devices: &Devices,
) -> Result<()> {
    if !options.node_ip.is_empty() {
        return Ok(());
    }
    let known = pinned.device_addresses()?;
    let told = |v6: bool| known.get(&(0, v6)).copied();
    let found = run::node_ips(options, cluster, devices);
    let first = |v6: bool| {
        found
            .iter()
            .find(|ip: &&IpAddr| ip.is_ipv6() == v6)
            .copied()
    };
    if [false, true].iter().any(|v6| told(*v6) != first(*v6)) {
        options.node_ip = [told(false), told(true)].into_iter().flatten().collect();
    }
    Ok(())
}
