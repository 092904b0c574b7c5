//! What in this network namespace would notice that packets skip the stack.

use std::collections::BTreeMap;
use std::fs;

use crate::dataplane::{Hook, OwnPrograms};
use crate::node::{Device, Devices, strictly_filtered};
use crate::rivals::nftables::{self, Chain, Ruleset};

/// The obstacles, each in a few words; none: the way is free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// For packets between pods of this node, and all others.
    pub of_pods: Vec<String>,
    /// Only for those that come in from outside.
    pub of_outside: Vec<String>,
}

impl Facts {
    /// `hooks`: where programs of ours are; `own`: which these are.
    pub fn read(
        devices: &Devices,
        hooks: &BTreeMap<(u32, Hook), String>,
        own: &OwnPrograms,
    ) -> Self {
        let with = |wanted: Hook| -> Vec<&Device> {
            let of = hooks.keys().filter(|(_, hook)| *hook == wanted);
            of.filter_map(|(ifindex, _)| devices.get(ifindex)).collect()
        };
        let (pods, outside) = (with(Hook::PodIngress), with(Hook::NodeIngress));
        let mut facts = match nftables::read() {
            Ok(ruleset) => Self::of_ruleset(&ruleset),
            Err(error) => Self {
                of_pods: vec![format!("nftables cannot be read ({error})")],
                of_outside: Vec::new(),
            },
        };
        facts.of_pods.extend(legacy_iptables());
        facts.of_pods.extend(ipvs());
        let strict = strictly_filtered(pods.iter().map(|device| device.name.as_str()));
        if let Some(first) = strict.first() {
            facts.of_pods.push(format!(
                "rp_filter is strict (1) for {} devices of pods, {first} among them",
                strict.len()
            ));
        }
        facts.of_pods.extend(with_filters(&pods, own));
        facts.of_outside.extend(with_filters(&outside, own));
        facts
    }

    /// Chains that forwarded packets meet and that are not empty. The Kubernetes network model has no pod's address
    /// translated on the way to another pod, so source NAT is for those that leave; but connection tracking, which goes
    /// with it, shall see both directions of what comes in from outside or none.
    pub(super) fn of_ruleset(ruleset: &Ruleset) -> Self {
        let mut facts = Self::default();
        for chain in &ruleset.chains {
            if !matters(chain) {
                continue;
            }
            let Chain {
                family,
                table,
                name,
                ..
            } = chain;
            let text = format!("nftables chain {family} {table} {name} has rules");
            let source_nat = chain
                .base
                .as_ref()
                .is_some_and(|base| base.kind == "nat" && base.hook == nftables::POSTROUTING);
            if source_nat {
                facts.of_outside.push(text);
            } else {
                facts.of_pods.push(text);
            }
        }
        facts
    }
}

/// Whether forwarded packets meet rules here.
fn matters(chain: &Chain) -> bool {
    let Some(base) = &chain.base else {
        return false;
    };
    let met = match chain.family.to_string().as_str() {
        "ip" | "ip6" | "inet" => matches!(
            base.hook,
            nftables::PREROUTING | nftables::FORWARD | nftables::POSTROUTING
        ),
        "netdev" => true,
        _ => false,
    };
    met && (base.rules > 0 || base.drops)
}

/// Which rules are in a table of the old iptables only its own program could say.
fn legacy_iptables() -> Vec<String> {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]
        .into_iter()
        .flat_map(|path| {
            let tables = fs::read_to_string(path).unwrap_or_default();
            let tables: Vec<&str> = tables.lines().collect();
            (!tables.is_empty()).then(|| format!("legacy iptables has {}", tables.join(", ")))
        })
        .collect()
}

fn ipvs() -> Option<String> {
    const HEAD: usize = 3;
    let services = fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
    (services.lines().count() > HEAD).then(|| "IPVS has virtual services".to_owned())
}

/// Devices where others look at what comes in, after us.
fn with_filters(devices: &[&Device], own: &OwnPrograms) -> Option<String> {
    let device = devices
        .iter()
        .find(|device| device.classified || own.have_company(&device.name, true))?;
    Some(format!(
        "{} has tc programs or filters of others",
        device.name
    ))
}
