//! What people and scripts see of the maps: `svc-agent get services|backends|flows|nat|affinity`. Pure: data in, text out; reading
//! the pinned maps is `dataplane`'s part.
//!
//! JSON and YAML are `{"items": […]}`; the fields of an item are those of [`ServiceItem`], [`BackendItem`],
//! [`FlowItem`], [`NatItem`] and [`AffinityItem`], and only ever grow.

mod affinity;
mod backends;
mod flows;
mod nat;
mod services;
pub mod standing;
mod table;
#[cfg(test)]
mod tests;
mod top;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use svc_common::family::{Family, Port, V4, V6};
use svc_common::table::{Affinity, Flow, Frontend, FrontendKey, Scope, Source};

pub use affinity::AffinityItem;
pub use backends::BackendItem;
pub use flows::{FlowItem, state as flow_state};
pub use nat::NatItem;
pub use services::ServiceItem;
pub use table::columns;
pub use top::{Look, TopItem, items as top_items, live};

use crate::config::Output;
use crate::desired::Protocol;
use crate::plan::{Actual, Label};

/// The maps of both families at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub v4: Actual<V4>,
    pub v6: Actual<V6>,
    /// SERVICES: id → label.
    pub services: BTreeMap<u32, String>,
}

/// The flows of both families at one moment.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    pub v4: Vec<Flow<V4>>,
    pub v6: Vec<Flow<V6>>,
    /// Seconds of the clock that flows are stamped with.
    pub now: u32,
}

/// Who had which backend last, in both families at one moment.
#[derive(Clone, Debug, Default)]
pub struct Affinities {
    pub v4: Vec<(Source<V4>, Affinity<V4>)>,
    pub v6: Vec<(Source<V6>, Affinity<V6>)>,
    /// Seconds of the clock that entries are stamped with.
    pub now: u32,
}

/// Which Services to show; `None` is any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    pub namespace: Option<&'a str>,
    /// The name of a Service, or `name:port` for one of its ports.
    pub name: Option<&'a str>,
}

impl Filter<'_> {
    fn shows(&self, owner: &Owner) -> bool {
        let name = |wanted: &str| match wanted.split_once(':') {
            Some((name, port)) => name == owner.name && port == owner.port,
            None => wanted == owner.name,
        };
        self.namespace
            .is_none_or(|namespace| namespace == owner.namespace)
            && self.name.is_none_or(name)
    }
}

/// Every frontend of every Service.
pub fn services(snapshot: &Snapshot, filter: Filter<'_>, output: Output) -> String {
    render(&services::items(snapshot, filter), output)
}

/// The same as values.
pub fn service_items(snapshot: &Snapshot, filter: Filter<'_>) -> Vec<ServiceItem> {
    services::items(snapshot, filter)
}

pub fn flow_items(
    flows: &Flows,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
) -> Vec<FlowItem> {
    flows::items(flows, services, filter)
}

pub fn affinity_items(
    affinities: &Affinities,
    snapshot: &Snapshot,
    filter: Filter<'_>,
) -> Vec<AffinityItem> {
    affinity::items(affinities, snapshot, filter)
}

/// Where every service port sends.
pub fn backends(snapshot: &Snapshot, filter: Filter<'_>, output: Output) -> String {
    render(&backends::items(snapshot, filter), output)
}

/// Who talks to whom. `services` is the content of SERVICES.
pub fn flows(
    flows: &Flows,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
    output: Output,
) -> String {
    render(&flows::items(flows, services, filter), output)
}

/// Who is seen as somebody else. `services` is the content of SERVICES.
pub fn nat(
    flows: &Flows,
    services: &BTreeMap<u32, String>,
    filter: Filter<'_>,
    output: Output,
) -> String {
    render(&nat::items(flows, services, filter), output)
}

/// Who is bound to which backend.
pub fn affinity(
    affinities: &Affinities,
    snapshot: &Snapshot,
    filter: Filter<'_>,
    output: Output,
) -> String {
    render(&affinity::items(affinities, snapshot, filter), output)
}

/// What each service port does.
pub fn top(items: &[TopItem], output: Output) -> String {
    render(items, output)
}

/// A line of the output.
trait Item: Serialize {
    const COLUMNS: &'static [&'static str];
    /// Columns that only `-o wide` has, after the others.
    const WIDE: &'static [&'static str];
    /// All cells, those of the wide columns included.
    fn cells(&self) -> Vec<String>;
}

#[derive(Serialize)]
struct List<'a, T> {
    items: &'a [T],
}

fn render<T: Item>(items: &[T], output: Output) -> String {
    const WHY: &str = "structs of numbers and strings can be serialized";
    match output {
        Output::Table => table::render(items, T::COLUMNS),
        Output::Wide => table::render(items, &[T::COLUMNS, T::WIDE].concat()),
        Output::Json => serde_json::to_string_pretty(&List { items }).expect(WHY) + "\n",
        Output::Yaml => serde_saphyr::to_string(&List { items }).expect(WHY),
    }
}

/// The service port that an entry belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    namespace: String,
    name: String,
    port: String,
}

impl Owner {
    /// By the label in SERVICES; an id without one shows as `?`.
    fn of(id: u32, services: &BTreeMap<u32, String>) -> Self {
        match services.get(&id).map(|text| (text, Label::parse(text))) {
            Some((_, Some(label))) => Self {
                namespace: label.port.service.namespace.to_string(),
                name: label.port.service.name.to_string(),
                port: label.port.port.to_string(),
            },
            Some((text, None)) => Self {
                namespace: "?".into(),
                name: text.clone(),
                port: String::new(),
            },
            None => Self {
                namespace: "?".into(),
                name: format!("id {id}"),
                port: String::new(),
            },
        }
    }

    fn cell(&self) -> String {
        if self.port.is_empty() {
            self.name.clone()
        } else {
            format!("{}:{}", self.name, self.port)
        }
    }
}

fn protocol(number: u8) -> String {
    Protocol::from_number(number).map_or_else(|| format!("protocol {number}"), |p| p.to_string())
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
fn socket<F: Family>(addr: F::Addr, port: Port) -> String {
    at(F::addr_to_std(addr), port.get())
}

fn at(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

fn scope(number: u8) -> &'static str {
    if number == Scope::Internal as u8 {
        "internal"
    } else {
        "external"
    }
}

/// The slots of a frontend per backend, in the order of the backends.
fn spread<F: Family>(
    actual: &Actual<F>,
    frontend: &Frontend,
) -> BTreeMap<svc_common::table::Backend<F>, usize> {
    let mut spread = BTreeMap::new();
    for backend in actual.run(frontend).unwrap_or_default() {
        *spread.entry(*backend).or_default() += 1;
    }
    spread
}

/// The frontends of one family that the filter lets through, with their owners.
fn frontends<'a, F: Family>(
    actual: &'a Actual<F>,
    services: &'a BTreeMap<u32, String>,
    filter: Filter<'a>,
) -> impl Iterator<Item = (Owner, &'a FrontendKey<F>, &'a Frontend)> {
    let owned = |(key, frontend): (&'a FrontendKey<F>, &'a Frontend)| {
        (Owner::of(frontend.service, services), key, frontend)
    };
    actual
        .frontends
        .iter()
        .map(owned)
        .filter(move |(owner, ..)| filter.shows(owner))
}
