//! Random histories against a naive model: a list of connections, each with the backend it was given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::{endpoints_become, frontends, serving};
use crate::family::{Family, V4, V6};
use crate::reason::Reason;
use crate::testing::Hook::{self, FromOutside, FromPod, ToOutside, ToPod};
use crate::testing::frames::{Frame, tcp, udp};
use crate::testing::{
    Endpoint, SNAT_MAX, SNAT_MIN, cluster_ip, meet, node, outside, pod, remote_pod,
};

#[derive(Clone, Debug)]
enum Event {
    /// A packet of this client's to this frontend.
    Request {
        client: usize,
        frontend: usize,
        tcp: bool,
        syn: bool,
    },
    /// An answer of the newest connection's backend.
    Answer {
        connection: usize,
    },
    /// The set of endpoints changes.
    Endpoints(Vec<usize>),
    /// The LRU drops one entry. Never one that was used within the second.
    Evict(usize),
    Seconds(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0usize..6, 0usize..3, any::<bool>(), any::<bool>())
            .prop_map(|(client, frontend, tcp, syn)| Event::Request { client, frontend, tcp, syn }),
        4 => any::<usize>().prop_map(|connection| Event::Answer { connection }),
        1 => prop::collection::vec(0usize..5, 0..4).prop_map(Event::Endpoints),
        1 => any::<usize>().prop_map(Event::Evict),
        1 => (1u32..40).prop_map(Event::Seconds),
    ]
}

/// What the two ends see of one connection.
#[derive(Clone, Debug)]
struct Connection {
    request: Frame,
    from_pod: bool,
    backend: Endpoint,
    source: Endpoint,
    /// Entries were lost: until each end has spoken again, nothing is promised.
    damaged: bool,
    tcp: bool,
    /// Of the last packet of either direction.
    seen: u32,
    answered: bool,
}

impl Connection {
    /// Seconds of silence after which nothing is promised.
    fn lifetime(&self) -> u32 {
        match (self.tcp, self.answered) {
            (true, true) => 432_000,
            (true, false) | (false, true) => 120,
            (false, false) => 30,
        }
    }
}

fn clients<F: Family>() -> [Endpoint; 6] {
    [
        (pod::<F>(1), 5_000),
        (pod::<F>(1), 5_001),
        (pod::<F>(2), 5_000),
        (outside::<F>(1), 5_000),
        (outside::<F>(2), 5_000),
        (outside::<F>(1), SNAT_MIN),
    ]
}

fn endpoints<F: Family>(which: &[usize]) -> Vec<Endpoint> {
    let all = [
        pod::<F>(1),
        pod::<F>(3),
        remote_pod::<F>(1),
        remote_pod::<F>(2),
        remote_pod::<F>(3),
    ];
    which.iter().map(|i| (all[*i], 8_080)).collect()
}

fn expected_source<F: Family>(client: Endpoint, from_pod: bool, backend: IpAddr) -> Source {
    let local = backend == pod::<F>(1) || backend == pod::<F>(3);
    match (from_pod, local) {
        (true, _) if client.0 == backend => Source::Node,
        (true, _) | (false, true) => Source::Client,
        (false, false) => Source::Node,
    }
}

#[derive(PartialEq, Eq)]
enum Source {
    Client,
    Node,
}

fn history_agrees_with_the_model<F: Family>(events: Vec<Event>) {
    let mut served = endpoints::<F>(&[0, 2, 3]);
    let mut tables = serving::<F>(&served);
    let mut connections: BTreeMap<(usize, usize, bool), Connection> = BTreeMap::new();
    for event in events {
        match event {
            Event::Seconds(seconds) => {
                tables.now.set(tables.now.get() + seconds);
                for connection in connections.values_mut() {
                    connection.damaged |=
                        tables.now.get() - connection.seen > connection.lifetime();
                }
            }
            Event::Endpoints(which) => {
                served = endpoints::<F>(&which);
                endpoints_become(&mut tables, &served);
            }
            Event::Evict(n) => {
                tables.now.set(tables.now.get() + 1);
                let mut flows = tables.flows.borrow_mut();
                if flows.is_empty() {
                    continue;
                }
                let key = *flows.keys().nth(n % flows.len()).expect("in range");
                flows.remove(&key);
                connections
                    .values_mut()
                    .for_each(|connection| connection.damaged = true);
            }
            Event::Request {
                client,
                frontend,
                tcp: is_tcp,
                syn,
            } => {
                let (from, to) = (clients::<F>()[client], frontends::<F>()[frontend]);
                let from_pod = client < 3;
                let base = if is_tcp {
                    tcp(from.0, to.0)
                } else {
                    udp(from.0, to.0)
                };
                let request = base.sport(from.1).port(to.1);
                let frame = if syn {
                    request.clone().syn()
                } else {
                    request.clone()
                };
                let out = meet(
                    if from_pod { FromPod } else { FromOutside },
                    &frame.build(),
                    &tables,
                );
                if !from_pod && to.0 == cluster_ip::<F>(1) {
                    assert_eq!(out.because(), Reason::ClusterIpFromOutside);
                    continue;
                }
                let id = (client, frontend, is_tcp);
                // Without states, and for a SYN, a long silence begins anew.
                let idle = !is_tcp || syn;
                if let Some(known) = connections
                    .get_mut(&id)
                    .filter(|known| !known.damaged && !idle)
                {
                    let sent = out.sent();
                    assert_eq!(
                        (sent.src, sent.dst),
                        (known.source, known.backend),
                        "{id:?} changed its backend"
                    );
                    known.seen = tables.now.get();
                    continue;
                }
                if out.result.is_err() {
                    let known = connections.contains_key(&id);
                    assert!(
                        served.is_empty() && out.because() == Reason::NoEndpoints
                            || out.because() == Reason::SnatPortsExhausted
                            || known
                    );
                    // One half may still be there, and go on when a port becomes free for the other.
                    if let Some(known) = connections.get_mut(&id) {
                        known.damaged = true;
                    }
                    continue;
                }
                let sent = out.sent();
                if !connections.contains_key(&id) {
                    assert!(served.contains(&sent.dst), "{:?} is not served", sent.dst);
                }
                match expected_source::<F>(from, from_pod, sent.dst.0) {
                    Source::Client => assert_eq!(sent.src.0, from.0),
                    Source::Node => assert_eq!(sent.src.0, node::<F>()),
                }
                assert!(sent.src.1 == from.1 || (SNAT_MIN..=SNAT_MAX).contains(&sent.src.1));
                let connection = Connection {
                    request,
                    from_pod,
                    backend: sent.dst,
                    source: sent.src,
                    damaged: false,
                    tcp: is_tcp,
                    seen: tables.now.get(),
                    answered: connections
                        .get(&id)
                        .is_some_and(|known| !known.damaged && known.answered),
                };
                connections.insert(id, connection);
                no_two_share_what_the_backend_sees(&connections);
            }
            Event::Answer { connection } => {
                if connections.is_empty() {
                    continue;
                }
                let nth = connection % connections.len();
                let connection = connections.values_mut().nth(nth).expect("in range");
                let silence = tables.now.get() - connection.seen;
                if !connection.tcp && silence > connection.lifetime() {
                    continue;
                }
                connection.seen = tables.now.get();
                connection.answered = true;
                // Where the backend is elsewhere, or the source is the node's, answers come in to us.
                let hook = answer_hook::<F>(connection);
                let answer = connection
                    .request
                    .clone()
                    .from(connection.backend.0, 8_080)
                    .to(connection.source.0, connection.source.1);
                let out = meet(hook, &answer.build(), &tables);
                if !connection.damaged {
                    let seen = out.sent();
                    let request = &connection.request;
                    assert_eq!(
                        (seen.src, seen.dst),
                        ((request.dst, request.dport), (request.src, request.sport))
                    );
                }
            }
        }
    }
}

fn answer_hook<F: Family>(connection: &Connection) -> Hook {
    let local = expected_source::<F>(
        (connection.request.src, 0),
        connection.from_pod,
        connection.backend.0,
    );
    match (connection.from_pod, local) {
        (true, Source::Node) => FromPod,
        (true, Source::Client) => ToPod,
        (false, Source::Node) => FromOutside,
        (false, Source::Client) => ToOutside(false),
    }
}

fn no_two_share_what_the_backend_sees(connections: &BTreeMap<(usize, usize, bool), Connection>) {
    let mut seen = BTreeMap::new();
    for ((client, frontend, tcp), connection) in connections {
        if connection.damaged {
            continue;
        }
        let key = (*tcp, connection.backend, connection.source);
        if let Some(other) = seen.insert(key, (*client, *frontend)) {
            // A UDP flow that was silent for long may have lost its port to another.
            assert!(
                !tcp,
                "{other:?} and {:?} both reach {:?} as {:?}",
                (client, frontend),
                key.1,
                key.2
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn history_agrees_with_the_model_v4(events in prop::collection::vec(event(), 1..120)) {
        history_agrees_with_the_model::<V4>(events);
    }

    #[test]
    fn history_agrees_with_the_model_v6(events in prop::collection::vec(event(), 1..120)) {
        history_agrees_with_the_model::<V6>(events);
    }
}
