mod choice;

use super::{Caller, Mode, Target, binds_node_port, connect, peer};
use crate::family::{Family, Port};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::table::{Backend, Scope, TCP, Tables, UDP, frontend_flags};
use crate::testing::{
    Endpoint, NETNS, addr, both_families, cluster, cluster_ip, external_ip, node, pod, serve,
};

both_families!(
    every_mode_serves_whom_it_says,
    a_node_port_on_loopback_is_served_for_the_nodes_processes_only,
    no_endpoints_and_undefined_ports_are_refused,
    a_udp_socket_keeps_its_backend,
    tcp_connections_spread,
    a_bind_of_a_node_port_is_noticed_on_the_node_only,
);

const NODE: u64 = NETNS;
const POD: u64 = NETNS + 1;

fn world<F: Family>(mode: Mode) -> Memory<F> {
    let mut tables = cluster::<F>();
    tables.config.as_mut().unwrap().socket_lb = mode as u32;
    for proto in [TCP, UDP] {
        for (frontend, flags) in [
            ((cluster_ip::<F>(1), 80), 0),
            ((node::<F>(), 30_080), frontend_flags::NODE_PORT),
            // An external IP that is the node's own address.
            ((node::<F>(), 2_379), 0),
            ((external_ip::<F>(1), 80), 0),
        ] {
            let endpoints = [
                (pod::<F>(1), 8_080),
                (pod::<F>(2), 8_080),
                (pod::<F>(3), 8_080),
            ];
            serve(
                &mut tables,
                frontend,
                proto,
                Scope::Internal,
                flags,
                &endpoints,
            );
        }
    }
    tables
}

fn loopback<F: Family>() -> std::net::IpAddr {
    if F::VERSION == 4 {
        [127, 0, 0, 1].into()
    } else {
        std::net::Ipv6Addr::LOCALHOST.into()
    }
}

fn call<F: Family>(
    tables: &Memory<F>,
    netns: u64,
    (ip, port): Endpoint,
    proto: u8,
    cookie: u64,
) -> Result<Option<Endpoint>, Reason> {
    let target = Target::<F> {
        addr: addr::<F>(ip),
        port: Port::new(port),
        proto,
    };
    let caller = Caller {
        cookie,
        netns_cookie: netns,
    };
    let mut backend = Backend::EMPTY;
    if !connect(&caller, &target, tables, &mut backend, &mut 0)? {
        return Ok(None);
    }
    // As the hook does.
    tables.remember_socket(&caller.key(backend.addr, backend.port), &peer(&target));
    Ok(Some((F::addr_to_std(backend.addr), backend.port.get())))
}

fn every_mode_serves_whom_it_says<F: Family>() {
    // Mode, caller, protocol: is a ClusterIP served, is a NodePort on the node's own address served?
    let table = [
        (Mode::Off, NODE, TCP, false, false),
        (Mode::Off, POD, TCP, false, false),
        (Mode::Off, NODE, UDP, false, false),
        (Mode::Off, POD, UDP, false, false),
        (Mode::Tcp, NODE, TCP, true, true),
        (Mode::Tcp, POD, TCP, true, true),
        (Mode::Tcp, NODE, UDP, false, true),
        (Mode::Tcp, POD, UDP, false, false),
        (Mode::All, NODE, TCP, true, true),
        (Mode::All, POD, TCP, true, true),
        (Mode::All, NODE, UDP, true, true),
        (Mode::All, POD, UDP, true, true),
        (Mode::HostOnly, NODE, TCP, true, true),
        (Mode::HostOnly, POD, TCP, false, false),
        (Mode::HostOnly, NODE, UDP, true, true),
        (Mode::HostOnly, POD, UDP, false, false),
    ];
    for (mode, netns, proto, cluster_ip_served, node_port_served) in table {
        let tables = world::<F>(mode);
        let served = |frontend| call(&tables, netns, frontend, proto, 1).unwrap().is_some();
        let case = (mode, netns, proto);
        assert_eq!(
            served((cluster_ip::<F>(1), 80)),
            cluster_ip_served,
            "{case:?}"
        );
        assert_eq!(
            served((external_ip::<F>(1), 80)),
            cluster_ip_served,
            "{case:?}"
        );
        assert_eq!(served((node::<F>(), 30_080)), node_port_served, "{case:?}");
    }
}

fn a_node_port_on_loopback_is_served_for_the_nodes_processes_only<F: Family>() {
    for mode in [Mode::Tcp, Mode::All, Mode::HostOnly] {
        let tables = world::<F>(mode);
        for proto in [TCP, UDP] {
            assert!(
                call(&tables, NODE, (loopback::<F>(), 30_080), proto, 1)
                    .unwrap()
                    .is_some()
            );
            for port in [22, 2_379] {
                assert_eq!(
                    call(&tables, NODE, (loopback::<F>(), port), proto, 1),
                    Ok(None)
                );
            }
            assert_eq!(
                call(&tables, POD, (loopback::<F>(), 30_080), proto, 1),
                Ok(None)
            );
        }
    }
    assert_eq!(
        call(
            &world::<F>(Mode::Off),
            NODE,
            (loopback::<F>(), 30_080),
            TCP,
            1
        ),
        Ok(None)
    );
}

fn no_endpoints_and_undefined_ports_are_refused<F: Family>() {
    let mut tables = world::<F>(Mode::All);
    let empty = (cluster_ip::<F>(2), 80);
    serve(&mut tables, empty, TCP, Scope::Internal, 0, &[]);
    assert_eq!(call(&tables, POD, empty, TCP, 1), Err(Reason::NoEndpoints));
    serve(
        &mut tables,
        empty,
        TCP,
        Scope::Internal,
        frontend_flags::DROP_WHEN_EMPTY,
        &[],
    );
    assert_eq!(
        call(&tables, POD, empty, TCP, 1),
        Err(Reason::NoLocalEndpoints)
    );
    assert_eq!(
        call(&tables, POD, (cluster_ip::<F>(1), 81), TCP, 1),
        Err(Reason::UndefinedPort)
    );
    assert_eq!(call(&tables, POD, (node::<F>(), 22), TCP, 1), Ok(None));
    assert_eq!(
        call(&tables, POD, (external_ip::<F>(1), 22), TCP, 1),
        Ok(None)
    );
    assert_eq!(call(&tables, POD, (pod::<F>(1), 80), TCP, 1), Ok(None));
}

fn a_udp_socket_keeps_its_backend<F: Family>() {
    let tables = world::<F>(Mode::All);
    let picks: std::collections::BTreeSet<_> = (0..100)
        .map(|cookie| {
            let first = call(&tables, POD, (cluster_ip::<F>(1), 80), UDP, cookie)
                .unwrap()
                .unwrap();
            for _ in 0..10 {
                assert_eq!(
                    call(&tables, POD, (cluster_ip::<F>(1), 80), UDP, cookie),
                    Ok(Some(first))
                );
            }
            first
        })
        .collect();
    assert_eq!(picks.len(), 3, "sockets spread");
}

fn tcp_connections_spread<F: Family>() {
    let tables = world::<F>(Mode::Tcp);
    let picks: std::collections::BTreeSet<_> = (0..100)
        .map(|_| {
            call(&tables, POD, (cluster_ip::<F>(1), 80), TCP, 1)
                .unwrap()
                .unwrap()
        })
        .collect();
    assert_eq!(picks.len(), 3);
}

fn a_bind_of_a_node_port_is_noticed_on_the_node_only<F: Family>() {
    let any: std::net::IpAddr = if F::VERSION == 4 {
        [0, 0, 0, 0].into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let tables = world::<F>(Mode::Off);
    let binds = |netns_cookie, ip, port| {
        let target = Target::<F> {
            addr: addr::<F>(ip),
            port: Port::new(port),
            proto: UDP,
        };
        let caller = Caller {
            cookie: 1,
            netns_cookie,
        };
        binds_node_port(&caller, &target, &tables)
    };
    for ip in [any, node::<F>(), loopback::<F>()] {
        assert!(binds(NODE, ip, 30_080), "{ip}");
        assert!(!binds(POD, ip, 30_080), "{ip}, in a pod");
        for free in [0, 30_081, 2_379] {
            assert!(!binds(NODE, ip, free), "{ip} {free}");
        }
    }
    assert!(!binds(NODE, pod::<F>(1), 30_080));
}
