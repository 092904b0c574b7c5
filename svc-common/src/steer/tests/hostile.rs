//! What packets of strangers cannot have: flows by forged sources, by answers or by errors, and ways round source ranges.

use std::net::IpAddr;

use super::world;
use crate::family::Family;
use crate::memory::Memory;
use crate::reason::Reason;
use crate::table::{Scope, Source, TCP, UDP, address_flags, frontend_flags, node_flags};
use crate::testing::Hook::{self, FromOutside, ToOutside};
use crate::testing::frames::{Frame, icmp_error, tcp, udp};
use crate::testing::{
    addr, both_families, cluster_ip, external_ip, meet, node, outside, pod, serve,
};

both_families!(
    nobody_outside_has_an_address_of_the_node_or_a_cluster_ip,
    an_answer_without_a_flow_opens_none,
    a_forged_answer_goes_nowhere_but_to_the_client_of_its_flow,
    an_error_changes_no_flow_and_a_lying_one_meets_none,
    source_ranges_hold_for_every_part_of_a_datagram,
    source_ranges_hold_whatever_else_the_client_has_open,
    a_mapped_address_is_in_no_range_and_has_no_frontend,
);

const SERVICE: u32 = 80;

fn open_to_all<F: Family>() -> Memory<F> {
    let mut tables = world::<F>();
    for proto in [TCP, UDP] {
        for scope in [Scope::Internal, Scope::External] {
            for vip in [(external_ip::<F>(1), 80), (node::<F>(), 30_080)] {
                serve(&mut tables, vip, proto, scope, 0, &[(pod::<F>(2), 8_080)]);
            }
        }
    }
    tables
}

fn nobody_outside_has_an_address_of_the_node_or_a_cluster_ip<F: Family>() {
    let mut tables = open_to_all::<F>();
    for flags in [0, node_flags::EXTERNAL_CLUSTER_IP, node_flags::CLUSTER_CIDR] {
        tables.config.as_mut().unwrap().flags = flags;
        for src in [node::<F>(), cluster_ip::<F>(1), cluster_ip::<F>(7)] {
            for to in [(external_ip::<F>(1), 80), (node::<F>(), 30_080)] {
                for make in [tcp, udp] {
                    let frame = make(src, to.0).port(to.1).flags(2).build();
                    let out = meet(FromOutside, &frame, &tables);
                    assert!(out.is_not_ours(), "{src} → {to:?}: {:?}", out.result);
                    assert_eq!(out.frame, frame);
                }
            }
        }
    }
    assert!(tables.flows.borrow().is_empty());
    // A node may have a load balancer's address on a device of its own, and ask from it.
    let frame = tcp(external_ip::<F>(2), external_ip::<F>(1)).syn().build();
    meet(FromOutside, &frame, &tables).sent();
}

fn an_answer_without_a_flow_opens_none<F: Family>() {
    let tables = open_to_all::<F>();
    for make in [tcp, udp] {
        for (src, dst) in [
            (pod::<F>(2), outside::<F>(1)),
            (pod::<F>(2), node::<F>()),
            (pod::<F>(2), pod::<F>(1)),
            (external_ip::<F>(1), outside::<F>(1)),
        ] {
            let frame = make(src, dst).sport(8_080).port(61_000).flags(0x12).build();
            for hook in Hook::ALL {
                assert!(meet(hook, &frame, &tables).is_not_ours());
            }
        }
    }
    assert!(tables.flows.borrow().is_empty());
}

/// As with the kernel's connection tracking, who knows all of a tuple can speak to its client, and to nobody else.
fn a_forged_answer_goes_nowhere_but_to_the_client_of_its_flow<F: Family>() {
    let tables = open_to_all::<F>();
    let client = (outside::<F>(1), 40_000);
    let asked = tcp(client.0, external_ip::<F>(1)).syn();
    meet(FromOutside, &asked.build(), &tables).sent();
    let forged = tcp(pod::<F>(2), client.0).sport(8_080).port(client.1);
    let before = tables.flows.borrow().len();
    assert!(meet(FromOutside, &forged.build(), &tables).is_not_ours());
    let out = meet(ToOutside(false), &forged.build(), &tables).sent();
    assert_eq!((out.src, out.dst), ((external_ip::<F>(1), 80), client));
    for frame in [forged.clone().sport(8_081), forged.port(40_001)] {
        assert!(meet(ToOutside(false), &frame.build(), &tables).is_not_ours());
    }
    assert_eq!(tables.flows.borrow().len(), before);
}

fn an_error_changes_no_flow_and_a_lying_one_meets_none<F: Family>() {
    let tables = open_to_all::<F>();
    for make in [tcp, udp] {
        let asked = make(outside::<F>(1), external_ip::<F>(1)).flags(2);
        meet(FromOutside, &asked.build(), &tables).sent();
        let flows = tables.flows.borrow().clone();
        tables.now.set(tables.now.get() + 10);
        // The client's router, about an answer.
        let answer = asked.clone().reversed();
        let error = icmp_error(outside::<F>(9), external_ip::<F>(1), &answer);
        meet(FromOutside, &error.build(), &tables).sent();
        for to in [external_ip::<F>(2), cluster_ip::<F>(1), node::<F>()] {
            let lie = icmp_error(outside::<F>(9), to, &answer).build();
            let out = meet(FromOutside, &lie, &tables);
            assert!(out.is_not_ours() && out.frame == lie, "{to}");
        }
        // About a packet that nobody has sent.
        let never = icmp_error(outside::<F>(9), external_ip::<F>(1), &answer.port(41_000));
        assert!(meet(FromOutside, &never.build(), &tables).is_not_ours());
        assert_eq!(*tables.flows.borrow(), flows, "not even kept alive");
    }
}

/// `external_ip(1)` answers `outside(1)`; the node port of the same Service answers all.
fn restricted<F: Family>() -> Memory<F> {
    let mut tables = open_to_all::<F>();
    let vip = addr::<F>(external_ip::<F>(1));
    for (key, frontend) in &mut tables.frontends {
        frontend.service = SERVICE;
        if key.addr == vip {
            frontend.flags |= frontend_flags::SOURCE_RANGES;
        }
    }
    let source = Source {
        service: SERVICE,
        addr: addr::<F>(outside::<F>(1)),
    };
    tables
        .ranges
        .insert((source, size_of::<F::Addr>() as u32 * 8));
    tables
}

#[track_caller]
fn kept_out<F: Family>(frame: &Frame, tables: &Memory<F>) {
    let out = meet(FromOutside, &frame.build(), tables);
    assert_eq!(out.because(), Reason::SourceRange);
}

fn source_ranges_hold_for_every_part_of_a_datagram<F: Family>() {
    let tables = restricted::<F>();
    for id in 1..3 {
        let part = |src: IpAddr, offset, more| {
            let frame = udp(src, external_ip::<F>(1)).payload(&[7; 64]);
            frame.fragment(id, offset, more)
        };
        let (good, bad) = (outside::<F>(1), outside::<F>(2));
        // Whoever may has a datagram of the same identification under way.
        meet(FromOutside, &part(good, 0, true).build(), &tables).sent();
        kept_out(&part(bad, 0, true), &tables);
        kept_out(&part(bad, 9, true), &tables);
        kept_out(&part(bad, 18, false), &tables);
        meet(FromOutside, &part(good, 9, false).build(), &tables).sent();
    }
    let flows = tables.flows.borrow();
    let good = addr::<F>(outside::<F>(1));
    assert!(flows.values().all(|flow| flow.forward.src == good));
}

fn source_ranges_hold_whatever_else_the_client_has_open<F: Family>() {
    let tables = restricted::<F>();
    for make in [tcp, udp] {
        // By another frontend of the Service, from the very same port, to the same backend.
        let asked = make(outside::<F>(2), node::<F>()).port(30_080).flags(2);
        meet(FromOutside, &asked.build(), &tables).sent();
        for flags in [2, 16, 18, 1] {
            kept_out(
                &make(outside::<F>(2), external_ip::<F>(1)).flags(flags),
                &tables,
            );
        }
        // As the answer of a flow would look that somebody else has with the backend.
        let served = make(outside::<F>(1), external_ip::<F>(1)).flags(2);
        meet(FromOutside, &served.build(), &tables).sent();
        let turned = make(pod::<F>(2), external_ip::<F>(1)).sport(8_080);
        kept_out(&turned, &tables);
    }
}

fn a_mapped_address_is_in_no_range_and_has_no_frontend<F: Family>() {
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::from(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => "::ffff:10.9.0.1".parse().unwrap(),
    };
    // On the wire such an address is but an address of IPv6.
    if F::VERSION == 4 {
        assert!(F::addr_from_std(mapped(outside::<F>(1))).is_none());
        return;
    }
    let mut tables = restricted::<F>();
    kept_out(&udp(mapped(outside::<F>(1)), external_ip::<F>(1)), &tables);
    let to = "::ffff:10.50.0.1".parse::<IpAddr>().unwrap();
    let frame = tcp(outside::<F>(1), to).syn().build();
    assert!(meet(FromOutside, &frame, &tables).is_not_ours());
    tables
        .addresses
        .insert(addr::<F>(to), address_flags::EXTERNAL);
    assert!(meet(FromOutside, &frame, &tables).is_not_ours());
}
