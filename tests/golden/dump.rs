//! The maps as text: one line per entry, by address and port; a Maglev run as its spread.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;

use svc_agent::desired::{Protocol, Refusal};
use svc_agent::plan::{Actual, Planner, Range};
use svc_common::family::{Family, Port};
use svc_common::table::{
    Backend, BackendKey, Frontend, FrontendKey, Scope, address_flags, backend_flags, backend_state,
    frontend_flags,
};

pub fn text(planner: &Planner, refusals: &[Refusal]) -> String {
    let mut out = String::new();
    for (id, label) in planner.labels() {
        writeln!(out, "SERVICE {id} {label}").unwrap();
    }
    addresses(&mut out, planner.v4());
    addresses(&mut out, planner.v6());
    frontends(&mut out, planner.v4(), planner.labels());
    frontends(&mut out, planner.v6(), planner.labels());
    slots(&mut out, planner.v4());
    slots(&mut out, planner.v6());
    backends(&mut out, planner.v4(), planner.labels());
    backends(&mut out, planner.v6(), planner.labels());
    ranges(&mut out, planner.v4(), planner.labels());
    ranges(&mut out, planner.v6(), planner.labels());
    for refusal in refusals {
        writeln!(out, "REFUSED {refusal}").unwrap();
    }
    out
}

fn addresses<F: Family>(out: &mut String, actual: &Actual<F>) {
    let names = [
        (address_flags::NODE, "node"),
        (address_flags::CLUSTER_IP, "cluster-ip"),
        (address_flags::EXTERNAL, "external"),
    ];
    let sorted: BTreeMap<_, _> = actual
        .addresses
        .iter()
        .map(|(a, f)| (F::addr_to_std(*a), f))
        .collect();
    for (addr, flags) in sorted {
        let names: Vec<&str> = names
            .iter()
            .filter(|(bit, _)| flags & bit != 0)
            .map(|(_, name)| *name)
            .collect();
        writeln!(out, "ADDRESS {} {}", addr, names.join(" ")).unwrap();
    }
}

fn frontends<F: Family>(out: &mut String, actual: &Actual<F>, labels: &BTreeMap<u32, String>) {
    let order = |k: &FrontendKey<F>| (F::addr_to_std(k.addr), k.port.get(), k.proto, k.scope);
    let sorted: BTreeMap<_, _> = actual
        .frontends
        .iter()
        .map(|(k, f)| (order(k), (k, f)))
        .collect();
    for (key, frontend) in sorted.into_values() {
        writeln!(
            out,
            "FRONTEND {} -> {} {}",
            frontend_key(key),
            owner(labels, frontend.service),
            run(frontend)
        )
        .unwrap();
    }
}

/// `namespace/name:port`.
fn owner(labels: &BTreeMap<u32, String>, id: u32) -> &str {
    let label = labels.get(&id).and_then(|label| label.rsplit_once('/'));
    label.map_or("the cluster", |(name, _)| name)
}

fn frontend_key<F: Family>(key: &FrontendKey<F>) -> String {
    let protocol = Protocol::from_number(key.proto).unwrap();
    let scope = if key.scope == Scope::Internal as u8 {
        "internal"
    } else {
        "external"
    };
    format!("{}/{protocol} {scope}", socket::<F>(key.addr, key.port))
}

fn run(frontend: &Frontend) -> String {
    let mut text = match (
        frontend.count,
        frontend.flags & frontend_flags::DROP_WHEN_EMPTY != 0,
    ) {
        (0, true) => "empty: drop".to_owned(),
        (0, false) => "empty: refuse".to_owned(),
        (count, _) => format!("slots {}+{count}", frontend.first),
    };
    let algorithm =
        frontend_flags::MAGLEV | frontend_flags::ROUND_ROBIN | frontend_flags::LEAST_CONNECTIONS;
    let names = [
        (frontend_flags::MAGLEV, " maglev"),
        (frontend_flags::ROUND_ROBIN, " round-robin"),
        (frontend_flags::LEAST_CONNECTIONS, " least-connections"),
        (frontend_flags::LOCAL_SET, " local-set"),
        (frontend_flags::SOURCE_RANGES, " restricted"),
    ];
    for (bit, name) in names {
        let is_told = frontend.count > 0 || bit & algorithm == 0;
        if frontend.flags & bit != 0 && is_told {
            text += name;
        }
    }
    if frontend.affinity > 0 {
        text += &format!(" affinity {}s", frontend.affinity);
    }
    text
}

fn slots<F: Family>(out: &mut String, actual: &Actual<F>) {
    for (first, run) in &actual.slots {
        let mut users = actual
            .frontends
            .values()
            .filter(|f| f.count > 0 && f.first == *first);
        let maglev = users.all(|f| f.flags & frontend_flags::MAGLEV != 0);
        if !maglev {
            for (i, slot) in (*first..).zip(run) {
                writeln!(out, "SLOT {i} {}", backend(slot)).unwrap();
            }
            continue;
        }
        let mut spread: BTreeMap<Backend<F>, usize> = BTreeMap::new();
        for slot in run {
            *spread.entry(*slot).or_default() += 1;
        }
        let parts: Vec<String> = spread
            .iter()
            .map(|(b, n)| format!("{} x{n}", backend(b)))
            .collect();
        writeln!(
            out,
            "SLOTS {first}+{} maglev: {}",
            run.len(),
            parts.join(", ")
        )
        .unwrap();
    }
}

fn backends<F: Family>(out: &mut String, actual: &Actual<F>, labels: &BTreeMap<u32, String>) {
    let order = |k: &BackendKey<F>| (k.service, F::addr_to_std(k.addr), k.port.get());
    let sorted: BTreeMap<_, _> = actual
        .backends
        .iter()
        .map(|(key, state)| (order(key), (key, state)))
        .collect();
    for (key, state) in sorted.into_values() {
        let label = owner(labels, key.service);
        if key.port.get() == 0 {
            writeln!(out, "BACKENDS {label} IPv{} serve", F::VERSION).unwrap();
            continue;
        }
        let names = [
            (backend_state::SERVING, "serving"),
            (backend_state::IN_CLUSTER_SET, "cluster-set"),
            (backend_state::IN_LOCAL_SET, "local-set"),
        ];
        let mut words: Vec<String> = names
            .iter()
            .filter(|(bit, _)| state.flags & bit != 0)
            .map(|(_, name)| (*name).to_owned())
            .collect();
        if words.is_empty() {
            words.push("not serving".into());
        }
        if state.weight != 1 {
            words.push(format!("weight {}", state.weight));
        }
        let at = socket::<F>(key.addr, key.port);
        writeln!(out, "BACKEND {label} {at} {}", words.join(" ")).unwrap();
    }
}

fn ranges<F: Family>(out: &mut String, actual: &Actual<F>, labels: &BTreeMap<u32, String>) {
    let order =
        |(source, length): &Range<F>| (source.service, F::addr_to_std(source.addr), *length);
    let sorted: BTreeSet<_> = actual.ranges.iter().map(order).collect();
    for (service, first, length) in sorted {
        let label = owner(labels, service);
        writeln!(out, "RANGE {label} {first}/{length}").unwrap();
    }
}

fn backend<F: Family>(backend: &Backend<F>) -> String {
    let local = if backend.flags & backend_flags::LOCAL != 0 {
        " local"
    } else {
        ""
    };
    format!("{}{local}", socket::<F>(backend.addr, backend.port))
}

fn socket<F: Family>(addr: F::Addr, port: Port) -> String {
    SocketAddr::new(F::addr_to_std(addr), port.get()).to_string()
}
