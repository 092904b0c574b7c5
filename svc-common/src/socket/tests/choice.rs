//! What the hook leaves to the packet path, and how it chooses on the node's own addresses, where no packet is met.

use std::collections::BTreeSet;

use super::{NODE, POD, call, loopback, world};
use crate::family::{Family, Port};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::socket::Mode;
use crate::table::{
    BackendKey, BackendState, Frontend, Source, TCP, UDP, backend_state, frontend_flags, node_flags,
};
use crate::testing::Hook::FromPod;
use crate::testing::frames::tcp;
use crate::testing::{Endpoint, addr, both_families, cluster_ip, external_ip, meet, node, pod};

both_families!(
    what_takes_the_clients_address_is_left_to_the_packet_path,
    round_robin_is_for_connections,
    masquerade_all_leaves_cluster_ips_of_pods_to_the_packet_path,
    a_node_port_on_the_node_itself_keeps_its_backend_by_affinity,
    both_paths_share_one_affinity,
    datagrams_of_one_socket_are_one_connection,
    source_ranges_hold_on_the_nodes_own_addresses,
    connections_are_weighed_on_the_nodes_own_addresses,
);

const SERVICE: u32 = 1;
const WINDOW: u32 = 60;

fn service<F: Family>(settings: impl Fn(&mut Frontend)) -> Memory<F> {
    let mut tables = world::<F>(Mode::All);
    for frontend in tables.frontends.values_mut() {
        frontend.service = SERVICE;
        settings(frontend);
    }
    for host in 1..4 {
        let state = BackendState {
            flags: backend_state::SERVING | backend_state::IN_CLUSTER_SET,
            weight: 1,
            ..BackendState::default()
        };
        tables
            .backends
            .borrow_mut()
            .insert(backend::<F>(host), state);
    }
    tables
}

fn backend<F: Family>(host: u8) -> BackendKey<F> {
    BackendKey {
        service: SERVICE,
        addr: addr::<F>(pod::<F>(host)),
        port: Port::new(8_080),
        _pad: 0,
    }
}

/// The NodePort on the node's own addresses.
fn own<F: Family>() -> [Endpoint; 2] {
    [(loopback::<F>(), 30_080), (node::<F>(), 30_080)]
}

fn what_takes_the_clients_address_is_left_to_the_packet_path<F: Family>() {
    let settings: [fn(&mut Frontend); 3] = [
        |frontend| frontend.affinity = WINDOW,
        |frontend| frontend.flags |= frontend_flags::SOURCE_RANGES,
        |frontend| frontend.flags |= frontend_flags::LEAST_CONNECTIONS,
    ];
    for setting in settings {
        let tables = service::<F>(setting);
        for proto in [TCP, UDP] {
            for (netns, frontend) in [
                (POD, (cluster_ip::<F>(1), 80)),
                (NODE, (cluster_ip::<F>(1), 80)),
                (POD, (external_ip::<F>(1), 80)),
                (POD, (node::<F>(), 30_080)),
            ] {
                assert_eq!(call(&tables, netns, frontend, proto, 1), Ok(None));
            }
        }
        assert!(tables.affinities.borrow().is_empty());
    }
}

fn round_robin_is_for_connections<F: Family>() {
    let tables = service::<F>(|frontend| frontend.flags |= frontend_flags::ROUND_ROBIN);
    let frontend = (cluster_ip::<F>(1), 80);
    let connect = |cookie| call(&tables, POD, frontend, TCP, cookie).unwrap().unwrap();
    for cookie in 0..9 {
        let expected = (pod::<F>(1 + cookie as u8 % 3), 8_080);
        assert_eq!(connect(cookie), expected);
    }
    assert_eq!(call(&tables, POD, frontend, UDP, 1), Ok(None));
}

fn masquerade_all_leaves_cluster_ips_of_pods_to_the_packet_path<F: Family>() {
    let mut tables = world::<F>(Mode::All);
    tables.config.as_mut().unwrap().flags = node_flags::MASQUERADE_ALL;
    for (netns, ip, served) in [
        (POD, cluster_ip::<F>(1), false),
        (POD, external_ip::<F>(1), true),
        // Its sockets have the node's address anyway.
        (NODE, cluster_ip::<F>(1), true),
    ] {
        let out = call(&tables, netns, (ip, 80), TCP, 1).unwrap();
        assert_eq!(out.is_some(), served, "{netns} {ip}");
    }
}

fn a_node_port_on_the_node_itself_keeps_its_backend_by_affinity<F: Family>() {
    let mut firsts = BTreeSet::new();
    for seed in 1..40 {
        let tables = service::<F>(|frontend| frontend.affinity = WINDOW);
        tables
            .seed
            .set(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let first = call(&tables, NODE, own::<F>()[0], TCP, 1_000)
            .unwrap()
            .unwrap();
        firsts.insert(first);
        for cookie in 1..40 {
            // Each connection restarts the window.
            tables.now.set(tables.now.get() + WINDOW);
            for proto in [TCP, UDP] {
                for frontend in own::<F>() {
                    let socket = cookie * 2 + u64::from(proto == TCP);
                    let backend = call(&tables, NODE, frontend, proto, socket);
                    assert_eq!(backend, Ok(Some(first)));
                }
            }
        }
    }
    assert_eq!(firsts.len(), 3, "they spread");
}

fn both_paths_share_one_affinity<F: Family>() {
    for _ in 0..10 {
        let tables = service::<F>(|frontend| frontend.affinity = WINDOW);
        let packet = tcp(node::<F>(), cluster_ip::<F>(1)).syn().build();
        let backend = meet(FromPod, &packet, &tables).sent().dst;
        for cookie in 0..20 {
            let chosen = call(&tables, NODE, own::<F>()[0], TCP, cookie);
            assert_eq!(chosen, Ok(Some(backend)));
        }
    }
}

fn datagrams_of_one_socket_are_one_connection<F: Family>() {
    let tables = service::<F>(|frontend| frontend.affinity = WINDOW);
    let send = |cookie| {
        call(&tables, NODE, own::<F>()[0], UDP, cookie)
            .unwrap()
            .unwrap()
    };
    let first = send(1);
    // However long it goes on, and without restarting the window.
    for _ in 0..10 {
        tables.now.set(tables.now.get() + WINDOW / 3);
        assert_eq!(send(1), first);
    }
    let elsewhere = (2..60).find(|cookie| {
        let seen = tables.affinities.borrow().clone();
        let moved = send(*cookie) != first;
        if !moved {
            *tables.affinities.borrow_mut() = seen;
        }
        moved
    });
    assert!(elsewhere.is_some(), "the window was over");
}

fn source_ranges_hold_on_the_nodes_own_addresses<F: Family>() {
    // A LoadBalancer address that is the node's own.
    let vip = (node::<F>(), 2_379);
    let mut tables = service::<F>(|frontend| frontend.flags |= frontend_flags::SOURCE_RANGES);
    for proto in [TCP, UDP] {
        assert_eq!(call(&tables, NODE, vip, proto, 1), Err(Reason::SourceRange));
    }
    let source = Source {
        service: SERVICE,
        addr: addr::<F>(node::<F>()),
    };
    tables
        .ranges
        .insert((source, size_of::<F::Addr>() as u32 * 8));
    assert!(call(&tables, NODE, vip, TCP, 1).unwrap().is_some());
}

fn connections_are_weighed_on_the_nodes_own_addresses<F: Family>() {
    let tables = service::<F>(|frontend| frontend.flags |= frontend_flags::LEAST_CONNECTIONS);
    for host in [1, 2] {
        let mut backends = tables.backends.borrow_mut();
        backends.get_mut(&backend::<F>(host)).unwrap().connections = u64::from(host);
    }
    let mut picks = [0; 4];
    for cookie in 0..300 {
        let (ip, _) = call(&tables, NODE, own::<F>()[1], TCP, cookie)
            .unwrap()
            .unwrap();
        let host = (1..4).find(|host| ip == pod::<F>(*host)).unwrap();
        picks[usize::from(host)] += 1;
    }
    // The most loaded of three never wins a comparison.
    assert!(picks[2] == 0 && picks[3] > picks[1], "{picks:?}");
}
