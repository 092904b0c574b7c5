//! `get affinity`: one line per client that is bound to a backend (B15).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use svc_common::family::Family;
use svc_common::table::{Affinity, Source};

use super::{Affinities, Filter, Item, Owner, Snapshot, socket};
use crate::plan::Actual;

/// One client of a service port with session affinity. An entry whose time is over stays until its room is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AffinityItem {
    pub namespace: String,
    pub name: String,
    /// Name of the port; empty when it has none.
    pub port_name: String,
    pub client: IpAddr,
    /// `address:port`.
    pub backend: String,
    /// Seconds since the client's last new connection.
    pub age_seconds: u32,
    /// Seconds until the client may get another backend; 0: with its next connection. `null`: the Service has no
    /// session affinity any more.
    pub remaining_seconds: Option<u32>,
}

impl Item for AffinityItem {
    const COLUMNS: &'static [&'static str] =
        &["NAMESPACE", "NAME", "CLIENT", "BACKEND", "AGE", "REMAINING"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let owner = Owner {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port_name.clone(),
        };
        let remaining = self.remaining_seconds;
        vec![
            self.namespace.clone(),
            owner.cell(),
            self.client.to_string(),
            self.backend.clone(),
            format!("{}s", self.age_seconds),
            remaining.map_or_else(|| "-".into(), |seconds| format!("{seconds}s")),
        ]
    }
}

pub(super) fn items(
    affinities: &Affinities,
    snapshot: &Snapshot,
    filter: Filter<'_>,
) -> Vec<AffinityItem> {
    let (services, now) = (&snapshot.services, affinities.now);
    let mut items = family(&affinities.v4, &snapshot.v4, services, now, filter);
    items.extend(family(&affinities.v6, &snapshot.v6, services, now, filter));
    items.sort();
    items
}

fn family<F: Family>(
    entries: &[(Source<F>, Affinity<F>)],
    actual: &Actual<F>,
    services: &BTreeMap<u32, String>,
    now: u32,
    filter: Filter<'_>,
) -> Vec<AffinityItem> {
    let windows: BTreeMap<u32, u32> = actual
        .frontends
        .values()
        .filter(|frontend| frontend.affinity > 0)
        .map(|frontend| (frontend.service, frontend.affinity))
        .collect();
    let item = |(client, last): &(Source<F>, Affinity<F>)| {
        let owner = Owner::of(client.service, services);
        let age = now.saturating_sub(last.seen);
        filter.shows(&owner).then(|| AffinityItem {
            namespace: owner.namespace,
            name: owner.name,
            port_name: owner.port,
            client: F::addr_to_std(client.addr),
            backend: socket::<F>(last.addr, last.port),
            age_seconds: age,
            remaining_seconds: windows
                .get(&client.service)
                .map(|window| window.saturating_sub(age)),
        })
    };
    entries.iter().filter_map(item).collect()
}
