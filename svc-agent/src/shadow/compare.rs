//! What kube-proxy does against what svcplane would do, frontend by frontend, in words. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use svc_common::family::Family;
use svc_common::table::{CLUSTER, Source};

use super::proxy::{Fate, Frontend, Key};
use crate::desired::Protocol;
use crate::inspect::{self, Filter, Snapshot};
use crate::plan::{Actual, Label};

/// What `diff --shadow` says. JSON and YAML have these fields, and only ever get more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub same: bool,
    pub differences: Vec<Difference>,
    /// How many frontends (address, port and protocol) either of them has.
    pub frontends: usize,
    /// What is otherwise by design.
    pub notes: Vec<String>,
    /// What svcplane refuses of the objects.
    pub refused: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `address:port/protocol`.
    pub frontend: String,
    /// `namespace/name:port`, where that is known.
    pub service: Option<String>,
    /// `lost`: only kube-proxy serves it; `new`: only svcplane would; `differs`.
    pub change: &'static str,
    pub details: Vec<String>,
}

impl Comparison {
    pub fn new(
        theirs: &BTreeMap<Key, Frontend>,
        ours: &BTreeMap<Key, Frontend>,
        notes: Vec<String>,
        refused: Vec<String>,
    ) -> Self {
        let all: BTreeSet<&Key> = theirs.keys().chain(ours.keys()).collect();
        let differences: Vec<_> = all
            .iter()
            .filter_map(|key| difference(key, theirs.get(key), ours.get(key)))
            .collect();
        Self {
            same: differences.is_empty(),
            differences,
            frontends: all.len(),
            notes,
            refused,
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for Difference {
            frontend,
            service,
            change,
            details,
        } in &self.differences
        {
            let of = service
                .as_ref()
                .map_or(String::new(), |s| format!(" of {s}"));
            text += &match *change {
                "lost" => format!(
                    "- {frontend}{of} is served by kube-proxy, and would not be by svcplane\n"
                ),
                "new" => format!(
                    "+ {frontend}{of} is not served by kube-proxy, and would be by svcplane\n"
                ),
                _ => {
                    let line = |detail: &String| format!("~ {frontend}{of} {detail}\n");
                    details.iter().map(line).collect()
                }
            };
        }
        for refused in &self.refused {
            text += &format!("! {refused}\n");
        }
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        text += &match self.differences.len() {
            0 => format!(
                "svcplane would do what kube-proxy does, at {} frontends\n",
                self.frontends
            ),
            1 => format!("1 of {} frontends would change\n", self.frontends),
            n => format!("{n} of {} frontends would change\n", self.frontends),
        };
        text
    }
}

fn difference(
    (at, proto): &Key,
    theirs: Option<&Frontend>,
    ours: Option<&Frontend>,
) -> Option<Difference> {
    let (change, details) = match (theirs, ours) {
        (Some(_), None) => ("lost", Vec::new()),
        (None, _) => ("new", Vec::new()),
        (Some(theirs), Some(ours)) => ("differs", details(theirs, ours)),
    };
    if change == "differs" && details.is_empty() {
        return None;
    }
    let protocol = Protocol::from_number(*proto);
    let protocol = protocol.map_or_else(|| proto.to_string(), |protocol| protocol.to_string());
    let names = [ours, theirs].into_iter().flatten();
    Some(Difference {
        frontend: format!("{at}/{protocol}"),
        service: names.filter_map(|f| f.service.clone()).next(),
        change,
        details,
    })
}

fn details(theirs: &Frontend, ours: &Frontend) -> Vec<String> {
    let mut details = fate("inside", theirs.inside.as_ref(), ours.inside.as_ref());
    // What is done for ClusterIPs asked from outside is no part of what they promise.
    if !theirs.is_cluster_ip && !ours.is_cluster_ip {
        details.extend(fate(
            "outside",
            theirs.outside.as_ref(),
            ours.outside.as_ref(),
        ));
    }
    if theirs.affinity != ours.affinity {
        let words = |seconds| match seconds {
            0 => "none".into(),
            seconds => format!("{seconds}s"),
        };
        details.push(changed(
            "session affinity",
            words(theirs.affinity),
            words(ours.affinity),
        ));
    }
    if theirs.restricted != ours.restricted {
        let words = |restricted| {
            if restricted {
                "some sources"
            } else {
                "anybody"
            }
        };
        details.push(changed(
            "who may ask",
            words(theirs.restricted),
            words(ours.restricted),
        ));
    }
    details
}

fn changed(what: &str, from: impl Display, to: impl Display) -> String {
    format!("{what}: {from} with kube-proxy, {to} with svcplane")
}

fn fate(from: &str, theirs: Option<&Fate>, ours: Option<&Fate>) -> Vec<String> {
    let asked = format!("asked from {from}");
    let (theirs, ours) = match (theirs, ours) {
        (None, None) => return Vec::new(),
        (theirs, None) => return vec![changed(&asked, end(theirs), "not served")],
        (None, ours) => return vec![changed(&asked, "not served", end(ours))],
        (Some(theirs), Some(ours)) => (theirs, ours),
    };
    let is_empty = |fate: &Fate| fate.backends.is_empty();
    if is_empty(theirs) || is_empty(ours) {
        let (theirs, ours) = (end(Some(theirs)), end(Some(ours)));
        return if theirs == ours {
            Vec::new()
        } else {
            vec![changed(&asked, theirs, ours)]
        };
    }
    let mut details = Vec::new();
    let only = |sign, here: &BTreeSet<SocketAddr>, there| {
        here.difference(there)
            .map(|backend| format!(" {sign}{backend}"))
            .collect::<String>()
    };
    let other =
        only('+', &ours.backends, &theirs.backends) + &only('-', &theirs.backends, &ours.backends);
    if !other.is_empty() {
        details.push(format!("{asked}: endpoints{other}"));
    }
    if let (Some(old), Some(new)) = (theirs.masquerades, ours.masquerades)
        && old != new
        && from == "outside"
    {
        let words = |masquerades| {
            if masquerades {
                "the node"
            } else {
                "the client"
            }
        };
        details.push(changed(
            &format!("{asked}: endpoints see"),
            words(old),
            words(new),
        ));
    }
    details
}

/// Where a connection ends.
fn end(fate: Option<&Fate>) -> String {
    match fate {
        None => "not served".into(),
        Some(fate) if fate.backends.is_empty() && fate.drops => "dropped".into(),
        Some(fate) if fate.backends.is_empty() => "refused".into(),
        Some(fate) => {
            let backends: Vec<_> = fate.backends.iter().map(ToString::to_string).collect();
            backends.join(", ")
        }
    }
}

/// What svcplane's maps would say.
pub fn ours(maps: &Snapshot, dsr: bool) -> BTreeMap<Key, Frontend> {
    let mut found: BTreeMap<Key, Frontend> = BTreeMap::new();
    for item in inspect::service_items(maps, Filter::default()) {
        let label = maps.services.get(&item.id);
        let Some(label) = label.and_then(|text| Label::parse(text)) else {
            continue;
        };
        let backends = if item.slots == 0 {
            BTreeSet::new()
        } else if item.address.is_ipv4() {
            run(&maps.v4, item.first_slot)
        } else {
            run(&maps.v6, item.first_slot)
        };
        let fate = Fate {
            backends,
            drops: item.when_empty == "drop",
            masquerades: Some(item.policy == "cluster" && !dsr),
        };
        let key = (
            SocketAddr::new(item.address, item.port),
            label.protocol.number(),
        );
        let frontend = found.entry(key).or_default();
        frontend.service = Some(label.port.to_string());
        frontend.affinity = item.affinity_seconds.into();
        frontend.restricted |= item.source_ranges.is_some();
        frontend.is_cluster_ip |= item.kind.contains("ClusterIP");
        match item.scope {
            "internal" => frontend.inside = Some(fate),
            _ => frontend.outside = Some(fate),
        }
    }
    found
}

fn run<F: Family>(actual: &Actual<F>, first: u32) -> BTreeSet<SocketAddr> {
    let slots = actual.slots.get(&first).into_iter().flatten();
    slots
        .map(|backend| SocketAddr::new(F::addr_to_std(backend.addr), backend.port.get()))
        .collect()
}

/// Whether clients are told to be pods by their addresses (`--cluster-cidr`).
pub fn knows_pods(maps: &Snapshot) -> bool {
    fn of<F: Family>(actual: &Actual<F>) -> bool {
        let is_cluster = |source: &Source<F>| source.service == CLUSTER;
        actual.ranges.iter().any(|(source, _)| is_cluster(source))
    }
    of(&maps.v4) || of(&maps.v6)
}

/// The addresses of this node that NodePorts may be at.
pub fn own(addresses: impl Iterator<Item = IpAddr>, v6: bool) -> Vec<IpAddr> {
    addresses
        .filter(|ip| ip.is_ipv6() == v6 && !ip.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(backends: &[&str], drops: bool) -> Option<Fate> {
        Some(Fate {
            backends: backends.iter().map(|text| text.parse().unwrap()).collect(),
            drops,
            masquerades: Some(true),
        })
    }

    fn one(inside: Option<Fate>, outside: Option<Fate>) -> BTreeMap<Key, Frontend> {
        let frontend = Frontend {
            inside,
            outside,
            service: Some("shop/web:http".into()),
            ..Frontend::default()
        };
        [(("192.0.2.1:80".parse().unwrap(), 6), frontend)].into()
    }

    fn told(theirs: &BTreeMap<Key, Frontend>, ours: &BTreeMap<Key, Frontend>) -> String {
        Comparison::new(theirs, ours, Vec::new(), Vec::new()).text()
    }

    #[test]
    fn what_is_the_same_is_said_in_one_line() {
        let both = fate(&["10.244.1.7:80"], false);
        let same = one(both.clone(), both);
        assert_eq!(
            told(&same, &same),
            "svcplane would do what kube-proxy does, at 1 frontends\n"
        );
    }

    #[test]
    fn every_sort_of_difference_has_its_words() {
        let two = || fate(&["10.244.1.7:80", "10.244.1.8:80"], false);
        let old = one(two(), two());
        let head = "~ 192.0.2.1:80/TCP of shop/web:http ";
        for (ours, says) in [
            (
                BTreeMap::new(),
                "- 192.0.2.1:80/TCP of shop/web:http is served by kube-proxy, and would not be"
                    .into(),
            ),
            (
                one(fate(&["10.244.1.7:80", "10.244.1.9:80"], false), two()),
                format!("{head}asked from inside: endpoints +10.244.1.9:80 -10.244.1.8:80\n"),
            ),
            (
                one(two(), fate(&[], true)),
                format!(
                    "{head}asked from outside: 10.244.1.7:80, 10.244.1.8:80 with kube-proxy, dropped with svcplane\n"
                ),
            ),
            (
                one(two(), None),
                format!(
                    "{head}asked from outside: 10.244.1.7:80, 10.244.1.8:80 with kube-proxy, not served"
                ),
            ),
        ] {
            let text = told(&old, &ours);
            assert!(text.contains(&says), "no {says:?} in {text}");
            assert!(text.ends_with("1 of 1 frontends would change\n"), "{text}");
        }
        let new = told(&BTreeMap::new(), &old);
        assert!(new.starts_with("+ 192.0.2.1:80/TCP of shop/web:http is not served by kube-proxy"));
        let mut other = old.clone();
        for frontend in other.values_mut() {
            frontend.affinity = 10_800;
            frontend.restricted = true;
            if let Some(fate) = &mut frontend.outside {
                fate.masquerades = Some(false);
            }
        }
        let text = told(&old, &other);
        for says in [
            "session affinity: none with kube-proxy, 10800s with svcplane",
            "who may ask: anybody with kube-proxy, some sources with svcplane",
            "asked from outside: endpoints see: the node with kube-proxy, the client with svcplane",
        ] {
            assert!(text.contains(says), "no {says:?} in {text}");
        }
    }
}
