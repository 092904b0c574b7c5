//! `get backends`: one line per service port and backend.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use svc_common::family::Family;
use svc_common::table::{BackendState, Scope, backend_flags, backend_state};

use super::{Filter, Item, Owner, Snapshot, at, frontends, protocol, spread};
use crate::plan::{Actual, Label};

/// One backend of a service port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendItem {
    pub namespace: String,
    pub name: String,
    /// Name of the port; empty when it has none.
    pub port_name: String,
    pub protocol: String,
    pub address: IpAddr,
    pub port: u16,
    /// It runs on this node; `null` when its slice does not say where, and nobody sends to it.
    pub local: Option<bool>,
    /// `active`: it gets new connections. `draining`: it serves what it has, its weight is 0. `unused`: it serves, but
    /// others are preferred (it is on its way out, or hints name others). `down`: it does not serve.
    pub state: &'static str,
    /// Share of new connections.
    pub weight: u16,
    /// Open connections of the packet path; counted for least-connections Services only.
    pub connections: u64,
    /// Part of the new connections of pods and this node that it gets, in percent; the highest one when the frontends
    /// of the port differ. `null`: none.
    pub internal_percent: Option<f64>,
    /// The same for connections from outside.
    pub external_percent: Option<f64>,
}

impl Item for BackendItem {
    const COLUMNS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "BACKEND",
        "NODE",
        "STATE",
        "WEIGHT",
        "INTERNAL",
        "EXTERNAL",
    ];
    const WIDE: &'static [&'static str] = &["CONNECTIONS"];

    fn cells(&self) -> Vec<String> {
        let owner = Owner {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port_name.clone(),
        };
        let percent =
            |part: Option<f64>| part.map_or_else(|| "-".into(), |part| format!("{part:.1}%"));
        vec![
            self.namespace.clone(),
            owner.cell(),
            format!("{}/{}", at(self.address, self.port), self.protocol),
            self.local
                .map_or("-", |local| if local { "local" } else { "remote" })
                .into(),
            self.state.into(),
            self.weight.to_string(),
            percent(self.internal_percent),
            percent(self.external_percent),
            self.connections.to_string(),
        ]
    }
}

/// Whose, and where: one line.
type Key = (Owner, u8, IpAddr, u16);

/// What is known of it.
#[derive(Default)]
struct Known {
    local: Option<bool>,
    parts: [Option<f64>; 2],
    state: BackendState,
}

pub(super) fn items(snapshot: &Snapshot, filter: Filter<'_>) -> Vec<BackendItem> {
    let mut backends: BTreeMap<Key, Known> = BTreeMap::new();
    collect(&snapshot.v4, snapshot, filter, &mut backends);
    collect(&snapshot.v6, snapshot, filter, &mut backends);
    let item = |((owner, proto, address, port), known): (Key, Known)| {
        let [internal_percent, external_percent] = known.parts;
        BackendItem {
            namespace: owner.namespace,
            name: owner.name,
            port_name: owner.port,
            protocol: protocol(proto),
            address,
            port,
            local: known.local,
            state: state(&known),
            weight: known.state.weight,
            connections: known.state.connections,
            internal_percent,
            external_percent,
        }
    };
    backends.into_iter().map(item).collect()
}

fn state(known: &Known) -> &'static str {
    match known.state {
        _ if known.parts != [None, None] => "active",
        state if state.flags & backend_state::SERVING == 0 => "down",
        state if state.weight == 0 => "draining",
        _ => "unused",
    }
}

fn collect<F: Family>(
    actual: &Actual<F>,
    snapshot: &Snapshot,
    filter: Filter<'_>,
    backends: &mut BTreeMap<Key, Known>,
) {
    for (key, state) in actual
        .backends
        .iter()
        .filter(|(key, _)| key.port.get() != 0)
    {
        let label = snapshot.services.get(&key.service);
        let proto = label
            .and_then(|text| Label::parse(text))
            .map_or(0, |l| l.protocol.number());
        let owner = Owner::of(key.service, &snapshot.services);
        if filter.shows(&owner) {
            let line = (owner, proto, F::addr_to_std(key.addr), key.port.get());
            let known = backends.entry(line).or_default();
            known.state = *state;
            known.local = match state.flags & (backend_state::LOCAL | backend_state::REMOTE) {
                backend_state::LOCAL => Some(true),
                backend_state::REMOTE => Some(false),
                _ => None,
            };
        }
    }
    for (owner, key, frontend) in frontends(actual, &snapshot.services, filter) {
        for (backend, slots) in spread(actual, frontend) {
            let line = (
                owner.clone(),
                key.proto,
                F::addr_to_std(backend.addr),
                backend.port.get(),
            );
            let known = backends.entry(line).or_default();
            known.local = Some(backend.flags & backend_flags::LOCAL != 0);
            // To a tenth, so that scripts see no noise of floating point.
            let percent = (slots as f64 * 1000.0 / f64::from(frontend.count)).round() / 10.0;
            let part = &mut known.parts[usize::from(key.scope != Scope::Internal as u8)];
            *part = Some(part.map_or(percent, |p| p.max(percent)));
        }
    }
}
