//! `get flows`: one line per connection, though the map has two entries for each.

use std::collections::BTreeMap;

use serde::Serialize;
use svc_common::family::{Addr, Family};
use svc_common::table::{Flow, FlowKey, flow_state};

use super::{Filter, Flows, Item, Owner, protocol, socket};

/// One connection through a Service on the packet path. Connections that the socket hook made are not among them: no
/// packet of theirs is changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FlowItem {
    pub namespace: String,
    /// The Service, empty when it is gone.
    pub name: String,
    pub port_name: String,
    pub protocol: String,
    /// `address:port`, as all that follow.
    pub client: String,
    pub frontend: String,
    pub backend: String,
    /// What the backend sees as its client; `null` when that is the client itself.
    pub nat: Option<String>,
    /// `new` (no answer seen), `established` or `closing`.
    pub state: &'static str,
    pub idle_seconds: u32,
}

impl Item for FlowItem {
    const COLUMNS: &'static [&'static str] =
        &["PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "STATE", "IDLE"];
    const WIDE: &'static [&'static str] = &["NAT", "NAMESPACE", "NAME"];

    fn cells(&self) -> Vec<String> {
        let owner = Owner {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port_name.clone(),
        };
        vec![
            self.protocol.clone(),
            self.client.clone(),
            self.frontend.clone(),
            self.backend.clone(),
            self.state.into(),
            format!("{}s", self.idle_seconds),
            self.nat.clone().unwrap_or_else(|| "-".into()),
            self.namespace.clone(),
            owner.cell(),
        ]
    }
}

pub(super) fn items(
    flows: &Flows,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
) -> Vec<FlowItem> {
    let mut items = family(&flows.v4, flows.now, services, filter);
    items.extend(family(&flows.v6, flows.now, services, filter));
    items.sort();
    items
}

fn family<F: Family>(
    entries: &[(FlowKey<F>, Flow<F>)],
    now: u32,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
) -> Vec<FlowItem> {
    let mut connections: BTreeMap<_, FlowItem> = BTreeMap::new();
    for (key, flow) in entries {
        let owner = Owner::of(flow.service, services);
        if !filter.shows(&owner) {
            continue;
        }
        let ends = [
            (flow.client, flow.client_port),
            (flow.frontend, flow.frontend_port),
            (flow.backend, flow.backend_port),
        ];
        let item = item(key, flow, owner, now);
        connections
            .entry((key.proto, ends))
            .and_modify(|other| {
                other.idle_seconds = other.idle_seconds.min(item.idle_seconds);
                other.state = [other.state, item.state]
                    .into_iter()
                    .min_by_key(|s| rank(s))
                    .unwrap_or(other.state);
            })
            .or_insert(item);
    }
    connections.into_values().collect()
}

/// What either half knows is true of both.
fn rank(state: &str) -> usize {
    ["closing", "established", "new"]
        .iter()
        .position(|s| *s == state)
        .unwrap_or(usize::MAX)
}

fn item<F: Family>(key: &FlowKey<F>, flow: &Flow<F>, owner: Owner, now: u32) -> FlowItem {
    let state = match flow.state {
        s if s & (flow_state::CLOSING | flow_state::BOTH_FIN) != 0 => "closing",
        s if s & flow_state::ESTABLISHED != 0 => "established",
        _ => "new",
    };
    let masqueraded = (flow.nat, flow.nat_port) != (flow.client, flow.client_port)
        && flow.nat != F::Addr::UNSPECIFIED;
    FlowItem {
        namespace: owner.namespace,
        name: owner.name,
        port_name: owner.port,
        protocol: u8::try_from(key.proto).map_or_else(|_| "?".into(), protocol),
        client: socket::<F>(flow.client, flow.client_port),
        frontend: socket::<F>(flow.frontend, flow.frontend_port),
        backend: socket::<F>(flow.backend, flow.backend_port),
        nat: masqueraded.then(|| socket::<F>(flow.nat, flow.nat_port)),
        state,
        idle_seconds: now.saturating_sub(flow.seen),
    }
}
