//! `top`: what each service port does, between two looks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use svc_common::family::{Addr, Family};
use svc_common::table::{Flow, NodeConfig, backend_state};

use super::{Filter, Flows, Item, Owner, Snapshot};
use crate::config::SortBy;
use crate::plan::{Actual, Label};
use crate::sockets::Live;
use crate::tally::{Count, Counts};

/// What is seen at one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// On whatever clock.
    pub at: Duration,
    /// None: nothing is counted.
    pub counts: Option<Counts>,
    /// Open connections by service id.
    pub live: BTreeMap<u32, usize>,
}

/// One service port. Rates are of the time between the two looks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopItem {
    pub namespace: String,
    pub name: String,
    pub port_name: String,
    pub protocol: String,
    /// New ones; `null`: not counted.
    pub connections_per_second: Option<f64>,
    /// Open ones of this node: flows of the packet path, and sockets where these can be looked for.
    pub live_connections: usize,
    /// How many endpoints get new connections.
    pub backends: usize,
    /// To the backends (`in`) and back (`out`); `null`: not counted.
    pub packets_in_per_second: Option<f64>,
    pub packets_out_per_second: Option<f64>,
    pub bytes_in_per_second: Option<f64>,
    pub bytes_out_per_second: Option<f64>,
    /// All that were ever counted; `null`: not counted.
    pub connections: Option<u64>,
}

impl Item for TopItem {
    const COLUMNS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "PROTOCOL",
        "CONN/S",
        "LIVE",
        "BACKENDS",
        "PACKETS/S",
        "BYTES/S",
    ];
    const WIDE: &'static [&'static str] = &[
        "PACKETS IN/S",
        "PACKETS OUT/S",
        "BYTES IN/S",
        "BYTES OUT/S",
        "CONNECTIONS",
    ];

    fn cells(&self) -> Vec<String> {
        let owner = Owner {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port_name.clone(),
        };
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".into(), short);
        let total = self.connections;
        vec![
            self.namespace.clone(),
            owner.cell(),
            self.protocol.clone(),
            rate(self.connections_per_second),
            self.live_connections.to_string(),
            self.backends.to_string(),
            rate(self.packets_per_second()),
            rate(self.bytes_per_second()),
            rate(self.packets_in_per_second),
            rate(self.packets_out_per_second),
            rate(self.bytes_in_per_second),
            rate(self.bytes_out_per_second),
            total.map_or_else(|| "-".into(), |n| n.to_string()),
        ]
    }
}

impl TopItem {
    fn packets_per_second(&self) -> Option<f64> {
        Some(self.packets_in_per_second? + self.packets_out_per_second?)
    }

    fn bytes_per_second(&self) -> Option<f64> {
        Some(self.bytes_in_per_second? + self.bytes_out_per_second?)
    }
}

/// As short as a column wants it: `0`, `3.5`, `12.0k`, `7.2M`.
fn short(rate: f64) -> String {
    match rate {
        0.0 => "0".into(),
        r if r < 999.95 => format!("{r:.1}"),
        r if r < 999_950.0 => format!("{:.1}k", r / 1e3),
        r if r < 999_950_000.0 => format!("{:.1}M", r / 1e6),
        r => format!("{:.1}G", r / 1e9),
    }
}

/// Every service port that the filter lets through, the busiest first.
pub fn items(
    snapshot: &Snapshot,
    before: &Look,
    now: &Look,
    filter: Filter<'_>,
    sort: SortBy,
) -> Vec<TopItem> {
    let seconds = now.at.saturating_sub(before.at).as_secs_f64();
    let mut backends = BTreeMap::new();
    count_backends(&snapshot.v4, &mut backends);
    count_backends(&snapshot.v6, &mut backends);
    let ports = snapshot.services.iter().filter_map(|(id, text)| {
        let owner = Owner::of(*id, &snapshot.services);
        let label = Label::parse(text)?;
        filter.shows(&owner).then_some((*id, owner, label))
    });
    let mut items: Vec<TopItem> = ports
        .map(|(id, owner, label)| {
            let of = |look: &Look| look.counts.as_ref().and_then(|c| c.get(&id)).copied();
            let (was, is) = (of(before), of(now));
            // Of a port that was not there before: since it is.
            let rate = |value: &dyn Fn(Count) -> Option<u64>| {
                let new = value(is?)?;
                let more = new.saturating_sub(was.and_then(value).unwrap_or(0));
                (seconds > 0.0).then(|| (more as f64 / seconds * 10.0).round() / 10.0)
            };
            TopItem {
                namespace: owner.namespace,
                name: owner.name,
                port_name: owner.port,
                protocol: label.protocol.to_string(),
                connections_per_second: rate(&|c| Some(c.connections)),
                live_connections: now.live.get(&id).copied().unwrap_or(0),
                backends: backends.get(&id).copied().unwrap_or(0),
                packets_in_per_second: rate(&|c| Some(c.traffic?.packets_in)),
                packets_out_per_second: rate(&|c| Some(c.traffic?.packets_out)),
                bytes_in_per_second: rate(&|c| Some(c.traffic?.bytes_in)),
                bytes_out_per_second: rate(&|c| Some(c.traffic?.bytes_out)),
                connections: is.map(|count| count.connections),
            }
        })
        .collect();
    items.sort_by_cached_key(|item| (Reverse(weight(item, sort)), names(item)));
    items
}

fn names(item: &TopItem) -> [String; 4] {
    [
        item.namespace.clone(),
        item.name.clone(),
        item.port_name.clone(),
        item.protocol.clone(),
    ]
}

/// What comes first, in tenths.
fn weight(item: &TopItem, sort: SortBy) -> u64 {
    let tenths = |rate: Option<f64>| (rate.unwrap_or(0.0) * 10.0) as u64;
    match sort {
        SortBy::Connections => tenths(item.connections_per_second),
        SortBy::Live => item.live_connections as u64,
        SortBy::Packets => tenths(item.packets_per_second()),
        SortBy::Bytes => tenths(item.bytes_per_second()),
        SortBy::Name => 0,
    }
}

fn count_backends<F: Family>(actual: &Actual<F>, counts: &mut BTreeMap<u32, usize>) {
    const IN_A_SET: u16 = backend_state::IN_CLUSTER_SET | backend_state::IN_LOCAL_SET;
    for (key, state) in &actual.backends {
        let serves = state.flags & IN_A_SET != 0 && state.weight > 0;
        if serves && key.addr != F::Addr::UNSPECIFIED {
            *counts.entry(key.service).or_default() += 1;
        }
    }
}

/// Open connections by service id: flows that have not ended, and sockets.
pub fn live(
    snapshot: &Snapshot,
    flows: &Flows,
    config: &NodeConfig,
    sockets: Option<&Live>,
) -> BTreeMap<u32, usize> {
    fn of<F: Family>(
        flows: &[Flow<F>],
        now: u32,
        config: &NodeConfig,
        counts: &mut BTreeMap<u32, usize>,
    ) {
        for flow in flows.iter().filter(|flow| flow.is_open(now, config)) {
            *counts.entry(flow.service).or_default() += 1;
        }
    }
    let mut counts = BTreeMap::new();
    of(&flows.v4, flows.now, config, &mut counts);
    of(&flows.v6, flows.now, config, &mut counts);
    let mut asked = BTreeMap::new();
    let mut node_ports = BTreeMap::new();
    frontends(&snapshot.v4, &mut asked, &mut node_ports);
    frontends(&snapshot.v6, &mut asked, &mut node_ports);
    for ((frontend, _, proto), count) in sockets.into_iter().flatten() {
        let loopback = (frontend.ip().is_loopback(), frontend.port(), *proto);
        let id = match loopback {
            // A NodePort on loopback is that of the node's own address.
            (true, port, proto) => node_ports.get(&(frontend.is_ipv6(), port, proto)),
            (false, ..) => asked.get(&(*frontend, *proto)),
        };
        if let Some(id) = id {
            *counts.entry(*id).or_default() += count;
        }
    }
    counts
}

type Asked = BTreeMap<(SocketAddr, u8), u32>;
type NodePorts = BTreeMap<(bool, u16, u8), u32>;

/// Whose each frontend is.
fn frontends<F: Family>(actual: &Actual<F>, asked: &mut Asked, node_ports: &mut NodePorts) {
    use svc_common::table::{address_flags::NODE, frontend_flags::NODE_PORT};
    let nodes: BTreeSet<IpAddr> = actual
        .addresses
        .iter()
        .filter(|(_, flags)| **flags & NODE != 0)
        .map(|(addr, _)| F::addr_to_std(*addr))
        .collect();
    for (key, frontend) in &actual.frontends {
        let at = SocketAddr::new(F::addr_to_std(key.addr), key.port.get());
        asked.insert((at, key.proto), frontend.service);
        if frontend.flags & NODE_PORT != 0 && nodes.contains(&at.ip()) {
            node_ports.insert((at.is_ipv6(), at.port(), key.proto), frontend.service);
        }
    }
}

#[cfg(test)]
mod tests {
    use svc_common::table::Traffic;

    use super::*;
    use crate::config::Output;

    fn look(seconds: u64, counts: &[(u32, u64, u64)]) -> Look {
        let count = |(id, connections, packets): &(u32, u64, u64)| {
            let traffic = Traffic {
                packets_in: *packets,
                bytes_in: 100 * packets,
                packets_out: 0,
                bytes_out: 0,
            };
            let count = Count {
                connections: *connections,
                traffic: (*packets > 0).then_some(traffic),
            };
            (*id, count)
        };
        Look {
            at: Duration::from_secs(seconds),
            counts: Some(counts.iter().map(count).collect()),
            live: [(1, 4)].into(),
        }
    }

    fn snapshot() -> Snapshot {
        let labels = [
            (1, "default/web:http/TCP"),
            (2, "kube-system/dns/UDP"),
            (3, "default/idle/TCP"),
        ];
        Snapshot {
            services: labels.map(|(id, text)| (id, text.to_owned())).into(),
            ..Snapshot::default()
        }
    }

    fn table(before: &Look, now: &Look, sort: SortBy) -> String {
        let items = items(&snapshot(), before, now, Filter::default(), sort);
        super::super::render(&items, Output::Table)
    }

    #[test]
    fn the_busiest_come_first() {
        let before = look(10, &[(1, 5, 0), (2, 10, 1), (3, 2, 0)]);
        let now = look(12, &[(1, 8, 0), (2, 20_010, 5_001), (3, 2, 0)]);
        let told = "\
NAMESPACE     NAME       PROTOCOL   CONN/S   LIVE   BACKENDS   PACKETS/S   BYTES/S
kube-system   dns        UDP        10.0k    0      0          2.5k        250.0k
default       web:http   TCP        1.5      4      0          -           -
default       idle       TCP        0        0      0          -           -
";
        assert_eq!(table(&before, &now, SortBy::Connections), told);
        let by_live = table(&before, &now, SortBy::Live);
        let first = by_live.lines().nth(1).unwrap();
        assert!(first.starts_with("default       web:http"), "{by_live}");
        let by_name = table(&before, &now, SortBy::Name);
        assert!(by_name.lines().nth(1).unwrap().contains("idle"));
    }

    #[test]
    fn a_port_that_is_made_again_has_no_negative_rate() {
        let (before, now) = (look(0, &[(1, 500, 0)]), look(1, &[(1, 2, 0)]));
        assert!(table(&before, &now, SortBy::Name).contains("web:http   TCP        0 "));
    }

    #[test]
    fn what_is_not_counted_is_no_zero() {
        let none = Look {
            counts: None,
            ..look(1, &[])
        };
        let told = table(&Look::default(), &none, SortBy::Connections);
        let web = told.lines().find(|line| line.contains("web")).unwrap();
        let cells: Vec<&str> = web.split_whitespace().collect();
        assert_eq!(cells[3..], ["-", "4", "0", "-", "-"]);
    }

    #[test]
    fn rates_are_short() {
        for (rate, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (999.9, "999.9"),
            (1_000.0, "1.0k"),
            (999_960.0, "1.0M"),
            (2.5e9, "2.5G"),
        ] {
            assert_eq!(short(rate), text);
        }
    }
}
