//! Random scenarios: small clusters in which the rules meet often, and packets to whatever in them could be asked for.

mod service;
mod slice;

use proptest::bool::weighted;
use proptest::prelude::*;

use super::scenario::{Scenario, Stage};
use super::{ask, world};
use crate::model::objects::*;
use service::service;

const SERVICES: usize = 4;

pub fn scenario() -> impl Strategy<Value = Scenario> {
    let stage = (
        cluster(),
        any::<bool>(),
        prop::collection::vec(any::<u64>(), 1..100),
    );
    let keep = prop::collection::vec(any::<bool>(), SERVICES);
    (node(), prop::collection::vec((stage, keep), 1..4)).prop_map(|(node, drawn)| {
        let mut stages: Vec<Stage> = Vec::new();
        for ((mut cluster, all_at_once, numbers), keep) in drawn {
            if let Some(before) = stages.last() {
                keep_some(&mut cluster, &before.cluster, &keep);
            }
            let steps = ask::steps(&cluster, &node, &numbers);
            stages.push(Stage {
                cluster,
                all_at_once,
                steps,
            });
        }
        Scenario { node, stages }
    })
}

/// Leaves some Services and their slices as they were.
fn keep_some(cluster: &mut Cluster, before: &Cluster, keep: &[bool]) {
    for (i, _) in keep.iter().enumerate().filter(|(_, keep)| **keep) {
        let prefix = format!("service-{i}");
        cluster.services.retain(|s| s.name != prefix);
        cluster.slices.retain(|s| !s.name.starts_with(&prefix));
        let services = before.services.iter().filter(|s| s.name == prefix);
        cluster.services.extend(services.cloned());
        let slices = before.slices.iter().filter(|s| s.name.starts_with(&prefix));
        cluster.slices.extend(slices.cloned());
    }
}

fn node() -> impl Strategy<Value = Node> {
    let both = |host| [world::at(false, host), world::at(true, host)];
    let cidrs = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let nodeport_addresses = prop_oneof![
        3 => Just(None),
        1 => Just(Some(cidrs(&["10.3.0.0/16"]))),
        1 => Just(Some(cidrs(&["10.0.0.0/8", "fd00::/64"]))),
        1 => Just(Some(cidrs(&["192.0.2.0/24", "fd00:3::1/128"]))),
    ];
    let cluster_cidr = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(cidrs(&["10.1.0.0/16", "10.2.0.0/16", "fd00:2::/32"])),
        1 => Just(cidrs(&["fd00::/13"])),
        1 => Just(cidrs(&["10.2.0.2/32"])),
    ];
    (
        weighted(0.8),
        nodeport_addresses,
        weighted(0.2),
        cluster_cidr,
        weighted(0.15),
    )
        .prop_map(
            move |(
                has_zone,
                nodeport_addresses,
                external_cluster_ip,
                cluster_cidr,
                masquerade_all,
            )| Node {
                name: "node1".into(),
                zone: has_zone.then(|| "zone-a".into()),
                ips: both(world::NODE).into(),
                addresses: [both(world::NODE), both(world::NODE_SECOND)].concat(),
                nodeport_addresses,
                external_cluster_ip,
                cluster_cidr,
                masquerade_all,
            },
        )
}

fn cluster() -> impl Strategy<Value = Cluster> {
    prop::collection::vec(prop::option::weighted(0.9, service()), SERVICES).prop_map(|drawn| {
        let mut cluster = Cluster::default();
        for (i, service) in drawn.into_iter().enumerate() {
            if let Some(drawn) = service {
                drawn.into_cluster(i, &mut cluster);
            }
        }
        cluster
    })
}
