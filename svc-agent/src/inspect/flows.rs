//! `get flows`: one line per connection.

use std::collections::BTreeMap;

use serde::Serialize;
use svc_common::family::{Addr, Family};
use svc_common::table::{Flow, flow_flags, flow_state};

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
    let mut items = unsorted(flows, services, filter, false);
    items.sort();
    items
}

/// `late`: with those whose clients have begun a newer one.
pub(super) fn unsorted(
    flows: &Flows,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
    late: bool,
) -> Vec<FlowItem> {
    let mut items = family(&flows.v4, flows.now, services, filter, late);
    items.extend(family(&flows.v6, flows.now, services, filter, late));
    items
}

fn family<F: Family>(
    flows: &[Flow<F>],
    now: u32,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
    late: bool,
) -> Vec<FlowItem> {
    flows
        .iter()
        .filter(|flow| late || flow.flags & flow_flags::LATE == 0)
        .map(|flow| (flow, Owner::of(flow.service, services)))
        .filter(|(_, owner)| filter.shows(owner))
        .map(|(flow, owner)| item(flow, owner, now))
        .collect()
}

fn item<F: Family>(flow: &Flow<F>, owner: Owner, now: u32) -> FlowItem {
    FlowItem {
        namespace: owner.namespace,
        name: owner.name,
        port_name: owner.port,
        protocol: u8::try_from(flow.forward.proto).map_or_else(|_| "?".into(), protocol),
        client: socket::<F>(flow.forward.src, flow.forward.sport),
        frontend: socket::<F>(flow.forward.dst, flow.forward.dport),
        backend: socket::<F>(flow.reply.src, flow.reply.sport),
        nat: seen_as(flow),
        state: state(flow),
        idle_seconds: now.saturating_sub(flow.seen),
    }
}

/// What its packets have said.
pub fn state<F: Family>(flow: &Flow<F>) -> &'static str {
    match flow.state() {
        s if s & (flow_state::CLOSING | flow_state::BOTH_FIN) != 0 => "closing",
        s if s & flow_state::ESTABLISHED != 0 => "established",
        _ => "new",
    }
}

/// What a flow's backend sees as its client, where that is not the client itself.
fn seen_as<F: Family>(flow: &Flow<F>) -> Option<String> {
    let client = (flow.forward.src, flow.forward.sport);
    let nat = (flow.reply.dst, flow.reply.dport);
    let masqueraded = nat != client && nat.0 != F::Addr::UNSPECIFIED && flow.has_answers();
    masqueraded.then(|| socket::<F>(nat.0, nat.1))
}
