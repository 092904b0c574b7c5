//! `get services`: one line per frontend.

use serde::Serialize;
use svc_common::family::Family;
use svc_common::table::{Frontend, address_flags, backend_flags, frontend_flags};

use super::{Filter, Item, Snapshot, at, frontends, protocol, scope, spread};
use crate::plan::{Actual, Range};

/// One frontend of a service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServiceItem {
    pub namespace: String,
    pub name: String,
    /// Name of the port; empty when it has none.
    pub port_name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`; with a comma when the address may be both.
    pub kind: String,
    pub address: std::net::IpAddr,
    pub port: u16,
    pub protocol: String,
    /// Who is answered: `internal` (pods and this node) or `external`.
    pub scope: &'static str,
    /// How many different backends can be picked.
    pub backends: usize,
    /// How many of these run on this node.
    pub local_backends: usize,
    /// `random`, `round-robin`, `maglev` or `least-connections`.
    pub algorithm: &'static str,
    /// What a client is told when there are no backends: `refuse` (at once) or `drop`.
    pub when_empty: &'static str,
    /// Whose endpoints answer: those of the `cluster`, or the `local` ones of this node (traffic policy).
    pub policy: &'static str,
    /// Who may ask (loadBalancerSourceRanges); `null`: anybody.
    pub source_ranges: Option<Vec<String>>,
    /// Session affinity in seconds, 0 for none.
    pub affinity_seconds: u32,
    pub first_slot: u32,
    pub slots: u32,
    /// Key of the SERVICES map.
    pub id: u32,
}

impl Item for ServiceItem {
    const COLUMNS: &'static [&'static str] =
        &["NAMESPACE", "NAME", "KIND", "FRONTEND", "SCOPE", "BACKENDS"];
    const WIDE: &'static [&'static str] = &[
        "LOCAL",
        "ALGORITHM",
        "POLICY",
        "EMPTY",
        "AFFINITY",
        "SOURCES",
        "SLOTS",
        "ID",
    ];

    fn cells(&self) -> Vec<String> {
        let owner = super::Owner {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port_name.clone(),
        };
        let affinity = if self.affinity_seconds == 0 {
            "-".into()
        } else {
            format!("{}s", self.affinity_seconds)
        };
        let sources = match &self.source_ranges {
            None => "any".into(),
            Some(ranges) if ranges.is_empty() => "none".into(),
            Some(ranges) => ranges.join(","),
        };
        let slots = if self.slots == 0 {
            "-".into()
        } else {
            format!("{}+{}", self.first_slot, self.slots)
        };
        vec![
            self.namespace.clone(),
            owner.cell(),
            self.kind.clone(),
            format!("{}/{}", at(self.address, self.port), self.protocol),
            self.scope.into(),
            self.backends.to_string(),
            self.local_backends.to_string(),
            self.algorithm.into(),
            self.policy.into(),
            self.when_empty.into(),
            affinity,
            sources,
            slots,
            self.id.to_string(),
        ]
    }
}

pub(super) fn items(snapshot: &Snapshot, filter: Filter<'_>) -> Vec<ServiceItem> {
    let mut items = family(&snapshot.v4, snapshot, filter);
    items.extend(family(&snapshot.v6, snapshot, filter));
    items.sort();
    items
}

fn family<F: Family>(
    actual: &Actual<F>,
    snapshot: &Snapshot,
    filter: Filter<'_>,
) -> Vec<ServiceItem> {
    let item =
        |(owner, key, frontend): (super::Owner, &svc_common::table::FrontendKey<F>, &Frontend)| {
            let spread = spread(actual, frontend);
            let flag = |bit, yes, no| if frontend.flags & bit != 0 { yes } else { no };
            ServiceItem {
                namespace: owner.namespace,
                name: owner.name,
                port_name: owner.port,
                kind: kind(
                    frontend.flags,
                    actual.addresses.get(&key.addr).copied().unwrap_or(0),
                ),
                address: F::addr_to_std(key.addr),
                port: key.port.get(),
                protocol: protocol(key.proto),
                scope: scope(key.scope),
                backends: spread.len(),
                local_backends: spread
                    .keys()
                    .filter(|b| b.flags & backend_flags::LOCAL != 0)
                    .count(),
                algorithm: algorithm(frontend.flags),
                policy: flag(frontend_flags::LOCAL_SET, "local", "cluster"),
                source_ranges: source_ranges(actual, frontend),
                when_empty: flag(frontend_flags::DROP_WHEN_EMPTY, "drop", "refuse"),
                affinity_seconds: frontend.affinity,
                first_slot: frontend.first,
                slots: frontend.count,
                id: frontend.service,
            }
        };
    frontends(actual, &snapshot.services, filter)
        .map(item)
        .collect()
}

/// Which field of the Service a frontend comes from, as far as its flags and its address tell.
fn kind(flags: u32, address: u32) -> String {
    if flags & frontend_flags::NODE_PORT != 0 {
        return "NodePort".into();
    }
    if flags & frontend_flags::LOAD_BALANCER != 0 {
        return "LoadBalancer".into();
    }
    let names = [
        (address_flags::CLUSTER_IP, "ClusterIP"),
        (address_flags::EXTERNAL, "ExternalIP"),
    ];
    let kinds: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| address & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    if kinds.is_empty() {
        "?".into()
    } else {
        kinds.join(",")
    }
}

/// Who may ask; `None`: anybody.
fn source_ranges<F: Family>(actual: &Actual<F>, frontend: &Frontend) -> Option<Vec<String>> {
    let range = |(source, length): &Range<F>| format!("{}/{length}", F::addr_to_std(source.addr));
    let of_port = actual
        .ranges
        .iter()
        .filter(|(source, _)| source.service == frontend.service);
    (frontend.flags & frontend_flags::SOURCE_RANGES != 0).then(|| of_port.map(range).collect())
}

fn algorithm(flags: u32) -> &'static str {
    match flags {
        _ if flags & frontend_flags::MAGLEV != 0 => "maglev",
        _ if flags & frontend_flags::ROUND_ROBIN != 0 => "round-robin",
        _ if flags & frontend_flags::LEAST_CONNECTIONS != 0 => "least-connections",
        _ => "random",
    }
}
