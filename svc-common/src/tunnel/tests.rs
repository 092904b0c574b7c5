use etherparse::{NetSlice, SlicedPacket};
use proptest::prelude::*;
use std::vec::Vec;

use super::{Format, Outer, arrive, is_tunnelled, overhead, port};
use crate::family::{Port, V4, V6};
use crate::packet::Packet;
use crate::reason::{Aside, Reason};
use crate::steer::Work;
use crate::table::{
    BackendKey, BackendState, Scope, UDP, address_flags, backend_state, node_flags,
};
use crate::testing::frames::udp;
use crate::testing::{addr, both_families, cluster, external_ip, node, outside, remote_pod, serve};
use crate::wire::ETH_LEN;

both_families!(only_the_backends_own_node_takes_a_packet_out);

/// A frame in a tunnel to `remote_pod(1)`.
fn tunnelled<F: Outer>(format: Format, inner: &[u8], to: u16, hash: u32) -> Vec<u8> {
    let mut frame = inner.to_vec();
    let room = std::iter::repeat_n(0, format.overhead::<F>());
    frame.splice(ETH_LEN..ETH_LEN, room);
    let ends = (&addr::<F>(node::<F>()), &addr::<F>(remote_pod::<F>(1)));
    let len = (inner.len() - ETH_LEN) as u16;
    format
        .write::<F>(
            &Packet::of(&mut frame),
            ETH_LEN,
            len,
            ends,
            Port::new(to),
            hash,
        )
        .expect("it has room");
    frame
}

fn written_is_read<F: Outer>(format: Format, to: u16, hash: u32, payload: &[u8]) {
    let inner = udp(outside::<F>(1), node::<F>()).payload(payload).build();
    let mut frame = tunnelled::<F>(format, &inner, to, hash);
    assert_eq!(frame[ETH_LEN + format.overhead::<F>()..], inner[ETH_LEN..]);
    let packet = Packet::of(&mut frame);
    assert!(is_tunnelled::<F>(&packet, ETH_LEN));
    assert_eq!(port::<F>(&packet, ETH_LEN), Some(Port::new(to)));
    assert_eq!(
        overhead::<F>(&packet, ETH_LEN),
        Some(format.overhead::<F>())
    );
    let sliced = SlicedPacket::from_ethernet(&frame).expect("etherparse reads it");
    match sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(header.dont_fragment);
            assert_eq!(usize::from(header.total_len), frame.len() - ETH_LEN);
        }
        Some(NetSlice::Ipv6(ip)) => {
            let length = usize::from(ip.header().payload_length());
            assert_eq!(length, frame.len() - ETH_LEN - 40);
        }
        other => panic!("not IP: {other:?}"),
    }
}

proptest! {
    #[test]
    fn what_one_node_writes_another_one_reads(to: u16, hash: u32, payload in prop::collection::vec(any::<u8>(), 0..64)) {
        for format in [Format::Ipip, Format::Geneve] {
            written_is_read::<V4>(format, to, hash, &payload);
            written_is_read::<V6>(format, to, hash, &payload);
        }
    }
}

#[test]
fn geneve_with_other_options_is_somebody_elses() {
    let inner = udp(outside::<V4>(1), node::<V4>()).build();
    for at in [28, 29, 30, 36, 38] {
        let mut frame = tunnelled::<V4>(Format::Geneve, &inner, 80, 0);
        frame[ETH_LEN + at] ^= 1;
        assert_eq!(
            port::<V4>(&Packet::of(&mut frame), ETH_LEN),
            None,
            "byte {at}"
        );
    }
}

/// What a node makes of a packet in a tunnel, if it has the backend listed so.
fn arrived<F: Outer>(listed: Option<u16>) -> Result<(), Aside> {
    let mut tables = cluster::<F>();
    tables.config.as_mut().unwrap().flags = node_flags::DSR_IPIP;
    tables
        .addresses
        .insert(addr::<F>(node::<F>()), address_flags::PEER);
    let frontend = (external_ip::<F>(1), 80);
    serve(&mut tables, frontend, UDP, Scope::External, 0, &[]);
    if let Some(flags) = listed {
        let key = BackendKey {
            service: 80,
            addr: addr::<F>(remote_pod::<F>(1)),
            port: Port::new(8_080),
            _pad: 0,
        };
        let state = BackendState {
            flags,
            ..BackendState::default()
        };
        tables.backends.borrow_mut().insert(key, state);
    }
    let inner = udp(outside::<F>(1), frontend.0).build();
    let mut frame = tunnelled::<F>(Format::Ipip, &inner, 8_080, 0);
    let (packet, mut work, mut overhead) = (Packet::of(&mut frame), Work::EMPTY, 0);
    // The room is that of the packet before.
    work.decision.service = 7;
    arrive(&packet, ETH_LEN, &tables, &mut work, &mut overhead)?;
    assert_eq!(work.decision.service, 80);
    assert_eq!(work.decision.to.dst, addr::<F>(remote_pod::<F>(1)));
    Ok(())
}

fn only_the_backends_own_node_takes_a_packet_out<F: Outer>() {
    assert_eq!(arrived::<F>(Some(backend_state::LOCAL)), Ok(()));
    // One on the way there passes it on, or the backend would answer past the node that knows the flow.
    for elsewhere in [0, backend_state::REMOTE] {
        assert_eq!(arrived::<F>(Some(elsewhere)), Err(Aside::NotOurs));
    }
    assert_eq!(arrived::<F>(None), Err(Reason::BadTunnel.into()));
}
