//! FLOWS → the open connections of each backend. The programs count as they go, and lose count when a flow is evicted or
//! just falls silent; least-connections Services are therefore counted anew now and then. Pure.

use std::collections::{BTreeMap, BTreeSet};

use svc_common::family::{Family, V4, V6};
use svc_common::table::{BackendKey, Flow, NodeConfig, frontend_flags};

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
    flows: &[Flow<F>],
    now: u32,
    config: &NodeConfig,
) -> BTreeMap<BackendKey<F>, u64> {
    let mut counts = BTreeMap::new();
    for flow in flows.iter().filter(|flow| flow.is_counted(now, config)) {
        *counts.entry(flow.backend_key()).or_default() += 1;
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
    use svc_common::table::{FlowKey, TCP, flow_flags, flow_state};

    use super::*;

    fn flow(n: u8, flags: u8, state: u8, seen: u32) -> Flow<V4> {
        let addr = |text: &str| V4::addr_from_std(text.parse::<IpAddr>().unwrap()).unwrap();
        let forward = FlowKey {
            src: addr("192.0.2.1"),
            dst: addr("10.96.0.1"),
            sport: Port::new(1000 + u16::from(n)),
            dport: Port::new(80),
            proto: u16::from(TCP),
            _pad: 0,
        };
        let reply = FlowKey {
            src: addr("10.0.0.1"),
            dst: forward.src,
            sport: Port::new(8080),
            dport: forward.sport,
            ..forward
        };
        Flow {
            forward,
            reply,
            seen,
            service: 1,
            epoch: 0,
            flags,
            client_state: 0,
            backend_state: state,
            _pad: [0; 3],
        }
    }

    #[test]
    fn open_connections_are_counted_once() {
        const COUNTED: u8 = flow_flags::COUNTED;
        let config = NodeConfig::default();
        let now = config.tcp_established + 1000;
        let v4 = vec![
            flow(1, COUNTED, flow_state::ESTABLISHED, now - 5),
            flow(2, COUNTED, 0, now),
            flow(2, COUNTED | flow_flags::LATE, 0, now),
            flow(
                3,
                COUNTED,
                flow_state::ESTABLISHED | flow_state::CLOSING,
                now,
            ),
            flow(4, COUNTED, flow_state::ESTABLISHED, 1),
            flow(5, 0, flow_state::ESTABLISHED, now),
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
