//! Tunnels (D12): into them on the first node, out of them on the backend's.

use svc_common::family::{Port, V4, V6};
use svc_common::packet::Packet;
use svc_common::reason::Reason;
use svc_common::table::{
    BackendKey, BackendState, address_flags, backend_state, frontend_flags, node_flags,
};
use svc_common::tunnel::Format;
use svc_common::wire::ETH_LEN;

use crate::cases::{ends, hostile, ports};
use crate::frames::{Frame, icmp_error, tcp, udp};
use crate::host::Program::{NodeIngress, NodeXdp};
use crate::host::action::*;
use crate::kernel::Keyed;
use crate::network::within;
use crate::pair::Pair;
use crate::world::{self, addr, at};

/// A world where the other node (0, 2) is known and the pod (1, 2) is listed; so is (2, 2), of another node.
fn pair<F: Keyed>(network: &crate::network::Network, flag: u32) -> Pair<F> {
    let mut tables = world::new::<F>();
    if let Some(config) = &mut tables.config {
        config.flags |= flag;
    }
    tables
        .addresses
        .insert(addr::<F>(0, 2), address_flags::PEER);
    for (key, frontend) in &mut tables.frontends {
        if key.addr == addr::<F>(0, 1) {
            frontend.flags |= frontend_flags::NODE_PORT;
        }
    }
    let frontends: Vec<_> = tables.frontends.values().map(|f| f.service).collect();
    for service in frontends {
        for (net, flags) in [(1, backend_state::LOCAL), (2, backend_state::REMOTE)] {
            let key = BackendKey {
                service,
                addr: addr::<F>(net, 2),
                port: Port::new(8_080),
                _pad: 0,
            };
            let state = BackendState {
                flags,
                ..BackendState::default()
            };
            tables.backends.borrow_mut().entry(key).or_insert(state);
        }
    }
    Pair::with(network, tables)
}

/// `inner` as a node (0, `node`) sends it to the pod (1, 2).
fn tunnelled<F: Keyed>(format: Format, node: u8, port: u16, inner: &[u8]) -> Vec<u8> {
    tunnelled_to::<F>((1, 2), format, node, port, inner)
}

fn tunnelled_to<F: Keyed>(
    pod: (u8, u8),
    format: Format,
    node: u8,
    port: u16,
    inner: &[u8],
) -> Vec<u8> {
    let overhead = format.overhead::<F>();
    let mut frame = inner.to_vec();
    frame.splice(ETH_LEN..ETH_LEN, std::iter::repeat_n(0, overhead));
    let (src, dst) = (addr::<F>(0, node), addr::<F>(pod.0, pod.1));
    let len = (inner.len() - ETH_LEN) as u16;
    let packet = Packet::of(&mut frame);
    format
        .write::<F>(&packet, ETH_LEN, len, (&src, &dst), Port::new(port), 7)
        .expect("it has room");
    frame
}

const FORMATS: [(Format, u32); 2] = [
    (Format::Ipip, node_flags::DSR_IPIP),
    (Format::Geneve, node_flags::DSR_GENEVE),
];

fn requests<F: Keyed>(dst: (u8, u8)) -> [Frame; 2] {
    let (src, dst) = (at::<F>(9, 1), at::<F>(dst.0, dst.1));
    [tcp(src, dst).syn(), udp(src, dst).payload(b"hello")]
}

fn in_every_way(test: fn(&mut Pair<V4>, Format), test6: fn(&mut Pair<V6>, Format)) {
    for (format, flag) in FORMATS {
        within(|network| {
            let mut v4 = pair::<V4>(network, flag);
            test(&mut v4, format);
            v4.check_all();
        });
        within(|network| {
            let mut v6 = pair::<V6>(network, flag);
            test6(&mut v6, format);
            v6.check_all();
        });
    }
}

#[test]
fn a_client_from_outside_is_tunnelled_to_a_remote_backend() {
    in_every_way(into_tunnel::<V4>, into_tunnel::<V6>);
}

fn into_tunnel<F: Keyed>(pair: &mut Pair<F>, format: Format) {
    let overhead = format.overhead::<F>();
    for request in requests::<F>((50, 1)) {
        pair.expect(NodeXdp, &request, XDP_PASS);
        for payload in [0, 1, 700] {
            let request = request.clone().payload(&vec![3; payload]);
            let sent = pair.expect(NodeIngress, &request, REDIRECT);
            assert_eq!(ends::<F>(&sent), (at::<F>(0, 1), at::<F>(2, 1)));
            assert_eq!(sent[ETH_LEN + overhead..], request.clone().ttl(63).packet());
        }
        // Later fragments, and errors about the answers, go the same way.
        let whole = request.clone().sport(5).payload(&[5; 64]);
        for (offset, more) in [(0, true), (9, false)] {
            let part = whole.clone().fragment(1, offset, more);
            let sent = pair.expect(NodeIngress, &part, REDIRECT);
            assert_eq!(sent[ETH_LEN + overhead..], part.ttl(63).packet());
        }
        let error = icmp_error(request.src, request.dst, &request.clone().reversed());
        let sent = pair.expect(NodeIngress, &error, REDIRECT);
        assert_eq!(sent[ETH_LEN + overhead..], error.ttl(63).packet());

        let report = pair.expect(NodeIngress, &request.clone().ttl(1), REDIRECT);
        assert_eq!(ends::<F>(&report), (request.dst, request.src));
        let fits = 1_500 - overhead - (request.clone().payload(&[]).packet().len());
        pair.expect(
            NodeIngress,
            &request.clone().payload(&vec![1; fits]),
            REDIRECT,
        );
        let big = request.clone().payload(&vec![1; fits + 1]);
        let report = pair.expect(NodeIngress, &big, REDIRECT);
        assert_eq!(ends::<F>(&report), (request.dst, request.src));
        let first = pair.expect(NodeIngress, &big.fragment(1, 0, true), REDIRECT);
        assert_eq!(ends::<F>(&first), (request.dst, request.src));
        let mtu = &report[ETH_LEN + F::LEN + 6..][..2];
        assert_eq!(mtu, (1_500 - overhead as u16).to_be_bytes());
    }
    // Another node is masqueraded as ever: the backend may be its own.
    let node = tcp(at::<F>(0, 2), at::<F>(50, 1)).syn();
    let sent = pair.expect(NodeIngress, &node, REDIRECT);
    assert_eq!(ends::<F>(&sent), (at::<F>(0, 1), at::<F>(2, 1)));
    assert_eq!(sent.len(), node.build().len());
}

#[test]
fn a_tunnelled_packet_gets_to_the_backend_that_the_first_node_has_chosen() {
    in_every_way(out_of_tunnel::<V4>, out_of_tunnel::<V6>);
}

fn out_of_tunnel<F: Keyed>(pair: &mut Pair<F>, format: Format) {
    let (client, pod) = (at::<F>(9, 1), at::<F>(1, 2));
    // A LoadBalancer address, and the node port of the other node.
    for (dst, port) in [((50, 1), 80), ((0, 2), 30_080)] {
        for request in requests::<F>(dst) {
            let request = request.sport(port).port(port);
            for label in [8_080, 8_080, 8_081] {
                // The flow is known by then.
                let frame = tunnelled::<F>(format, 2, label, &request.build());
                let got = pair.run(NodeIngress, &frame);
                assert_eq!((got.action, got.reason), (NEXT, None));
                assert_eq!(
                    (ends::<F>(&got.frame), ports::<F>(&got.frame)),
                    ((client, pod), (port, 8_080))
                );
            }
            let error = icmp_error(client, request.dst, &request.clone().reversed());
            let got = pair.run(
                NodeIngress,
                &tunnelled::<F>(format, 2, 8_080, &error.build()),
            );
            assert_eq!((got.action, ends::<F>(&got.frame)), (NEXT, (client, pod)));
            let whole = request.clone().sport(5).payload(&[5; 64]);
            for (offset, more) in [(0, true), (9, false)] {
                let part = whole.clone().fragment(1, offset, more).build();
                let got = pair.run(NodeIngress, &tunnelled::<F>(format, 2, 8_080, &part));
                assert_eq!((got.action, ends::<F>(&got.frame)), (NEXT, (client, pod)));
            }
        }
    }
}

#[test]
fn what_is_in_other_tunnels_passes_or_is_dropped() {
    in_every_way(others::<V4>, others::<V6>);
}

fn others<F: Keyed>(pair: &mut Pair<F>, format: Format) {
    for request in requests::<F>((50, 1)) {
        let inner = request.build();
        let unlisted = pair.run(NodeIngress, &tunnelled::<F>(format, 2, 8_081, &inner));
        assert_eq!(unlisted.reason, Some(Reason::BadTunnel));
        let elsewhere = request.clone().to(at::<F>(1, 2), 80).build();
        let no_frontend = request.clone().port(81).build();
        for (node, inner) in [(9, &inner), (2, &elsewhere), (2, &no_frontend)] {
            let frame = tunnelled::<F>(format, node, 8_080, inner);
            let passed = pair.run(NodeIngress, &frame);
            assert_eq!((passed.action, passed.frame), (NEXT, frame));
        }
        // Another node's pod: the packet is only on its way there.
        let frame = tunnelled_to::<F>((2, 2), format, 2, 8_080, &inner);
        let passed = pair.run(NodeIngress, &frame);
        assert_eq!((passed.action, passed.frame), (NEXT, frame));
        for (_, inner) in hostile::<F>(&request) {
            let frame = tunnelled::<F>(format, 2, 8_080, &inner);
            pair.run(NodeIngress, &frame);
        }
        let frame = tunnelled::<F>(format, 2, 8_080, &inner);
        for cut in (F::LEN..format.overhead::<F>() + F::LEN + 8).step_by(3) {
            pair.run(NodeIngress, &frame[..ETH_LEN + cut]);
        }
    }
}

#[test]
fn without_tunnels_nothing_is_taken_out_of_them() {
    within(|network| {
        let mut pair = pair::<V4>(network, 0);
        for (format, _) in FORMATS {
            for request in requests::<V4>((50, 1)) {
                let frame = tunnelled::<V4>(format, 2, 8_080, &request.build());
                let passed = pair.run(NodeIngress, &frame);
                assert_eq!((passed.action, passed.frame), (NEXT, frame));
            }
        }
    });
}
