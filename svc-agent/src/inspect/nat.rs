//! `get nat`: one line per connection whose backend sees another client than there is.

use std::collections::BTreeMap;

use serde::Serialize;
use svc_common::family::{Addr, Family};
use svc_common::table::Flow;

use super::{Filter, Flows, Item, Owner, flows, protocol, socket};

/// One masqueraded connection: an address and port of this node that a backend's answers come to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NatItem {
    pub protocol: String,
    /// What the backend sees as its client, `address:port` as all that follow.
    pub nat: String,
    /// Who it is in truth.
    pub client: String,
    pub frontend: String,
    pub backend: String,
    /// As of `get flows`.
    pub state: &'static str,
    pub idle_seconds: u32,
    pub namespace: String,
    /// The Service, empty when it is gone.
    pub name: String,
    pub port_name: String,
}

impl Item for NatItem {
    const COLUMNS: &'static [&'static str] =
        &["PROTOCOL", "NAT", "CLIENT", "BACKEND", "STATE", "IDLE"];
    const WIDE: &'static [&'static str] = &["FRONTEND", "NAMESPACE", "NAME"];

    fn cells(&self) -> Vec<String> {
        let owner = Owner {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port_name.clone(),
        };
        vec![
            self.protocol.clone(),
            self.nat.clone(),
            self.client.clone(),
            self.backend.clone(),
            self.state.into(),
            format!("{}s", self.idle_seconds),
            self.frontend.clone(),
            self.namespace.clone(),
            owner.cell(),
        ]
    }
}

pub(super) fn items(
    flows: &Flows,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
) -> Vec<NatItem> {
    let mut items = family(&flows.v4, flows.now, services, filter);
    items.extend(family(&flows.v6, flows.now, services, filter));
    items.sort();
    items
}

/// What a flow's backend sees as its client, where that is not the client itself.
pub(super) fn seen_as<F: Family>(flow: &Flow<F>) -> Option<String> {
    let client = (flow.forward.src, flow.forward.sport);
    let nat = (flow.reply.dst, flow.reply.dport);
    let masqueraded = nat != client && nat.0 != F::Addr::UNSPECIFIED && flow.has_answers();
    masqueraded.then(|| socket::<F>(nat.0, nat.1))
}

/// A flow whose client has begun a newer one (LATE) still has its port.
fn family<F: Family>(
    flows: &[Flow<F>],
    now: u32,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
) -> Vec<NatItem> {
    let item = |flow: &Flow<F>| {
        let nat = seen_as(flow)?;
        let owner = Owner::of(flow.service, services);
        filter.shows(&owner).then(|| NatItem {
            protocol: u8::try_from(flow.forward.proto).map_or_else(|_| "?".into(), protocol),
            nat,
            client: socket::<F>(flow.forward.src, flow.forward.sport),
            frontend: socket::<F>(flow.forward.dst, flow.forward.dport),
            backend: socket::<F>(flow.reply.src, flow.reply.sport),
            state: flows::state(flow),
            idle_seconds: now.saturating_sub(flow.seen),
            namespace: owner.namespace,
            name: owner.name,
            port_name: owner.port,
        })
    };
    flows.iter().filter_map(item).collect()
}
