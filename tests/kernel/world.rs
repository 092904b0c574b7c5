//! Addresses and Services of the tests, as a [`Memory`].

use std::net::IpAddr;

use svc_common::family::{Family, Port};
use svc_common::memory::Memory;
use svc_common::table::{
    Backend, Frontend, FrontendKey, NodeConfig, SCTP, Scope, TCP, UDP, address_flags,
    backend_flags, frontend_flags,
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
type Service = ((u8, u8), u16, &'static [(u8, u8)]);

/// Every kind of endpoint there is, each alone and all together.
const SERVICES: [Service; 10] = [
    ((96, 1), 80, &[(1, 2)]),
    ((96, 2), 80, &[(1, 2), (2, 1), (4, 1), (1, 1)]),
    ((96, 3), 80, &[(1, 1)]),
    ((96, 4), 80, &[]),
    ((96, 5), 80, &[(0, 1)]),
    ((50, 1), 80, &[(2, 1)]),
    ((50, 2), 80, &[(4, 1)]),
    ((50, 3), 80, &[(5, 1), (6, 1)]),
    ((50, 4), 80, &[]),
    ((0, 1), 30_080, &[(1, 2), (2, 1), (4, 2)]),
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
    for (vip, port, endpoints) in SERVICES {
        serve(&mut tables, vip, port, endpoints);
    }
    tables
}

fn serve<F: Family>(tables: &mut Memory<F>, vip: (u8, u8), port: u16, endpoints: &[(u8, u8)]) {
    let first = tables.slots.keys().last().map_or(0, |last| last + 1);
    for (slot, (net, host)) in (first..).zip(endpoints) {
        let flags = if matches!(net, 0 | 1) {
            backend_flags::LOCAL
        } else {
            0
        };
        tables.slots.insert(
            slot,
            Backend {
                addr: addr::<F>(*net, *host),
                port: Port::new(8_080),
                flags,
            },
        );
    }
    let count = endpoints.len() as u32;
    for proto in [TCP, UDP, SCTP] {
        for scope in [Scope::Internal, Scope::External] {
            let flags = match (scope, vip) {
                (Scope::External, (96, _)) => continue,
                (Scope::External, (50, 4)) => frontend_flags::DROP_WHEN_EMPTY,
                (Scope::External, _) => frontend_flags::MAGLEV,
                (Scope::Internal, _) => 0,
            };
            let key = FrontendKey {
                addr: addr::<F>(vip.0, vip.1),
                port: Port::new(port),
                proto,
                scope: scope as u8,
            };
            tables.frontends.insert(
                key,
                Frontend {
                    first,
                    count,
                    service: 7,
                    flags,
                    affinity: 0,
                },
            );
        }
    }
}
