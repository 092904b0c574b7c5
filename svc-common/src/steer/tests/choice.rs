//! Which backend a new flow gets: affinity, source ranges, connections counted.

use std::collections::BTreeSet;

use super::world;
use crate::family::{Family, Port};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::table::{BackendKey, BackendState, Frontend, Source, backend_state, frontend_flags};
use crate::testing::Hook::{self, FromOutside, FromPod, ToOutside, ToPod};
use crate::testing::frames::{Frame, tcp, udp};
use crate::testing::{
    Endpoint, addr, both_families, cluster_ip, external_ip, meet, node, outside, pod, remote_pod,
};

both_families!(
    a_client_keeps_its_backend_through_every_frontend,
    the_window_is_restarted_by_new_connections_only,
    a_backend_out_of_the_frontends_set_is_left,
    affinity_holds_for_one_client_and_one_service_port,
    a_lost_flow_finds_its_backend_by_affinity,
    an_endpoint_without_weight_gets_no_new_connections_by_affinity,
    a_source_out_of_range_is_dropped,
    known_flows_outlive_a_change_of_ranges,
    round_robin_serves_new_flows_in_turn,
    connections_are_counted_from_open_to_the_first_close,
    a_lost_flow_is_not_counted_again,
);

const SERVICE: u32 = 1;
const WINDOW: u32 = 60;

fn change<F: Family>(tables: &mut Memory<F>, change: impl Fn(&mut Frontend)) {
    for frontend in tables.frontends.values_mut() {
        frontend.service = SERVICE;
        change(frontend);
    }
}

fn backend<F: Family>((ip, port): Endpoint) -> BackendKey<F> {
    BackendKey {
        service: SERVICE,
        addr: addr::<F>(ip),
        port: Port::new(port),
        _pad: 0,
    }
}

fn endpoints<F: Family>() -> [Endpoint; 3] {
    [
        (pod::<F>(2), 8_080),
        (remote_pod::<F>(1), 8_080),
        (remote_pod::<F>(2), 8_080),
    ]
}

fn state<F: Family>(tables: &Memory<F>, endpoint: Endpoint, flags: u16, weight: u16) {
    let here = if endpoint == endpoints::<F>()[0] {
        backend_state::LOCAL
    } else {
        0
    };
    let state = BackendState {
        flags: flags | here,
        weight,
        ..BackendState::default()
    };
    tables
        .backends
        .borrow_mut()
        .insert(backend::<F>(endpoint), state);
}

const CLUSTER_SET: u16 = backend_state::SERVING | backend_state::IN_CLUSTER_SET;

/// All frontends are of one service port, all endpoints in its cluster set.
fn service<F: Family>(settings: impl Fn(&mut Frontend)) -> Memory<F> {
    let mut tables = world::<F>();
    change(&mut tables, settings);
    for endpoint in endpoints::<F>() {
        state(&tables, endpoint, CLUSTER_SET, 1);
    }
    tables
}

fn sticky<F: Family>() -> Memory<F> {
    service(|frontend| frontend.affinity = WINDOW)
}

fn dst<F: Family>(hook: Hook, frame: Frame, tables: &Memory<F>) -> Endpoint {
    meet(hook, &frame.build(), tables).sent().dst
}

fn a_client_keeps_its_backend_through_every_frontend<F: Family>() {
    let tables = sticky::<F>();
    let mut backends = BTreeSet::new();
    for host in 1..40 {
        let client = outside::<F>(host);
        let first = dst(FromOutside, tcp(client, external_ip::<F>(1)).syn(), &tables);
        backends.insert(first);
        for sport in 2_000..2_005 {
            for frame in [
                tcp(client, node::<F>()).port(30_080).syn(),
                udp(client, node::<F>()).port(30_080),
                udp(client, external_ip::<F>(1)),
                tcp(client, external_ip::<F>(1)).syn(),
            ] {
                // Asked from inside, the address of the same client.
                for hook in [FromOutside, FromPod] {
                    let frame = frame.clone().sport(sport);
                    // Not to run out of ports.
                    tables.flows.borrow_mut().clear();
                    assert_eq!(dst(hook, frame, &tables), first);
                }
            }
        }
    }
    assert_eq!(backends.len(), 3, "clients spread");
    let client = node::<F>();
    let first = dst(
        ToOutside(true),
        tcp(client, cluster_ip::<F>(1)).syn(),
        &tables,
    );
    for sport in 2_000..2_020 {
        let frame = udp(client, external_ip::<F>(1)).sport(sport);
        assert_eq!(dst(ToOutside(true), frame, &tables), first);
    }
}

/// New connections, each at a port of its own, until one goes elsewhere; else None.
fn leaves<F: Family>(tables: &Memory<F>, ports: core::ops::Range<u16>, from: Endpoint) -> bool {
    let (seen, now) = (tables.affinities.borrow().clone(), tables.now.get());
    ports.into_iter().any(|sport| {
        *tables.affinities.borrow_mut() = seen.clone();
        tables.now.set(now);
        let frame = tcp(pod::<F>(1), cluster_ip::<F>(1)).sport(sport).syn();
        dst(FromPod, frame, tables) != from
    })
}

fn the_window_is_restarted_by_new_connections_only<F: Family>() {
    let tables = sticky::<F>();
    let syn = tcp(pod::<F>(1), cluster_ip::<F>(1)).sport(1_000).syn();
    let first = dst(FromPod, syn, &tables);
    for _ in 0..5 {
        tables.now.set(tables.now.get() + WINDOW);
        assert!(!leaves(&tables, 2_000..2_030, first), "restarted");
    }
    // Packets of a known connection, SYNs among them, do not.
    let old = tcp(pod::<F>(1), cluster_ip::<F>(1)).sport(2_000);
    for _ in 0..2 {
        tables.now.set(tables.now.get() + WINDOW / 2);
        assert_eq!(dst(FromPod, old.clone(), &tables), first);
        assert_eq!(dst(FromPod, old.clone().syn(), &tables), first);
    }
    tables.now.set(tables.now.get() + 1);
    assert!(leaves(&tables, 3_000..3_040, first), "over");
    // And those that are there stay where they are (B16).
    assert_eq!(dst(FromPod, old, &tables), first);
}

fn a_backend_out_of_the_frontends_set_is_left<F: Family>() {
    let mut tables = sticky::<F>();
    // From outside only the local endpoint is offered.
    for (key, frontend) in &mut tables.frontends {
        if key.scope == 1 {
            frontend.count = 1;
            frontend.flags |= frontend_flags::LOCAL_SET;
        }
    }
    let both = CLUSTER_SET | backend_state::IN_LOCAL_SET;
    let [local, remote, other] = endpoints::<F>();
    state(&tables, local, both, 1);
    let client = outside::<F>(1);
    let remember = |tables: &Memory<F>, endpoint: Endpoint| {
        let key = Source {
            service: SERVICE,
            addr: addr::<F>(client),
        };
        let affinity = crate::table::Affinity {
            seen: tables.now.get(),
            addr: addr::<F>(endpoint.0),
            port: Port::new(endpoint.1),
            _pad: 0,
        };
        tables.affinities.borrow_mut().insert(key, affinity);
    };
    let ask = |hook, sport, tables: &Memory<F>| {
        let frame = tcp(client, external_ip::<F>(1)).sport(sport).syn();
        dst(hook, frame, tables)
    };
    for sport in 2_000..2_030 {
        remember(&tables, remote);
        assert_eq!(ask(FromPod, sport, &tables), remote);
        assert_eq!(ask(FromOutside, sport + 100, &tables), local);
        // Which it now had last.
        assert_eq!(ask(FromPod, sport + 200, &tables), local);
    }
    // Not ready any more, but still listed.
    remember(&tables, remote);
    state(&tables, remote, backend_state::SERVING, 1);
    assert_ne!(ask(FromPod, 2_300, &tables), remote);
    remember(&tables, other);
    tables.backends.borrow_mut().remove(&backend::<F>(other));
    let picked: BTreeSet<Endpoint> = (2_400..2_440)
        .map(|sport| {
            remember(&tables, other);
            ask(FromPod, sport, &tables)
        })
        .collect();
    assert_eq!(picked.len(), 3, "anew by the algorithm");
}

fn affinity_holds_for_one_client_and_one_service_port<F: Family>() {
    let mut tables = sticky::<F>();
    for (key, frontend) in &mut tables.frontends {
        frontend.service += u32::from(key.proto);
    }
    for endpoint in endpoints::<F>() {
        for proto in [crate::table::TCP, crate::table::UDP] {
            let mut key = backend::<F>(endpoint);
            key.service += u32::from(proto);
            let state = tables.backends.borrow()[&backend::<F>(endpoint)];
            tables.backends.borrow_mut().insert(key, state);
        }
    }
    let apart = (1..60).any(|host| {
        dst(
            FromPod,
            tcp(pod::<F>(host), cluster_ip::<F>(1)).syn(),
            &tables,
        ) != dst(FromPod, udp(pod::<F>(host), cluster_ip::<F>(1)), &tables)
    });
    assert!(apart);
}

fn a_lost_flow_finds_its_backend_by_affinity<F: Family>() {
    let tables = sticky::<F>();
    for sport in 2_000..2_050 {
        tables.affinities.borrow_mut().clear();
        let frame = tcp(pod::<F>(1), cluster_ip::<F>(1)).sport(sport);
        let first = dst(FromPod, frame.clone().syn(), &tables);
        tables.flows.borrow_mut().clear();
        assert_eq!(dst(FromPod, frame, &tables), first);
    }
}

fn an_endpoint_without_weight_gets_no_new_connections_by_affinity<F: Family>() {
    let tables = sticky::<F>();
    let first = dst(FromPod, tcp(pod::<F>(1), cluster_ip::<F>(1)).syn(), &tables);
    state(&tables, first, CLUSTER_SET, 0);
    assert!(leaves(&tables, 2_000..2_040, first));
}

fn restricted<F: Family>(hosts: &[u8]) -> Memory<F> {
    let mut tables = service::<F>(|frontend| frontend.flags |= frontend_flags::SOURCE_RANGES);
    for host in hosts {
        for ip in [pod::<F>(*host), outside::<F>(*host)] {
            let source = Source {
                service: SERVICE,
                addr: addr::<F>(ip),
            };
            tables
                .ranges
                .insert((source, size_of::<F::Addr>() as u32 * 8));
        }
    }
    tables
}

fn a_source_out_of_range_is_dropped<F: Family>() {
    let tables = restricted::<F>(&[1]);
    for (hook, allowed, kept_out) in [
        (FromPod, pod::<F>(1), pod::<F>(2)),
        (FromOutside, outside::<F>(1), outside::<F>(2)),
        (ToOutside(true), pod::<F>(1), node::<F>()),
    ] {
        for make in [tcp, udp] {
            let frame = |src| make(src, external_ip::<F>(1)).flags(2).build();
            meet(hook, &frame(allowed), &tables).sent();
            let flows = tables.flows.borrow().len();
            let out = meet(hook, &frame(kept_out), &tables);
            assert_eq!(out.because(), Reason::SourceRange);
            assert_eq!(tables.flows.borrow().len(), flows, "no flow is opened");
        }
    }
}

fn known_flows_outlive_a_change_of_ranges<F: Family>() {
    for make in [tcp, udp] {
        let mut tables = restricted::<F>(&[1]);
        let frame = make(pod::<F>(1), external_ip::<F>(1));
        let backend = dst(FromPod, frame.clone().flags(2), &tables);
        tables.ranges.clear();
        assert_eq!(dst(FromPod, frame.clone().flags(16), &tables), backend);
        let new = meet(FromPod, &frame.sport(5).flags(2).build(), &tables);
        assert_eq!(new.because(), Reason::SourceRange);
    }
}

fn round_robin_serves_new_flows_in_turn<F: Family>() {
    let tables = service::<F>(|frontend| frontend.flags = frontend_flags::ROUND_ROBIN);
    for sport in 2_000..2_012 {
        let frame = tcp(pod::<F>(1), cluster_ip::<F>(1)).sport(sport);
        let expected = endpoints::<F>()[usize::from(sport - 2_000) % 3];
        assert_eq!(dst(FromPod, frame.clone().syn(), &tables), expected);
        // Its later packets take no turn.
        assert_eq!(dst(FromPod, frame, &tables), expected);
    }
}

fn open_connections<F: Family>(tables: &Memory<F>) -> Vec<u64> {
    let backends = tables.backends.borrow();
    endpoints::<F>()
        .iter()
        .map(|endpoint| backends[&backend::<F>(*endpoint)].connections)
        .collect()
}

fn counted<F: Family>() -> Memory<F> {
    service::<F>(|frontend| frontend.flags = frontend_flags::LEAST_CONNECTIONS)
}

fn connections_are_counted_from_open_to_the_first_close<F: Family>() {
    let tables = counted::<F>();
    let connect = |sport| tcp(pod::<F>(1), cluster_ip::<F>(1)).sport(sport);
    for sport in 2_000..2_300 {
        dst(FromPod, connect(sport).syn(), &tables);
        dst(FromPod, connect(sport).syn(), &tables);
        dst(FromPod, connect(sport), &tables);
    }
    let open = open_connections(&tables);
    assert_eq!(open.iter().sum::<u64>(), 300);
    assert!(open.iter().all(|n| (90..110).contains(n)), "{open:?}");
    for sport in 2_000..2_300 {
        let backend = dst(FromPod, connect(sport), &tables);
        let answer = connect(sport)
            .from(backend.0, backend.1)
            .to(pod::<F>(1), sport);
        let last = [
            (FromPod, connect(sport).fin()),
            (ToPod, answer.clone().fin()),
            (FromPod, connect(sport).fin()),
            (FromPod, connect(sport).rst()),
        ];
        let offset = usize::from(sport % 2);
        for (hook, frame) in last.into_iter().skip(offset) {
            meet(hook, &frame.build(), &tables).sent();
        }
        assert_eq!(
            open_connections(&tables).iter().sum::<u64>(),
            u64::from(2_299 - sport)
        );
    }
    // The same port again is a new connection.
    dst(FromPod, connect(2_000).syn(), &tables);
    assert_eq!(open_connections(&tables).iter().sum::<u64>(), 1);
    // Datagrams have a beginning, but no end.
    dst(FromPod, udp(pod::<F>(1), cluster_ip::<F>(1)), &tables);
    assert_eq!(open_connections(&tables).iter().sum::<u64>(), 2);
}

fn a_lost_flow_is_not_counted_again<F: Family>() {
    let tables = counted::<F>();
    let frame = tcp(pod::<F>(1), cluster_ip::<F>(1));
    dst(FromPod, frame.clone().syn(), &tables);
    tables.flows.borrow_mut().clear();
    dst(FromPod, frame, &tables);
    assert_eq!(open_connections(&tables).iter().sum::<u64>(), 1);
}
