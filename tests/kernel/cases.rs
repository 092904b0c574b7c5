//! What is known beforehand: each kind of packet with the action it must meet, and the hostile corpus.

use std::net::IpAddr;

use svc_common::family::V4;
use svc_common::onward::Hop;
use svc_common::table::{BOUNCE, SCTP, node_flags};
use svc_common::wire::ETH_LEN;

use crate::frames::{Frame, echo, icmp_error, sctp, tcp, udp};
use crate::host::Program::{
    self, NodeEgress, NodeEgressForwarded, NodeIngress, NodeXdp, PodEgress, PodIngress,
};
use crate::host::action::*;
use crate::kernel::Keyed;
use crate::network::{NEIGHBOUR, within};
use crate::pair::Pair;
use crate::world::{addr, at};

impl<F: Keyed> Pair<F> {
    /// Both sides do `action`; the frame afterwards.
    #[track_caller]
    pub(crate) fn expect(&mut self, program: Program, frame: &Frame, action: u32) -> Vec<u8> {
        let verdict = self.run(program, &frame.build());
        assert_eq!(
            verdict.action as i32, action as i32,
            "{program:?} {frame:?}: {:?}",
            verdict.reason
        );
        verdict.frame
    }
}

/// Source and destination port, where no options are.
pub(crate) fn ports<F: Keyed>(frame: &[u8]) -> (u16, u16) {
    let l4 = &frame[ETH_LEN + F::LEN..];
    (
        u16::from_be_bytes([l4[0], l4[1]]),
        u16::from_be_bytes([l4[2], l4[3]]),
    )
}

pub(crate) fn ends<F: Keyed>(frame: &[u8]) -> (IpAddr, IpAddr) {
    let read = |off| {
        F::addr_to_std(bytemuck::pod_read_unaligned(
            &frame[ETH_LEN + off..][..size_of::<F::Addr>()],
        ))
    };
    (read(F::SRC), read(F::DST))
}

pub(crate) type Make = fn(IpAddr, IpAddr) -> Frame;

pub(crate) fn every_protocol<F: Keyed>(test: fn(&mut Pair<F>, Make)) {
    within(|network| {
        for make in [
            |src, dst| tcp(src, dst).syn(),
            |src, dst| udp(src, dst).payload(b"hello"),
            |src, dst| sctp(src, dst).payload(&[1, 0, 0, 20]),
        ] as [Make; 3]
        {
            let mut pair = Pair::<F>::new(network);
            test(&mut pair, make);
            pair.check_all();
        }
    });
}

macro_rules! both_families {
    ($($name:ident),* $(,)?) => {
        mod v4 {
            $(#[test] fn $name() { super::every_protocol::<svc_common::family::V4>(super::$name); })*
        }
        mod v6 {
            $(#[test] fn $name() { super::every_protocol::<svc_common::family::V6>(super::$name); })*
        }
    };
}
pub(crate) use both_families;

both_families!(
    pods_reach_a_cluster_ip,
    what_comes_in_for_a_pod_skips_the_stack_where_it_may,
    what_cannot_be_served_is_refused_or_dropped,
    remote_backends_are_reached_from_outside,
    a_pod_reaches_itself,
    the_node_reaches_services,
    a_packet_at_its_last_hop_or_too_big_is_reported,
    errors_are_translated,
    fragments_follow_their_first,
    what_is_not_ours_passes,
    pings_of_virtual_addresses_are_answered,
    extension_headers_are_walked,
    hostile_frames_are_judged_alike,
);

fn what_comes_in_for_a_pod_skips_the_stack_where_it_may<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let direct = make(at::<F>(9, 1), at::<F>(1, 2)).port(8_080);
    let to_service = make(at::<F>(9, 1), at::<F>(0, 1)).port(30_080);
    pair.expect(NodeIngress, &direct, NEXT);
    let pods = pair.network.pods;
    let hop = Hop {
        ifindex: pods.index,
        dmac: NEIGHBOUR,
        smac: pods.mac,
    };
    pair.change(|tables| {
        let config = tables.config.as_mut().expect("configured");
        config.flags |= node_flags::PEER_FROM_OUTSIDE;
        tables.peers = (1..10).map(|host| (addr::<F>(1, host), hop)).collect();
    });
    let sent = pair.expect(NodeIngress, &direct, REDIRECT);
    assert_eq!(sent[..12], [NEIGHBOUR, pods.mac].concat());
    // A pod's connection that went out by itself, and its answer.
    let request = make(at::<F>(1, 1), at::<F>(96, 8)).sport(4_000);
    pair.expect(PodIngress, &request, NEXT);
    let answer = make(at::<F>(2, 1), at::<F>(1, 1)).sport(8_080).port(4_000);
    let seen = pair.expect(NodeIngress, &answer, REDIRECT);
    assert_eq!(ends::<F>(&seen), (at::<F>(96, 8), at::<F>(1, 1)));
    // Backends of this NodePort are here and elsewhere: wherever it goes, both sides agree.
    for sport in 4_000..4_010 {
        pair.run(NodeIngress, &to_service.clone().sport(sport).build());
    }
    for ttl in [1, 0] {
        pair.expect(NodeIngress, &direct.clone().ttl(ttl), NEXT);
    }
    pair.expect(
        NodeIngress,
        &make(at::<F>(9, 1), at::<F>(1, 20)).port(8_080),
        NEXT,
    );
    pair.expect(NodeIngress, &direct.fragment(7, 0, true), NEXT);
}

fn pods_reach_a_cluster_ip<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let request = make(at::<F>(1, 1), at::<F>(96, 1));
    for _ in 0..3 {
        let sent = pair.expect(PodIngress, &request, NEXT);
        assert_eq!(
            (ends::<F>(&sent), ports::<F>(&sent)),
            ((at::<F>(1, 1), at::<F>(1, 2)), (40_000, 8_080))
        );
    }
    let answer = make(at::<F>(1, 2), at::<F>(1, 1)).sport(8_080).port(40_000);
    for _ in 0..3 {
        let seen = pair.expect(PodEgress, &answer, NEXT);
        assert_eq!(
            (ends::<F>(&seen), ports::<F>(&seen)),
            ((at::<F>(96, 1), at::<F>(1, 1)), (80, 40_000))
        );
    }
}

fn what_cannot_be_served_is_refused_or_dropped<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let pod = at::<F>(1, 1);
    for program in [PodIngress, NodeEgress] {
        for refused in [
            make(pod, at::<F>(96, 4)),
            make(pod, at::<F>(96, 1)).port(81),
            make(pod, at::<F>(50, 4)),
        ] {
            for payload in [&[][..], &[1; 3], &[2; 700]] {
                let answer = pair.expect(program, &refused.clone().payload(payload), REDIRECT);
                assert_eq!(ends::<F>(&answer), (refused.dst, refused.src));
            }
        }
    }
    let outside = at::<F>(9, 1);
    for dropped in [make(outside, at::<F>(96, 1)), make(outside, at::<F>(50, 4))] {
        pair.expect(NodeXdp, &dropped, XDP_PASS);
        pair.expect(NodeIngress, &dropped, SHOT);
    }
}

fn remote_backends_are_reached_from_outside<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    for (vip, backend, source, xdp_action) in [
        ((50, 1), (2, 1), (0, 1), XDP_TX),
        ((50, 2), (4, 1), (3, 1), XDP_REDIRECT),
    ] {
        let (backend, source) = (at::<F>(backend.0, backend.1), at::<F>(source.0, source.1));
        for (program, action, client) in [(NodeXdp, xdp_action, 1), (NodeIngress, REDIRECT, 2)] {
            let client = at::<F>(9, client);
            let sent = pair.expect(program, &make(client, at::<F>(vip.0, vip.1)), action);
            assert_eq!(ends::<F>(&sent), (source, backend));
            let answer = make(backend, source).sport(8_080).port(ports::<F>(&sent).0);
            let back = if program == NodeXdp { XDP_TX } else { REDIRECT };
            let seen = pair.expect(program, &answer, back);
            assert_eq!(
                (ends::<F>(&seen), ports::<F>(&seen)),
                ((at::<F>(vip.0, vip.1), client), (80, 40_000))
            );
        }
    }
    // The neighbour's address is unknown, or there is no route at all: XDP leaves both to tc.
    let mut actions = [0; 2];
    for sport in 1_000..1_020 {
        let request = make(at::<F>(9, 3), at::<F>(50, 3)).sport(sport);
        pair.expect(NodeXdp, &request, XDP_PASS);
        let verdict = pair.run(NodeIngress, &request.build());
        actions[usize::from(verdict.action == REDIRECT)] += 1;
        assert!([REDIRECT, SHOT].contains(&verdict.action));
        if verdict.action == REDIRECT {
            // Frees its port.
            let last = tcp(request.src, request.dst).sport(sport).fin();
            if request == make(at::<F>(9, 3), at::<F>(50, 3)).sport(sport).syn() {
                pair.run(NodeIngress, &last.build());
            }
        }
    }
    assert!(
        actions.iter().all(|n| *n > 0),
        "dropped, forwarded: {actions:?}"
    );
}

fn a_pod_reaches_itself<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let pod = at::<F>(1, 1);
    let sent = pair.expect(PodIngress, &make(pod, at::<F>(96, 3)), REDIRECT);
    assert_eq!(ends::<F>(&sent), (at::<F>(0, 1), pod));
    let answer = make(pod, at::<F>(0, 1))
        .sport(8_080)
        .port(ports::<F>(&sent).0);
    let seen = pair.expect(PodIngress, &answer, REDIRECT);
    assert_eq!(
        (ends::<F>(&seen), ports::<F>(&seen)),
        ((at::<F>(96, 3), pod), (80, 40_000))
    );
}

fn the_node_reaches_services<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let node = at::<F>(0, 1);
    let sent = pair.expect(NodeEgress, &make(node, at::<F>(50, 1)), REDIRECT);
    assert_eq!(ends::<F>(&sent), (node, at::<F>(2, 1)));
    let answer = make(at::<F>(2, 1), node).sport(8_080).port(40_000);
    assert_eq!(
        ends::<F>(&pair.expect(NodeIngress, &answer, NEXT)),
        (at::<F>(50, 1), node)
    );
    // The backend is the node itself.
    let sent = pair.expect(NodeEgress, &make(node, at::<F>(96, 5)), REDIRECT);
    assert_eq!(ends::<F>(&sent), (at::<F>(96, 5), node));
    let answer = make(node, at::<F>(96, 5)).sport(8_080).port(40_000);
    assert_eq!(
        ends::<F>(&pair.expect(NodeEgress, &answer, REDIRECT)),
        (at::<F>(96, 5), node)
    );
    // What others send through the node is not the node's.
    pair.expect(
        NodeEgressForwarded,
        &make(at::<F>(1, 1), at::<F>(50, 1)).sport(9),
        NEXT,
    );
}

fn a_packet_at_its_last_hop_or_too_big_is_reported<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let request = make(at::<F>(9, 1), at::<F>(50, 1));
    pair.expect(NodeXdp, &request.clone().ttl(1), XDP_PASS);
    let report = pair.expect(NodeIngress, &request.clone().ttl(1), REDIRECT);
    assert_eq!(ends::<F>(&report), (at::<F>(50, 1), at::<F>(9, 1)));
    pair.expect(NodeXdp, &request.clone().ttl(2), XDP_TX);
    pair.expect(NodeXdp, &request.clone().payload(&[1; 1_600]), XDP_PASS);
    let report = pair.expect(NodeIngress, &request.payload(&[1; 1_600]), REDIRECT);
    assert_eq!(report.len(), ETH_LEN + F::LEN + 8 + F::LEN + 8);
}

fn errors_are_translated<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let (client, vip, backend) = (at::<F>(9, 1), at::<F>(50, 1), at::<F>(2, 1));
    let request = make(client, vip);
    let sent = pair.expect(NodeIngress, &request, REDIRECT);
    let translated = request
        .clone()
        .from(at::<F>(0, 1), ports::<F>(&sent).0)
        .to(backend, 8_080);
    for quote in [8, 18, 20, 200] {
        for author in [backend, at::<F>(9, 77)] {
            let error = icmp_error(author, at::<F>(0, 1), &translated).quoting(quote);
            pair.expect(NodeXdp, &error, XDP_PASS);
            let heard = pair.expect(NodeIngress, &error, REDIRECT);
            assert_eq!(
                ends::<F>(&heard),
                (if author == backend { vip } else { author }, client)
            );
        }
        let error = icmp_error(client, vip, &request.clone().reversed()).quoting(quote);
        assert_eq!(
            ends::<F>(&pair.expect(NodeIngress, &error, REDIRECT)),
            (at::<F>(0, 1), backend)
        );
    }
    let unknown = icmp_error(client, vip, &request.reversed().port(7));
    pair.expect(NodeIngress, &unknown, NEXT);
}

fn fragments_follow_their_first<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    for (client, vip, program, action) in [
        ((1, 1), (96, 1), PodIngress, NEXT),
        ((9, 1), (50, 1), NodeIngress, REDIRECT),
    ] {
        let whole = make(at::<F>(client.0, client.1), at::<F>(vip.0, vip.1)).payload(&[5; 64]);
        let later = |id| whole.clone().fragment(id, 9, false);
        pair.expect(program, &later(1), SHOT);
        if whole.proto() == SCTP {
            // The checksum of all of it cannot be known from a part.
            pair.expect(program, &whole.fragment(1, 0, true), SHOT);
            continue;
        }
        let first = pair.expect(program, &whole.clone().fragment(1, 0, true), action);
        let second = pair.expect(program, &later(1), action);
        assert_eq!(ends::<F>(&first), ends::<F>(&second));
        pair.expect(program, &later(2), SHOT);
        pair.expect(NodeXdp, &later(1), XDP_PASS);
    }
    if make(at::<F>(1, 1), at::<F>(96, 1)).proto() != SCTP {
        answers_in_fragments(pair, make);
    }
    if make(at::<F>(9, 2), at::<F>(50, 1)).proto() == SCTP {
        return;
    }
    let first = make(at::<F>(9, 2), at::<F>(50, 1))
        .payload(&[5; 64])
        .fragment(3, 0, true);
    pair.expect(NodeXdp, &first, XDP_TX);
    let later = make(at::<F>(9, 2), at::<F>(50, 1))
        .payload(&[5; 64])
        .fragment(3, 9, false);
    pair.expect(NodeIngress, &later, REDIRECT);
}

/// Of a backend here to a pod, and of one elsewhere to a client that was masqueraded.
fn answers_in_fragments<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    for (client, vip, backend, request, answer, action) in [
        ((1, 3), (96, 1), (1, 2), PodIngress, PodEgress, NEXT),
        ((9, 4), (50, 1), (2, 1), NodeIngress, NodeIngress, REDIRECT),
    ] {
        let (client, vip) = (at::<F>(client.0, client.1), at::<F>(vip.0, vip.1));
        let sent = pair.expect(request, &make(client, vip), action);
        let back = make(at::<F>(backend.0, backend.1), ends::<F>(&sent).0)
            .sport(8_080)
            .port(ports::<F>(&sent).0)
            .payload(&[6; 64]);
        for id in [11, 12] {
            let later = back.clone().fragment(id, 9, false);
            // One that overtakes its first is nobody's: at the way out, and to the node's own address.
            pair.expect(answer, &later, NEXT);
            for part in [back.clone().fragment(id, 0, true), later] {
                let seen = pair.expect(answer, &part, action);
                assert_eq!(ends::<F>(&seen), (vip, client));
            }
        }
    }
}

fn what_is_not_ours_passes<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    for dst in [at::<F>(1, 2), at::<F>(9, 1), at::<F>(0, 1), at::<F>(50, 1)] {
        let other = make(at::<F>(1, 1), dst).port(22);
        for program in Program::ALL {
            let action = if program == NodeXdp { XDP_PASS } else { NEXT };
            assert_eq!(pair.expect(program, &other, action), other.build());
            // Of these, only the LoadBalancer address is nobody's: its pings are answered.
            if dst != at::<F>(50, 1) {
                assert_eq!(
                    pair.expect(program, &echo(at::<F>(1, 1), dst), action),
                    echo(at::<F>(1, 1), dst).build()
                );
            }
        }
    }
}

fn extension_headers_are_walked<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    if F::VERSION == 4 {
        return;
    }
    for (client, vip, program, action) in [
        ((1, 1), (96, 1), PodIngress, NEXT),
        ((9, 1), (50, 1), NodeIngress, REDIRECT),
        ((9, 2), (50, 1), NodeXdp, XDP_TX),
    ] {
        let request = make(at::<F>(client.0, client.1), at::<F>(vip.0, vip.1));
        let walked = request.clone().extension(0, 0).extension(60, 1);
        let sent = pair.expect(program, &walked, action);
        assert_ne!(ends::<F>(&sent).1, request.dst);
        let unwalked = request.extension(51, 0);
        let action = if program == NodeXdp { XDP_PASS } else { SHOT };
        pair.expect(program, &unwalked, action);
        pair.expect(PodEgress, &unwalked, NEXT);
    }
}

fn pings_of_virtual_addresses_are_answered<F: Keyed>(pair: &mut Pair<F>, _: Make) {
    let (pod, node, outside) = (at::<F>(1, 1), at::<F>(0, 1), at::<F>(9, 1));
    for (client, vip, program, action) in [
        (pod, at::<F>(96, 1), PodIngress, REDIRECT),
        (pod, at::<F>(50, 4), PodIngress, REDIRECT),
        (node, at::<F>(96, 4), NodeEgress, REDIRECT),
        (node, at::<F>(50, 1), NodeEgress, REDIRECT),
        (outside, at::<F>(50, 1), NodeIngress, REDIRECT),
        (outside, at::<F>(50, 1), NodeXdp, XDP_PASS),
        (outside, at::<F>(96, 1), NodeIngress, SHOT),
        (outside, at::<F>(0, 1), NodeIngress, NEXT),
        (pod, at::<F>(96, 1), NodeEgressForwarded, NEXT),
        (pod, at::<F>(96, 1), PodEgress, NEXT),
    ] {
        let ping = echo(client, vip);
        let seen = pair.expect(program, &ping.clone().ttl(7), action);
        if action == REDIRECT {
            let reply = if F::VERSION == 4 { 0 } else { 129 };
            let (to, from) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let answer = ping.clone().reversed().kind([reply, 0]).macs(from, to);
            assert_eq!(seen, answer.build());
        }
        // Parts of a ping, and one with options, pass: they are too odd to be answered.
        let part = ping.clone().fragment(1, 0, true);
        pair.expect(
            program,
            &part,
            if program == NodeXdp { XDP_PASS } else { NEXT },
        );
        if F::VERSION == 4 && action == REDIRECT {
            pair.expect(program, &ping.options(1), NEXT);
        }
    }
}

#[test]
fn a_device_that_cannot_transmit_back_gets_a_redirect() {
    within(|network| {
        let mut pair = Pair::<V4>::new(network);
        let request = tcp(at::<V4>(9, 1), at::<V4>(50, 1)).syn();
        pair.expect(NodeXdp, &request, XDP_TX);
        pair.kernel
            .allow_redirect(network.nic.index | BOUNCE, network.nic.index);
        assert_eq!(pair.kernel.run(NodeXdp, &request.build()).0, XDP_REDIRECT);
    });
}

/// Frames that are wrong in a way that has a name.
pub(crate) fn hostile<F: Keyed>(request: &Frame) -> Vec<(&'static str, Vec<u8>)> {
    let plain = request.build();
    let with = |at: usize, byte: u8| {
        let mut frame = plain.clone();
        frame[ETH_LEN + at] = byte;
        frame
    };
    let mut all = vec![
        ("no_transport_header", plain[..ETH_LEN + F::LEN].to_vec()),
        (
            "zero_udp_checksum",
            request.clone().without_checksum().build(),
        ),
    ];
    all.extend(
        (1..24)
            .filter_map(|cut| Some(("truncated", plain.get(..ETH_LEN + F::LEN + cut)?.to_vec()))),
    );
    let quoted = request.clone().reversed();
    let error = icmp_error(request.src, request.dst, &quoted).build();
    let inner = ETH_LEN + F::LEN + 8;
    for byte in [0x00, 0x45, 0x4f, 0x60, 0xff] {
        let mut lying = error.clone();
        lying[inner] = byte;
        all.push(("lying_inner_version", lying));
    }
    for next in [0, 1, 6, 17, 44, 58, 255] {
        let mut lying = error.clone();
        lying[inner + if F::VERSION == 4 { 9 } else { 6 }] = next;
        all.push(("lying_inner_protocol", lying));
    }
    for cut in (0..F::LEN + 8).step_by(3) {
        all.push(("short_quote", error[..inner + cut].to_vec()));
    }
    if F::VERSION == 4 {
        all.extend((1..=10).map(|words| ("v4_options", request.clone().options(words).build())));
        all.extend((0..=15).map(|ihl| ("bad_ihl", with(0, 0x40 | ihl))));
        all.extend([0x20, 0x3f, 0x1f].map(|flags| ("v4_fragment", with(6, flags))));
    } else {
        all.extend(
            [0, 43, 44, 50, 51, 59, 60, 135, 139, 140, 255]
                .map(|next| ("v6_extension", with(6, next))),
        );
        for kinds in [&[0][..], &[60, 43], &[0, 60, 43, 60], &[0; 5]] {
            for more in [0, 1, 3, 31] {
                let chain = |frame: Frame, kind: &u8| frame.extension(*kind, more);
                let frame = kinds.iter().fold(request.clone(), chain);
                all.push(("v6_chain", frame.build()));
                all.push(("v6_chain_fragment", frame.fragment(4, 0, true).build()));
                let quoted = kinds.iter().fold(request.clone().reversed(), chain);
                let error = icmp_error(request.src, request.dst, &quoted);
                all.push(("v6_chain_quoted", error.build()));
            }
        }
        all.push((
            "v6_atomic_fragment",
            request.clone().fragment(1, 0, false).build(),
        ));
        all.push((
            "v6_fragment",
            request
                .clone()
                .payload(&[0; 16])
                .fragment(1, 1, true)
                .build(),
        ));
    }
    all.push(("wrong_ethertype", {
        let mut frame = plain.clone();
        frame[12..14].fill(0x88);
        frame
    }));
    all
}

fn hostile_frames_are_judged_alike<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    for (client, vip) in [
        ((1, 1), (96, 1)),
        ((1, 1), (96, 4)),
        ((9, 1), (50, 1)),
        ((9, 1), (0, 1)),
    ] {
        let request = make(at::<F>(client.0, client.1), at::<F>(vip.0, vip.1)).payload(&[9; 31]);
        for (_, frame) in hostile::<F>(&request) {
            for program in Program::ALL {
                pair.run(program, &frame);
            }
        }
        pair.check_all();
    }
}
