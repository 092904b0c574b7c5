//! Two states of the maps, and how they differ, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Serialize;
use svc_common::family::{Addr, Family};
use svc_common::table::{BackendState, CLUSTER, Source, address_flags, backend_state};

use crate::desired::Refusal;
use crate::inspect::{self, Filter, ServiceItem, Snapshot};
use crate::plan::Actual;

/// What `diff` says. JSON and YAML have these fields, and only ever get more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub same: bool,
    pub differences: Vec<Difference>,
    /// How many map entries the agent would write or remove.
    pub writes: usize,
    /// What is refused of the objects: it is in the maps of nobody.
    pub refused: Vec<String>,
    /// How many Services are in the maps.
    pub services: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// `frontend`, `endpoint`, `address`, `range` or `service`.
    pub kind: &'static str,
    /// Which one.
    pub entry: String,
    /// `missing` in the maps, there `extra`ly, or `differs`.
    pub change: &'static str,
    /// How it differs.
    pub details: Vec<String>,
}

/// Entries with what is to be said about each, by aspect.
type Entries = BTreeMap<(&'static str, String), BTreeMap<&'static str, String>>;

impl Comparison {
    pub fn new(maps: &Snapshot, wanted: &Snapshot, writes: usize, refusals: Vec<Refusal>) -> Self {
        let differences = differences(&entries(maps), &entries(wanted));
        let refused: BTreeSet<String> = refusals.iter().map(ToString::to_string).collect();
        Self {
            same: writes == 0,
            differences,
            writes,
            refused: refused.into_iter().collect(),
            services: maps.services.len(),
        }
    }

    pub const fn is_same(&self) -> bool {
        self.same
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for Difference {
            kind,
            entry,
            change,
            details,
        } in &self.differences
        {
            text += &match *change {
                "missing" => format!("+ {kind} {entry} is missing in the maps\n"),
                "extra" => format!("- {kind} {entry} is in the maps, and should not be\n"),
                _ => format!("~ {kind} {entry}: {}\n", details.join("; ")),
            };
        }
        for refused in &self.refused {
            text += &format!("! {refused}\n");
        }
        let writes = self.writes;
        text += &match (self.same, self.differences.len()) {
            (true, _) => format!(
                "the maps say what they should: {} service ports\n",
                self.services
            ),
            (false, 0) => {
                format!("{writes} map entries would be written, which people cannot see\n")
            }
            (false, 1) => format!("1 difference; {writes} map entries would be written\n"),
            (false, n) => format!("{n} differences; {writes} map entries would be written\n"),
        };
        text
    }
}

fn differences(maps: &Entries, wanted: &Entries) -> Vec<Difference> {
    let keys: BTreeSet<_> = maps.keys().chain(wanted.keys()).collect();
    let difference = |key: &(&'static str, String)| {
        let (change, details) = match (maps.get(key), wanted.get(key)) {
            (None, _) => ("missing", Vec::new()),
            (_, None) => ("extra", Vec::new()),
            (Some(is), Some(should)) if is == should => return None,
            (Some(is), Some(should)) => ("differs", details(is, should)),
        };
        Some(Difference {
            kind: key.0,
            entry: key.1.clone(),
            change,
            details,
        })
    };
    keys.into_iter().filter_map(difference).collect()
}

fn details(is: &BTreeMap<&str, String>, should: &BTreeMap<&str, String>) -> Vec<String> {
    should
        .iter()
        .filter(|(aspect, value)| is.get(*aspect) != Some(value))
        .map(|(aspect, value)| {
            let was = is.get(aspect).map_or("", String::as_str);
            match *aspect {
                "backends" => format!("backends {}", list_difference(was, value)),
                _ => format!("{aspect} is {was}, should be {value}"),
            }
        })
        .collect()
}

/// `+new -old`.
fn list_difference(is: &str, should: &str) -> String {
    let items = |text: &str| -> BTreeSet<String> {
        text.split(' ')
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (is, should) = (items(is), items(should));
    let new = should.difference(&is).map(|item| format!("+{item}"));
    let old = is.difference(&should).map(|item| format!("-{item}"));
    new.chain(old).collect::<Vec<_>>().join(" ")
}

fn entries(snapshot: &Snapshot) -> Entries {
    let mut entries = Entries::new();
    for label in snapshot.services.values() {
        entries.insert(("service", label.clone()), BTreeMap::new());
    }
    for item in inspect::service_items(snapshot, Filter::default()) {
        let key = format!(
            "{} of {}/{} asked from {}",
            place(&item),
            item.namespace,
            item.name,
            if item.scope == "internal" {
                "inside"
            } else {
                "outside"
            }
        );
        let backends = match item.address {
            std::net::IpAddr::V4(_) => backends(&snapshot.v4, &item),
            std::net::IpAddr::V6(_) => backends(&snapshot.v6, &item),
        };
        let about = BTreeMap::from([
            ("kind", item.kind.clone()),
            ("port name", item.port_name.clone()),
            ("policy", item.policy.to_owned()),
            ("algorithm", item.algorithm.to_owned()),
            ("when empty", item.when_empty.to_owned()),
            ("affinity", format!("{}s", item.affinity_seconds)),
            (
                "sources",
                item.source_ranges
                    .as_ref()
                    .map_or_else(|| "any".into(), |r| r.join(",")),
            ),
            ("backends", backends),
        ]);
        entries.insert(("frontend", key), about);
    }
    add_family(&snapshot.v4, snapshot, &mut entries);
    add_family(&snapshot.v6, snapshot, &mut entries);
    entries
}

fn place(item: &ServiceItem) -> String {
    format!(
        "{}/{}",
        SocketAddr::new(item.address, item.port),
        item.protocol
    )
}

/// Whom a frontend sends to, with the number of slots where they are not alike.
fn backends<F: Family>(actual: &Actual<F>, item: &ServiceItem) -> String {
    let frontend = actual.frontends.iter().find(|(key, frontend)| {
        F::addr_to_std(key.addr) == item.address
            && key.port.get() == item.port
            && frontend.service == item.id
            && (key.scope == 0) == (item.scope == "internal")
    });
    let run = frontend.and_then(|(_, frontend)| actual.run(frontend));
    let names: BTreeSet<String> = run
        .unwrap_or_default()
        .iter()
        .map(|backend| {
            SocketAddr::new(F::addr_to_std(backend.addr), backend.port.get()).to_string()
        })
        .collect();
    names.into_iter().collect::<Vec<_>>().join(" ")
}

fn add_family<F: Family>(actual: &Actual<F>, snapshot: &Snapshot, entries: &mut Entries) {
    let unnamed = |id: u32| {
        snapshot
            .services
            .get(&id)
            .cloned()
            .unwrap_or_else(|| format!("id {id}"))
    };
    for (key, state) in &actual.backends {
        if key.addr == F::Addr::UNSPECIFIED {
            continue;
        }
        let at = SocketAddr::new(F::addr_to_std(key.addr), key.port.get());
        let entry = format!("{at} of {}", unnamed(key.service));
        entries.insert(("endpoint", entry), standing(*state));
    }
    for (addr, flags) in &actual.addresses {
        let names = [
            (address_flags::NODE, "node"),
            (address_flags::CLUSTER_IP, "ClusterIP"),
            (address_flags::EXTERNAL, "external"),
            (address_flags::PEER, "other node"),
        ];
        let set = names.iter().filter(|(bit, _)| flags & bit != 0);
        let names: Vec<&str> = set.map(|(_, name)| *name).collect();
        let about = BTreeMap::from([("kind", names.join("+"))]);
        entries.insert(("address", F::addr_to_std(*addr).to_string()), about);
    }
    for (Source { service, addr }, bits) in &actual.ranges {
        let of = match *service {
            CLUSTER => "of the cluster's pods".to_owned(),
            id => format!("of {}", unnamed(id)),
        };
        let entry = format!("{}/{bits} {of}", F::addr_to_std(*addr));
        entries.insert(("range", entry), BTreeMap::new());
    }
}

fn standing(state: BackendState) -> BTreeMap<&'static str, String> {
    let is =
        |bit: u16, yes: &str, no: &str| (if state.flags & bit != 0 { yes } else { no }).to_owned();
    let node = match state.flags & (backend_state::LOCAL | backend_state::REMOTE) {
        backend_state::LOCAL => "this one",
        backend_state::REMOTE => "another one",
        _ => "unknown",
    };
    BTreeMap::from([
        (
            "state",
            is(backend_state::SERVING, "serving", "not serving"),
        ),
        (
            "for policy Cluster it",
            is(backend_state::IN_CLUSTER_SET, "in", "out"),
        ),
        (
            "for policy Local it",
            is(backend_state::IN_LOCAL_SET, "in", "out"),
        ),
        ("node", node.to_owned()),
        ("weight", state.weight.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{
        Algorithm, Endpoint, Frontend, FrontendAddr, FrontendKind, Listed, Port, Protocol, Run,
        Service, ServiceName, ServicePortName,
    };
    use crate::plan::{Capacities, Planner};
    use svc_common::table::Scope;

    fn snapshot(hosts: &[u8], local_set: bool) -> Snapshot {
        let service = ServiceName {
            namespace: "shop".into(),
            name: "web".into(),
        };
        let ip = |host: u8| std::net::IpAddr::from([10, 244, 1, host]);
        let listed = |host: &u8| {
            let listed = Listed {
                serving: true,
                in_cluster_set: true,
                in_local_set: false,
                local: true,
                remote: false,
                weight: 1,
            };
            ((ip(*host), 80), listed)
        };
        let endpoint = |host: &u8| Endpoint {
            ip: ip(*host),
            port: 80,
            local: true,
            weight: 1,
        };
        let addr = FrontendAddr {
            ip: [10, 96, 0, 1].into(),
            port: 80,
            protocol: Protocol::Tcp,
            scope: Scope::Internal,
        };
        let frontend = Frontend {
            kind: FrontendKind::ClusterIp,
            run: 0,
            drop_when_empty: false,
            local_set,
            restricted: false,
        };
        let port = Port {
            name: ServicePortName {
                service: service.clone(),
                port: "http".into(),
            },
            affinity: 0,
            runs: vec![Run {
                algorithm: Algorithm::Random,
                endpoints: hosts.iter().map(endpoint).collect(),
            }],
            frontends: BTreeMap::from([(addr, frontend)]),
            listed: hosts.iter().map(listed).collect(),
            ranges: BTreeSet::new(),
        };
        let mut planner = Planner::empty(Capacities::default());
        planner.plan(&service, Some(&Service { ports: vec![port] }));
        Snapshot {
            v4: planner.v4().clone(),
            v6: planner.v6().clone(),
            services: planner.labels().clone(),
        }
    }

    #[test]
    fn what_differs_is_said_by_name() {
        let (maps, wanted) = (snapshot(&[5, 6], false), snapshot(&[6, 7], true));
        let comparison = Comparison::new(&maps, &wanted, 7, Vec::new());
        assert_eq!(
            comparison.text(),
            "\
- endpoint 10.244.1.5:80 of shop/web:http/TCP is in the maps, and should not be
+ endpoint 10.244.1.7:80 of shop/web:http/TCP is missing in the maps
~ frontend 10.96.0.1:80/TCP of shop/web asked from inside: backends +10.244.1.7:80 -10.244.1.5:80; policy is cluster, should be local
3 differences; 7 map entries would be written
"
        );
    }

    #[test]
    fn equal_maps_and_empty_maps_have_their_words() {
        let maps = snapshot(&[5], false);
        let same = Comparison::new(&maps, &maps, 0, Vec::new());
        assert!(same.is_same());
        assert_eq!(
            same.text(),
            "the maps say what they should: 1 service ports\n"
        );
        let empty = Comparison::new(&Snapshot::default(), &maps, 5, Vec::new());
        assert_eq!(
            empty.text(),
            "\
+ address 10.96.0.1 is missing in the maps
+ endpoint 10.244.1.5:80 of shop/web:http/TCP is missing in the maps
+ frontend 10.96.0.1:80/TCP of shop/web asked from inside is missing in the maps
+ service shop/web:http/TCP is missing in the maps
4 differences; 5 map entries would be written
"
        );
    }
}
