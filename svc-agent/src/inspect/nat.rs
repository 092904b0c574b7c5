//! `get nat`: one line per connection whose backend sees another client than there is.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Filter, FlowItem, Flows, Item, Owner, flows};

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

impl NatItem {
    /// None: it is not masqueraded.
    fn of(flow: FlowItem) -> Option<Self> {
        Some(Self {
            protocol: flow.protocol,
            nat: flow.nat?,
            client: flow.client,
            frontend: flow.frontend,
            backend: flow.backend,
            state: flow.state,
            idle_seconds: flow.idle_seconds,
            namespace: flow.namespace,
            name: flow.name,
            port_name: flow.port_name,
        })
    }
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

/// A flow whose client has begun a newer one still has its port.
pub(super) fn items(
    flows: &Flows,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
) -> Vec<NatItem> {
    let flows = flows::unsorted(flows, services, filter, true);
    let mut items: Vec<_> = flows.into_iter().filter_map(NatItem::of).collect();
    items.sort();
    items
}
