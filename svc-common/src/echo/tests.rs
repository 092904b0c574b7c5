use std::net::IpAddr;

use crate::family::Family;
use crate::memory::Memory;
use crate::packet::Packet;
use crate::reason::{Aside, Reason};
use crate::steer::{self, Work};
use crate::table::{Scope, address_flags, node_flags};
use crate::testing::frames::{Frame, echo};
use crate::testing::{addr, both_families, cluster, cluster_ip, external_ip, node, outside, pod};
use crate::wire::ETH_LEN;

both_families!(
    who_may_see_a_virtual_address_may_ping_it,
    an_address_of_the_node_is_answered_by_the_node,
    a_ping_with_options_passes,
    the_answer_equals_a_built_one,
);

const ANSWERED: Result<(), Aside> = Ok(());
const LEFT_ALONE: Result<(), Aside> = Err(Aside::NotOurs);

fn finish<F: Family>(
    scope: Scope,
    packet: &Packet,
    aside: Aside,
    work: &Work<F>,
    tables: &Memory<F>,
) -> Result<(), Aside> {
    if aside != Aside::Echo {
        return Err(aside);
    }
    super::answer(scope, packet, ETH_LEN, &work.segment, tables)
}

/// A ping that comes in.
fn heard<F: Family>(
    tables: &Memory<F>,
    scope: Scope,
    ping: &Frame,
) -> (Result<(), Aside>, Vec<u8>) {
    let (mut frame, mut work) = (ping.build(), Work::<F>::EMPTY);
    let packet = Packet::of(&mut frame);
    let aside = steer::ingress(scope, &packet, ETH_LEN, tables, &mut work).expect_err("no flow");
    (finish(scope, &packet, aside, &work, tables), frame)
}

/// A ping that goes out.
fn sent<F: Family>(tables: &Memory<F>, local: bool, ping: &Frame) -> Result<(), Aside> {
    let (mut frame, mut work) = (ping.build(), Work::<F>::EMPTY);
    let packet = Packet::of(&mut frame);
    let aside = steer::egress(local, &packet, ETH_LEN, tables, &mut work).expect_err("no flow");
    finish(Scope::Internal, &packet, aside, &work, tables)
}

fn who_may_see_a_virtual_address_may_ping_it<F: Family>() {
    let mut tables = cluster::<F>();
    let (inside, vip) = (cluster_ip::<F>(1), external_ip::<F>(1));
    for dst in [inside, vip] {
        let of_pod = echo(pod::<F>(1), dst);
        assert_eq!(heard(&tables, Scope::Internal, &of_pod).0, ANSWERED);
        assert_eq!(sent(&tables, true, &echo(node::<F>(), dst)), ANSWERED);
        assert_eq!(sent(&tables, false, &of_pod), LEFT_ALONE);
    }
    let from_outside =
        |tables: &_, dst: IpAddr| heard(tables, Scope::External, &echo(outside::<F>(1), dst)).0;
    assert_eq!(from_outside(&tables, vip), ANSWERED);
    assert_eq!(
        from_outside(&tables, inside),
        Err(Aside::Because(Reason::ClusterIpFromOutside))
    );
    let config = tables.config.as_mut().unwrap();
    config.flags |= node_flags::EXTERNAL_CLUSTER_IP;
    assert_eq!(from_outside(&tables, inside), ANSWERED);
}

fn an_address_of_the_node_is_answered_by_the_node<F: Family>() {
    let mut tables = cluster::<F>();
    let vip = external_ip::<F>(1);
    let own = address_flags::EXTERNAL | address_flags::NODE;
    tables.addresses.insert(addr::<F>(vip), own);
    for dst in [vip, node::<F>()] {
        let from_outside = heard(&tables, Scope::External, &echo(outside::<F>(1), dst));
        assert_eq!(from_outside.0, LEFT_ALONE);
        assert_eq!(sent(&tables, true, &echo(node::<F>(), dst)), LEFT_ALONE);
    }
}

fn a_ping_with_options_passes<F: Family>() {
    if F::VERSION == 4 {
        let ping = echo(pod::<F>(1), cluster_ip::<F>(1)).options(1);
        let (result, frame) = heard(&cluster::<F>(), Scope::Internal, &ping);
        assert_eq!((result, frame), (LEFT_ALONE, ping.build()));
    }
}

fn the_answer_equals_a_built_one<F: Family>() {
    let ping = echo(pod::<F>(1), cluster_ip::<F>(1));
    let (result, frame) = heard(&cluster::<F>(), Scope::Internal, &ping.clone().ttl(3));
    assert_eq!(result, ANSWERED);
    let answer = ping
        .reversed()
        .kind([F::ECHO_REPLY, 0])
        .macs([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    assert_eq!(frame, answer.build());
}
