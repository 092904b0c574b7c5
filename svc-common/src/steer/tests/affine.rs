//! Random histories of clients with session affinity, against a naive model: who was sent where, and when.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::world;
use crate::family::{Family, Port, V4, V6};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::table::{Backend, BackendState, Scope, backend_state, frontend_flags};
use crate::testing::Hook::{FromOutside, FromPod};
use crate::testing::frames::tcp;
use crate::testing::{Endpoint, addr, external_ip, meet, node, outside, pod, remote_pod};

const WINDOW: u32 = 60;
const SERVICE: u32 = 1;

#[derive(Clone, Debug)]
enum Event {
    /// A new connection of a client's, from inside or outside, to one of the frontends.
    Connect {
        client: usize,
        inside: bool,
        frontend: usize,
    },
    /// An endpoint joins or leaves the cluster set or the local set.
    Toggle {
        endpoint: usize,
        local: bool,
    },
    Seconds(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0usize..4, any::<bool>(), 0usize..2)
            .prop_map(|(client, inside, frontend)| Event::Connect { client, inside, frontend }),
        1 => (0usize..3, any::<bool>())
            .prop_map(|(endpoint, local)| Event::Toggle { endpoint, local }),
        2 => (1u32..WINDOW).prop_map(Event::Seconds),
    ]
}

/// Inside, frontends offer the cluster set; outside, the local set. All listed endpoints serve.
fn service<F: Family>(sets: &[(Endpoint, [bool; 2])], tables: &mut Memory<F>) {
    let mut first = 1_000;
    let mut runs = [(0, 0); 2];
    for (set, run) in runs.iter_mut().enumerate() {
        let members = sets.iter().filter(|(_, within)| within[set]);
        *run = (first, 0);
        for ((ip, port), _) in members {
            let backend = Backend {
                addr: addr::<F>(*ip),
                port: Port::new(*port),
                flags: u16::from(*ip == pod::<F>(2) || *ip == pod::<F>(3)),
            };
            tables.slots.insert(first, backend);
            first += 1;
            run.1 += 1;
        }
    }
    tables.backends.borrow_mut().clear();
    for ((ip, port), [cluster, local]) in sets {
        let backend = Backend::<F> {
            addr: addr::<F>(*ip),
            port: Port::new(*port),
            flags: 0,
        };
        let bit = |within, bit| if within { bit } else { 0 };
        let state = BackendState {
            flags: backend_state::SERVING
                | bit(*cluster, backend_state::IN_CLUSTER_SET)
                | bit(*local, backend_state::IN_LOCAL_SET)
                | bit(
                    *ip == pod::<F>(2) || *ip == pod::<F>(3),
                    backend_state::LOCAL,
                ),
            weight: 1,
            ..BackendState::default()
        };
        tables
            .backends
            .borrow_mut()
            .insert(backend.key(SERVICE), state);
    }
    for (key, frontend) in &mut tables.frontends {
        let outside = key.scope == Scope::External as u8;
        (frontend.first, frontend.count) = runs[usize::from(outside)];
        frontend.service = SERVICE;
        frontend.affinity = WINDOW;
        frontend.flags = if outside {
            frontend_flags::LOCAL_SET | frontend_flags::MAGLEV
        } else {
            0
        };
    }
}

fn history_agrees<F: Family>(events: Vec<Event>) {
    let mut sets = [
        ((pod::<F>(2), 8_080), [true, true]),
        ((pod::<F>(3), 8_080), [true, true]),
        ((remote_pod::<F>(1), 8_080), [true, false]),
    ];
    let mut tables = world::<F>();
    service(&sets, &mut tables);
    // What each client had last, and when.
    let mut last: BTreeMap<usize, (Endpoint, u32)> = BTreeMap::new();
    let mut sport = 1_000;
    for event in events {
        match event {
            Event::Seconds(seconds) => tables.now.set(tables.now.get() + seconds),
            Event::Toggle { endpoint, local } => {
                sets[endpoint].1[usize::from(local)] ^= true;
                service(&sets, &mut tables);
            }
            Event::Connect {
                client,
                inside,
                frontend,
            } => {
                let (dst, port) = [(external_ip::<F>(1), 80), (node::<F>(), 30_080)][frontend];
                sport += 1;
                let src = outside::<F>(client as u8 + 1);
                let syn = tcp(src, dst).port(port).sport(sport).syn();
                // Ports for masquerading are not the matter here.
                tables.flows.borrow_mut().clear();
                let hook = if inside { FromPod } else { FromOutside };
                let out = meet(hook, &syn.build(), &tables);
                let set = usize::from(!inside);
                let usable = |endpoint: &Endpoint| {
                    sets.iter().any(|(e, within)| e == endpoint && within[set])
                };
                if !sets.iter().any(|(_, within)| within[set]) {
                    assert_eq!(out.because(), Reason::NoEndpoints);
                    continue;
                }
                let sent = out.sent().dst;
                assert!(usable(&sent), "{sent:?} is not offered");
                let now = tables.now.get();
                if let Some((endpoint, seen)) = last.get(&client)
                    && now - seen <= WINDOW
                    && usable(endpoint)
                {
                    assert_eq!(sent, *endpoint, "client {client} was sent elsewhere");
                }
                last.insert(client, (sent, now));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn clients_with_affinity_are_sent_where_the_model_says_v4(events in prop::collection::vec(event(), 1..60)) {
        history_agrees::<V4>(events);
    }

    #[test]
    fn clients_with_affinity_are_sent_where_the_model_says_v6(events in prop::collection::vec(event(), 1..60)) {
        history_agrees::<V6>(events);
    }
}
