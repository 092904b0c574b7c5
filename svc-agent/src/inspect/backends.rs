//! `get backends`: one line per service port and backend.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use svc_common::family::Family;
use svc_common::table::{Scope, backend_flags};

use super::{Filter, Item, Owner, Snapshot, at, frontends, protocol, spread};
use crate::plan::Actual;

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
    /// It runs on this node.
    pub local: bool,
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
        "INTERNAL",
        "EXTERNAL",
    ];
    const WIDE: &'static [&'static str] = &[];

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
            if self.local { "local" } else { "remote" }.into(),
            percent(self.internal_percent),
            percent(self.external_percent),
        ]
    }
}

/// Whose, and where: one line.
type Key = (Owner, u8, IpAddr, u16, bool);

pub(super) fn items(snapshot: &Snapshot, filter: Filter<'_>) -> Vec<BackendItem> {
    let mut parts: BTreeMap<Key, [Option<f64>; 2]> = BTreeMap::new();
    collect(&snapshot.v4, snapshot, filter, &mut parts);
    collect(&snapshot.v6, snapshot, filter, &mut parts);
    let item =
        |((owner, proto, address, port, local), [internal, external]): (Key, [Option<f64>; 2])| {
            BackendItem {
                namespace: owner.namespace,
                name: owner.name,
                port_name: owner.port,
                protocol: protocol(proto),
                address,
                port,
                local,
                internal_percent: internal,
                external_percent: external,
            }
        };
    parts.into_iter().map(item).collect()
}

fn collect<F: Family>(
    actual: &Actual<F>,
    snapshot: &Snapshot,
    filter: Filter<'_>,
    parts: &mut BTreeMap<Key, [Option<f64>; 2]>,
) {
    for (owner, key, frontend) in frontends(actual, &snapshot.services, filter) {
        for (backend, slots) in spread(actual, frontend) {
            let local = backend.flags & backend_flags::LOCAL != 0;
            let line = (
                owner.clone(),
                key.proto,
                F::addr_to_std(backend.addr),
                backend.port.get(),
                local,
            );
            let scope = usize::from(key.scope != Scope::Internal as u8);
            // To a tenth, so that scripts see no noise of floating point.
            let percent = (slots as f64 * 1000.0 / f64::from(frontend.count)).round() / 10.0;
            let part = &mut parts.entry(line).or_default()[scope];
            *part = Some(part.map_or(percent, |p| p.max(percent)));
        }
    }
}
