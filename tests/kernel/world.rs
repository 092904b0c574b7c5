//! Addresses and Services of the tests, as a [`Memory`].

use std::net::IpAddr;

use svc_common::family::{Family, Port};
use svc_common::memory::Memory;
use svc_common::table::{
    Backend, BackendState, CLUSTER, Frontend, FrontendKey, NodeConfig, SCTP, Scope, Source, TCP,
    UDP, address_flags, backend_flags, backend_state, frontend_flags,
};

/// Host `host` of network `net`: 10.net.0.host or fd00:net::host. What the networks are: [`crate::network`];
/// 96 is ClusterIPs, 50 LoadBalancer addresses.
pub(crate) fn at<F: Family>(net: u8, host: u8) -> IpAddr {
    if F::VERSION == 4 {
        [10, net, 0, host].into()
    } else {
        [0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)].into()
    }
}

pub(crate) fn addr<F: Family>(net: u8, host: u8) -> F::Addr {
    F::addr_from_std(at::<F>(net, host)).expect("made for this family")
}

pub(crate) const SNAT_MIN: u16 = 61_000;
pub(crate) const SNAT_MAX: u16 = 61_007;
/// Slots of one run are at most so many.
pub(crate) const MAX_RUN: u32 = 4;

/// A Service's address, its port, and the networks and hosts of its endpoints (port 8080).
type Plain = ((u8, u8), u16, &'static [(u8, u8)]);

/// Every kind of endpoint there is, each alone and all together.
const PLAIN: [Plain; 11] = [
    ((96, 1), 80, &[(1, 2)]),
    ((96, 2), 80, EVERYWHERE),
    ((96, 3), 80, &[(1, 1)]),
    ((96, 4), 80, &[]),
    ((96, 5), 80, &[(0, 1)]),
    ((96, 8), 80, &[(2, 1)]),
    ((50, 1), 80, &[(2, 1)]),
    ((50, 2), 80, &[(4, 1)]),
    ((50, 3), 80, &[(5, 1), (6, 1)]),
    ((50, 4), 80, &[]),
    ((0, 1), 30_080, &[(1, 2), (2, 1), (4, 2)]),
];

const EVERYWHERE: &[(u8, u8)] = &[(1, 2), (2, 1), (4, 1), (1, 1)];
/// Seconds of affinity, where there is any.
pub(crate) const WINDOW: u32 = 60;

/// Frontends that choose in a way of their own: the address, and flags and affinity inside and outside.
const CHOOSING: [((u8, u8), u32, u32); 5] = [
    ((96, 7), 0, WINDOW),
    // Of the same Service; outside, only what is here.
    ((50, 7), frontend_flags::LOCAL_SET, WINDOW),
    ((50, 8), frontend_flags::ROUND_ROBIN, 0),
    ((50, 9), frontend_flags::LEAST_CONNECTIONS, 0),
    ((50, 6), frontend_flags::SOURCE_RANGES, 0),
];

pub(crate) fn new<F: Family>() -> Memory<F> {
    let mut tables = Memory {
        config: Some(NodeConfig {
            snat_min: SNAT_MIN,
            snat_max: SNAT_MAX,
            ..NodeConfig::default()
        }),
        node_address: Some(addr::<F>(0, 1)),
        ..Memory::default()
    };
    tables
        .addresses
        .insert(addr::<F>(0, 1), address_flags::NODE);
    tables
        .addresses
        .insert(addr::<F>(3, 1), address_flags::NODE);
    for host in 1..10 {
        tables
            .addresses
            .insert(addr::<F>(96, host), address_flags::CLUSTER_IP);
        tables
            .addresses
            .insert(addr::<F>(50, host), address_flags::EXTERNAL);
        for (net, source) in [(2, (0, 1)), (5, (0, 1)), (9, (0, 1)), (4, (3, 1))] {
            tables
                .routes
                .insert(addr::<F>(net, host), addr::<F>(source.0, source.1));
        }
    }
    for (vip, port, endpoints) in PLAIN {
        for scope in [Scope::Internal, Scope::External] {
            let flags = match (scope, vip) {
                (Scope::External, (96, _)) => continue,
                (Scope::External, (50, 4)) => frontend_flags::DROP_WHEN_EMPTY,
                (Scope::External, _) => frontend_flags::MAGLEV,
                (Scope::Internal, _) => 0,
            };
            serve(&mut tables, vip, port, scope, endpoints, flags, 0);
        }
    }
    for (vip, flags, affinity) in CHOOSING {
        let local = frontend_flags::LOCAL_SET;
        serve(
            &mut tables,
            vip,
            80,
            Scope::Internal,
            EVERYWHERE,
            flags & !local,
            affinity,
        );
        let endpoints = if flags & local != 0 {
            &[(1, 2), (1, 1)]
        } else {
            EVERYWHERE
        };
        serve(
            &mut tables,
            vip,
            80,
            Scope::External,
            endpoints,
            flags,
            affinity,
        );
    }
    // The clients that may, and the pods of other nodes.
    for proto in [TCP, UDP, SCTP] {
        let service = service((50, 6), proto);
        allow(&mut tables, service, (9, 1), 0);
        allow(&mut tables, service, (1, 0), 8);
    }
    allow(&mut tables, CLUSTER, (2, 0), 8);
    tables
}

/// The id of a Service's port. Where the last digit is 7, it is one Service.
pub(crate) fn service((net, host): (u8, u8), proto: u8) -> u32 {
    let net = if host == 7 { 0 } else { u32::from(net) };
    net << 16 | u32::from(host) << 8 | u32::from(proto)
}

/// Adds a source range: all but the last `wild` bits of an address.
pub(crate) fn allow<F: Family>(
    tables: &mut Memory<F>,
    service: u32,
    (net, host): (u8, u8),
    wild: u32,
) {
    let source = Source {
        service,
        addr: addr::<F>(net, host),
    };
    let bits = size_of::<F::Addr>() as u32 * 8;
    tables.ranges.insert((source, bits - wild));
}

fn serve<F: Family>(
    tables: &mut Memory<F>,
    vip: (u8, u8),
    port: u16,
    scope: Scope,
    endpoints: &[(u8, u8)],
    flags: u32,
    affinity: u32,
) {
    let first = tables.slots.keys().last().map_or(0, |last| last + 1);
    for (slot, (net, host)) in (first..).zip(endpoints) {
        let local = matches!(net, 0 | 1);
        let backend = Backend {
            addr: addr::<F>(*net, *host),
            port: Port::new(8_080),
            flags: if local { backend_flags::LOCAL } else { 0 },
        };
        tables.slots.insert(slot, backend);
        let place = if local {
            backend_state::IN_LOCAL_SET | backend_state::LOCAL
        } else {
            backend_state::REMOTE
        };
        let state = BackendState {
            flags: backend_state::SERVING | backend_state::IN_CLUSTER_SET | place,
            weight: 1,
            ..BackendState::default()
        };
        for proto in [TCP, UDP, SCTP] {
            let key = backend.key(service(vip, proto));
            tables.backends.borrow_mut().insert(key, state);
        }
    }
    for proto in [TCP, UDP, SCTP] {
        let key = FrontendKey {
            addr: addr::<F>(vip.0, vip.1),
            port: Port::new(port),
            proto,
            scope: scope as u8,
        };
        let frontend = Frontend {
            first,
            count: endpoints.len() as u32,
            service: service(vip, proto),
            flags,
            affinity,
        };
        tables.frontends.insert(key, frontend);
    }
}
