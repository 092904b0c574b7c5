//! How flows end, known beforehand: backends that go (D6, D7), and another proxy's flows.

use std::net::IpAddr;

use svc_common::family::{Addr, Port};
use svc_common::memory::Memory;
use svc_common::reason::Reason;
use svc_common::table::{
    BackendKey, BackendState, TCP, UDP, backend_state, flow_flags, flow_state, node_flags,
};

use crate::cases::{Make, both_families, ends, every_protocol, ports};
use crate::frames::{ACK, Frame};
use crate::host::Program::{
    NodeEgress, NodeEgressForwarded, NodeIngress, NodeXdp, PodEgress, PodIngress,
};
use crate::host::action::*;
use crate::kernel::Keyed;
use crate::pair::Pair;
use crate::world::{addr, at, service};

both_families!(
    only_datagrams_leave_a_backend_that_stops_serving,
    only_connections_to_a_gone_backend_are_reset,
    another_proxys_flows_pass_untouched,
    another_proxys_datagrams_become_ours_in_the_end,
    a_takeover_passes_unknown_connections,
);

/// A Service with several backends, and one with a single one.
const SEVERAL: (u8, u8) = (96, 2);
const SINGLE: (u8, u8) = (96, 1);

/// A packet in the midst of a flow.
fn later(frame: &Frame) -> Frame {
    if frame.proto() == TCP {
        frame.clone().flags(ACK)
    } else {
        frame.clone()
    }
}

/// Opens a flow: the request, and where it went.
fn opened<F: Keyed>(pair: &mut Pair<F>, make: Make, vip: (u8, u8)) -> (Frame, IpAddr) {
    let request = make(at::<F>(1, 3), at::<F>(vip.0, vip.1));
    let verdict = pair.run(PodIngress, &request.build());
    assert_eq!(verdict.action, NEXT, "{:?}", verdict.reason);
    let backend = ends::<F>(&verdict.frame).1;
    (request, backend)
}

/// The endpoint `backend` of a Service gets other flags, or is gone; the sentinel says whether another one serves.
fn becomes<F: Keyed>(
    tables: &Memory<F>,
    service: u32,
    backend: IpAddr,
    flags: Option<u16>,
    another_serves: bool,
) {
    let mut backends = tables.backends.borrow_mut();
    let mut key = BackendKey::<F> {
        service,
        addr: F::addr_from_std(backend).expect("of this family"),
        port: Port::new(8_080),
        _pad: 0,
    };
    match flags {
        Some(flags) => backends.get_mut(&key).expect("listed").flags = flags,
        None => drop(backends.remove(&key)),
    }
    (key.addr, key.port) = (F::Addr::UNSPECIFIED, Port(0));
    backends.remove(&key);
    if another_serves {
        backends.insert(key, BackendState::default());
    }
    tables.epoch.set(tables.epoch.get().wrapping_add(1));
}

fn only_datagrams_leave_a_backend_that_stops_serving<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let (request, first) = opened(pair, make, SEVERAL);
    let (packet, service) = (later(&request), service(SEVERAL, request.proto()));
    let goes_to = |pair: &mut Pair<F>| ends::<F>(&pair.expect(PodIngress, &packet, NEXT)).1;
    // In no set any more but serving; then not serving, like all others.
    for (flags, another) in [(backend_state::SERVING, true), (0, false)] {
        pair.change(|tables| becomes(tables, service, first, Some(flags), another));
        for _ in 0..3 {
            assert_eq!(goes_to(pair), first);
        }
    }
    // Its slot is still there, so it may be chosen once more.
    let left = (0..60).any(|_| {
        pair.change(|tables| becomes(tables, service, first, Some(0), true));
        goes_to(pair) != first
    });
    assert_eq!(left, request.proto() == UDP);
}

fn only_connections_to_a_gone_backend_are_reset<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let (request, first) = opened(pair, make, SINGLE);
    let (packet, service) = (later(&request), service(SINGLE, request.proto()));
    pair.change(|tables| becomes(tables, service, first, None, false));
    assert_eq!(ends::<F>(&pair.expect(PodIngress, &packet, NEXT)).1, first);
    pair.change(|tables| tables.config.as_mut().expect("set").flags = node_flags::RESET_GONE);
    if request.proto() != TCP {
        return drop(pair.expect(PodIngress, &packet, NEXT));
    }
    for program in [PodIngress, NodeIngress, NodeEgress] {
        let verdict = pair.run(program, &packet.build());
        assert_eq!(
            (verdict.action, verdict.reason),
            (REDIRECT, Some(Reason::BackendGone))
        );
        let answer = (request.dst, request.src);
        assert_eq!(ends::<F>(&verdict.frame), answer, "{program:?}");
    }
    pair.expect(NodeXdp, &packet, XDP_PASS);
    // Its own answers, and the client's reset, go on.
    let answer = make(first, request.src).sport(8_080).port(40_000);
    let seen = pair.expect(PodEgress, &later(&answer), NEXT);
    assert_eq!(ends::<F>(&seen).0, request.dst);
    pair.expect(PodIngress, &packet.clone().rst(), NEXT);
}

/// Makes every flow another proxy's, established, of `ago` seconds before.
fn hand_over<F: Keyed>(tables: &Memory<F>, ago: u32) {
    for flow in tables.flows.borrow_mut().values_mut() {
        flow.flags |= flow_flags::FOREIGN;
        flow.client_state |= flow_state::ESTABLISHED;
        flow.seen -= ago;
    }
}

fn another_proxys_flows_pass_untouched<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let (request, backend) = opened(pair, make, SINGLE);
    let (packet, node) = (later(&request), at::<F>(0, 1));
    pair.change(|tables| hand_over(tables, 0));
    let same = |pair: &mut Pair<F>, program, frame: &Frame, action| {
        assert_eq!(pair.expect(program, frame, action), frame.build());
    };
    for _ in 0..2 {
        for program in [
            PodIngress,
            NodeIngress,
            PodEgress,
            NodeEgress,
            NodeEgressForwarded,
        ] {
            same(pair, program, &packet, NEXT);
        }
        same(pair, NodeXdp, &packet, XDP_PASS);
        // Before and behind the other proxy's translation.
        let raw = later(&make(backend, request.src).sport(8_080).port(40_000));
        let translated = later(&make(request.dst, request.src).sport(80).port(40_000));
        for program in [PodIngress, PodEgress, NodeEgressForwarded] {
            same(pair, program, &raw, NEXT);
            same(pair, program, &translated, NEXT);
        }
        // Masqueraded by the other proxy: the answer comes to an address that is ours.
        pair.change(|tables| {
            let mut flows = tables.flows.borrow_mut();
            let all: Vec<_> = std::mem::take(&mut *flows).into_values().collect();
            for mut flow in all {
                flow.reply.dst = addr::<F>(0, 1);
                flows.insert(flow.reply, flow);
            }
        });
        let masqueraded = later(&make(backend, node).sport(8_080).port(40_000));
        for program in [PodIngress, NodeIngress, PodEgress] {
            same(pair, program, &masqueraded, NEXT);
        }
        same(pair, NodeXdp, &masqueraded, XDP_PASS);
    }
    // The same client and port once more.
    if request.proto() == TCP {
        let sent = pair.expect(PodIngress, &request, NEXT);
        assert_eq!(ends::<F>(&sent), (request.src, backend));
        let sent = pair.expect(PodIngress, &packet, NEXT);
        assert_eq!(ports::<F>(&sent), (40_000, 8_080));
    }
}

fn another_proxys_datagrams_become_ours_in_the_end<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let (request, backend) = opened(pair, make, SINGLE);
    if request.proto() != UDP {
        return;
    }
    pair.change(|tables| hand_over(tables, 100));
    let untouched = pair.expect(PodIngress, &request, NEXT);
    assert_eq!(untouched, request.build());
    pair.change(|tables| hand_over(tables, 100));
    let sent = pair.expect(PodIngress, &request, NEXT);
    assert_eq!(ends::<F>(&sent), (request.src, backend));
    let answer = make(backend, request.src).sport(8_080).port(40_000);
    let seen = pair.expect(PodEgress, &answer, NEXT);
    assert_eq!(ends::<F>(&seen).0, request.dst);
}

fn a_takeover_passes_unknown_connections<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    pair.change(|tables| tables.config.as_mut().expect("set").flags = node_flags::TAKEOVER);
    let request = make(at::<F>(1, 3), at::<F>(SINGLE.0, SINGLE.1));
    if request.proto() == TCP {
        let unknown = later(&request);
        assert_eq!(pair.expect(PodIngress, &unknown, NEXT), unknown.build());
        assert_eq!(pair.expect(NodeEgress, &unknown, NEXT), unknown.build());
    }
    let sent = pair.expect(PodIngress, &request, NEXT);
    assert_eq!(ends::<F>(&sent), (request.src, at::<F>(1, 2)));
}
