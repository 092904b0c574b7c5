//! Every endpoint of the service port that is asked for: its share, and why it has that.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use svc_common::family::Addr;
use svc_common::table::backend_state;

use super::judge::{Case, at, is_local};
use super::report::EndpointItem;
use super::tables::Side;
use super::trace::{Chance, Outcome};
use crate::inspect::standing::{self, View};

pub(super) fn items<F: Side>(
    case: &Case<'_, F>,
    chances: &[Chance<F>],
    outcome: &Outcome<F>,
) -> Vec<EndpointItem> {
    let Some((_, frontend)) = case.frontend else {
        return Vec::new();
    };
    let objects = case.evidence.objects;
    let cluster = objects.map(|objects| &objects.cluster);
    let view = View {
        local_set: case.is_local_set(),
        node: cluster.map_or("", |cluster| cluster.node_name()),
        zone: cluster.and_then(|cluster| cluster.node()?.zone()),
    };
    let label = case.label();
    let said = cluster
        .zip(label.as_ref())
        .map(|(cluster, label)| standing::said(cluster, &label.port, label.protocol));
    let pod = |ip| objects.and_then(|objects| objects.names.get(&ip)).cloned();
    let mut items = Vec::new();
    let mut seen = BTreeSet::new();
    let backends = case.tables.backends.borrow();
    let listed = backends
        .iter()
        .filter(|(key, _)| key.service == frontend.service && key.addr != F::Addr::UNSPECIFIED);
    for (key, state) in listed {
        let ip = F::addr_to_std(key.addr);
        let place = (ip, key.port.get());
        seen.insert(place);
        let its = said.as_ref().and_then(|said| said.get(&place)).copied();
        let chance = chances
            .iter()
            .find(|chance| chance.backend.addr == key.addr && chance.backend.port == key.port);
        let why = match &said {
            Some(_) if its.is_none() => {
                "in the maps, and in no slice: see svc-agent diff".to_owned()
            }
            _ => standing::why(*state, its, view),
        };
        items.push(EndpointItem {
            backend: at::<F>(key.addr, key.port),
            pod: pod(ip),
            local: match state.flags & (backend_state::LOCAL | backend_state::REMOTE) {
                backend_state::LOCAL => Some(true),
                backend_state::REMOTE => Some(false),
                _ => None,
            },
            percent: chance.map(|chance| percent(chance.slots, frontend.count)),
            why,
            way: chance.and_then(|chance| way(case, chance, outcome)),
        });
    }
    // A slot may lead to what has just left BACKENDS.
    for chance in chances {
        let ip = F::addr_to_std(chance.backend.addr);
        if seen.insert((ip, chance.backend.port.get())) {
            items.push(EndpointItem {
                backend: at::<F>(chance.backend.addr, chance.backend.port),
                pod: pod(ip),
                local: Some(is_local(&chance.backend)),
                percent: Some(percent(chance.slots, frontend.count)),
                why: "in use, and listed no more".into(),
                way: way(case, chance, outcome),
            });
        }
    }
    let like = |at: &SocketAddr| at.is_ipv4() == case.asked.to.is_ipv4();
    for (ip, port) in said.iter().flat_map(|said| said.keys()) {
        let at = SocketAddr::new(*ip, *port);
        if like(&at) && !seen.contains(&(*ip, *port)) {
            items.push(EndpointItem {
                backend: at.to_string(),
                pod: pod(*ip),
                local: None,
                percent: None,
                why: "in its slice, and not in the maps: see svc-agent diff".into(),
                way: None,
            });
        }
    }
    items
}

fn way<F: Side>(
    case: &Case<'_, F>,
    chance: &Chance<F>,
    outcome: &Outcome<F>,
) -> Option<super::report::WayItem> {
    match outcome {
        Outcome::OneOf => case.way(&chance.steps),
        // Then it is said once.
        Outcome::Sure(_) => None,
    }
}

/// To a tenth, so that scripts see no noise of floating point.
fn percent(slots: u32, of: u32) -> f64 {
    (f64::from(slots) * 1000.0 / f64::from(of)).round() / 10.0
}
