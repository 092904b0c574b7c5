//! FLOWS → the open connections of each backend. The programs count as they go, and lose count when a flow is evicted or
//! just falls silent; least-connections Services are therefore counted anew now and then. Pure.

use std::collections::{BTreeMap, BTreeSet};

use svc_common::family::{Family, V4, V6};
use svc_common::table::{BackendKey, Flow, FlowKey, NodeConfig, frontend_flags};

use crate::inspect::Flows;
use crate::plan::{Actual, Planner};

/// Open connections per endpoint of the Services that ask for it, none being 0.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Connections {
    pub v4: BTreeMap<BackendKey<V4>, u64>,
    pub v6: BTreeMap<BackendKey<V6>, u64>,
}

/// Whether any Service wants its connections counted.
pub fn wanted(planner: &Planner) -> bool {
    !least_connections(planner.v4()).is_empty() || !least_connections(planner.v6()).is_empty()
}

/// Counts the connections in `flows`.
pub fn count(flows: &Flows, config: &NodeConfig) -> Connections {
    Connections {
        v4: of_family(&flows.v4, flows.now, config),
        v6: of_family(&flows.v6, flows.now, config),
    }
}

impl Connections {
    /// What BACKENDS should say: all endpoints of the Services that ask for it, also those without connections.
    pub fn per_backend(&self, planner: &Planner) -> Self {
        Self {
            v4: listed(planner.v4(), &self.v4),
            v6: listed(planner.v6(), &self.v6),
        }
    }
}

fn of_family<F: Family>(
    entries: &[(FlowKey<F>, Flow<F>)],
    now: u32,
    config: &NodeConfig,
) -> BTreeMap<BackendKey<F>, u64> {
    // A walk begins again when the entry that it stood at goes: it may tell of one twice.
    let mut seen = BTreeSet::new();
    let mut counts = BTreeMap::new();
    for (key, flow) in entries {
        if flow.is_counted(key.proto, now, config) && seen.insert(*key) {
            let backend = BackendKey {
                service: flow.service,
                addr: flow.backend,
                port: flow.backend_port,
                _pad: 0,
            };
            *counts.entry(backend).or_default() += 1;
        }
    }
    counts
}

fn least_connections<F: Family>(actual: &Actual<F>) -> BTreeSet<u32> {
    let frontends = actual.frontends.values();
    frontends
        .filter(|frontend| frontend.flags & frontend_flags::LEAST_CONNECTIONS != 0)
        .map(|frontend| frontend.service)
        .collect()
}

fn listed<F: Family>(
    actual: &Actual<F>,
    counts: &BTreeMap<BackendKey<F>, u64>,
) -> BTreeMap<BackendKey<F>, u64> {
    let services = least_connections(actual);
    actual
        .backends
        .keys()
        .filter(|key| services.contains(&key.service))
        .map(|key| (*key, counts.get(key).copied().unwrap_or(0)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use svc_common::family::Port;
    use svc_common::table::{TCP, flow_flags, flow_state};

    use super::*;

    fn entry(n: u8, flags: u8, state: u8, seen: u32) -> (FlowKey<V4>, Flow<V4>) {
        let addr = |text: &str| V4::addr_from_std(text.parse::<IpAddr>().unwrap()).unwrap();
        let key = FlowKey {
            src: addr("192.0.2.1"),
            dst: addr("10.96.0.1"),
            sport: Port::new(1000 + u16::from(n)),
            dport: Port::new(80),
            proto: u16::from(TCP),
            _pad: 0,
        };
        let flow = Flow {
            seen,
            service: 1,
            client: key.src,
            frontend: key.dst,
            backend: addr("10.0.0.1"),
            nat: key.src,
            client_port: key.sport,
            frontend_port: key.dport,
            backend_port: Port::new(8080),
            nat_port: key.sport,
            flags,
            state,
            epoch: 0,
        };
        (key, flow)
    }

    #[test]
    fn open_connections_are_counted_once() {
        const COUNTED: u8 = flow_flags::COUNTED;
        let config = NodeConfig::default();
        let now = config.tcp_established + 1000;
        let v4 = vec![
            entry(1, COUNTED, flow_state::ESTABLISHED, now - 5),
            entry(2, COUNTED, 0, now),
            entry(2, COUNTED, 0, now),
            entry(2, COUNTED | flow_flags::REPLY, 0, now),
            entry(
                3,
                COUNTED,
                flow_state::ESTABLISHED | flow_state::CLOSING,
                now,
            ),
            entry(4, COUNTED, flow_state::ESTABLISHED, 1),
            entry(5, 0, flow_state::ESTABLISHED, now),
        ];
        let flows = Flows {
            v4,
            v6: Vec::new(),
            now,
        };
        let counts = count(&flows, &config);
        assert_eq!(counts.v4.into_values().collect::<Vec<_>>(), [2]);
    }
}
