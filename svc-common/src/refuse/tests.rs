use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::{Checksum, IcmpError, Reset};
use crate::family::Family;
use crate::memory::Memory;
use crate::packet::Packet;
use crate::parse::{Segment, segment};
use crate::testing::frames::{ACK, FIN, Frame, SYN, icmp_error, tcp, udp};
use crate::testing::{both_families, cluster_ip, pod, read};
use crate::wire::{ETH_LEN, Unreachable};

both_families!(
    a_reset_is_numbered_as_rfc_9293_says,
    an_icmp_error_quotes_the_refused_packet,
    what_must_not_be_answered_is_not,
    a_partial_checksum_holds_the_pseudo_header,
    an_icmp_error_quotes_the_ports_behind_a_longer_header,
    too_big_tells_the_mtu,
);

fn parsed<F: Family>(packet: &Packet) -> Segment<F> {
    let mut read = Segment::EMPTY;
    segment(packet, ETH_LEN, &Memory::default(), &mut read).expect("readable");
    read
}

/// As the shell does it: read, cut or grow, write.
fn reset<F: Family>(frame: &Frame, checksum: Checksum) -> Option<Vec<u8>> {
    let mut bytes = frame.build();
    let packet = Packet::of(&mut bytes);
    let read = parsed::<F>(&packet);
    let reset = Reset::to(&packet, ETH_LEN, &read)?;
    bytes.resize(ETH_LEN + F::LEN + Reset::LEN, 0);
    reset.write::<F>(&Packet::of(&mut bytes), ETH_LEN, &read.key, checksum)?;
    Some(bytes)
}

fn report<F: Family>(frame: &Frame, what: Unreachable, mtu: u16) -> Option<Vec<u8>> {
    let mut bytes = frame.build();
    let packet = Packet::of(&mut bytes);
    let read = parsed::<F>(&packet);
    let error = IcmpError::to(ETH_LEN, &read)?;
    bytes.resize(ETH_LEN + F::LEN + error.size::<F>(), 0);
    error.write::<F>(&Packet::of(&mut bytes), ETH_LEN, &read.key, what, mtu)?;
    Some(bytes)
}

fn a_reset_is_numbered_as_rfc_9293_says<F: Family>() {
    let base = || tcp(pod::<F>(1), cluster_ip::<F>(1)).numbers(u32::MAX - 1, 77);
    // Segment, then the reset's SEQ, ACK and whether it has the ACK bit.
    let cases = [
        (base().flags(SYN), 0, u32::MAX, true),
        (base().flags(SYN).payload(&[0; 10]), 0, 9, true),
        (base().flags(FIN).payload(&[0; 3]), 0, 2, true),
        (base().flags(0), 0, u32::MAX - 1, true),
        (base().flags(ACK).payload(&[0; 5]), 77, 0, false),
        (base().flags(ACK | SYN), 77, 0, false),
        (base().flags(ACK | FIN), 77, 0, false),
    ];
    for (segment, seq, ack, with_ack) in cases {
        let answer = reset::<F>(&segment, Checksum::Complete).expect("an answer");
        let seen = read(&answer);
        assert_eq!(
            (seen.src, seen.dst),
            ((cluster_ip::<F>(1), 80), (pod::<F>(1), 40_000))
        );
        assert_eq!(
            (&answer[..6], &answer[6..12]),
            (&segment.build()[6..12], &segment.build()[..6]),
            "MAC addresses"
        );
        let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            panic!("no TCP: {sliced:?}")
        };
        assert!(tcp.rst() && !tcp.syn() && !tcp.fin());
        assert_eq!(
            (
                tcp.sequence_number(),
                tcp.acknowledgment_number(),
                tcp.ack()
            ),
            (seq, ack, with_ack),
            "{segment:?}"
        );
        assert_eq!(tcp.payload(), b"");
        let ttl = match sliced.net {
            Some(NetSlice::Ipv4(ip)) => ip.header().ttl(),
            Some(NetSlice::Ipv6(ip)) => ip.header().hop_limit(),
            other => panic!("{other:?}"),
        };
        assert_eq!(ttl, 64);
    }
}

fn quote(answer: &[u8]) -> Vec<u8> {
    match SlicedPacket::from_ethernet(answer).unwrap().transport {
        Some(TransportSlice::Icmpv4(icmp)) => icmp.slice()[8..].to_vec(),
        Some(TransportSlice::Icmpv6(icmp)) => icmp.slice()[8..].to_vec(),
        other => panic!("not ICMP: {other:?}"),
    }
}

fn an_icmp_error_quotes_the_refused_packet<F: Family>() {
    for payload in [&[][..], &[9; 100]] {
        let refused = udp(pod::<F>(1), cluster_ip::<F>(1)).payload(payload);
        let answer = report::<F>(&refused, Unreachable::Port, 0).expect("an answer");
        let seen = read(&answer);
        assert_eq!((seen.src.0, seen.dst.0), (cluster_ip::<F>(1), pod::<F>(1)));
        assert_eq!(quote(&answer), refused.packet()[..F::LEN + 8]);
        let expected = if F::VERSION == 4 { [3, 3] } else { [1, 4] };
        assert_eq!(answer[ETH_LEN + F::LEN..][..2], expected);
    }
}

fn an_icmp_error_quotes_the_ports_behind_a_longer_header<F: Family>() {
    let plain = udp(pod::<F>(1), cluster_ip::<F>(1)).payload(&[9; 100]);
    let (first, options) = (plain.clone().fragment(1, 0, true), plain.options(2));
    let longer = if F::VERSION == 4 { &options } else { &first };
    let answer = report::<F>(longer, Unreachable::TooBig, 1_400).expect("an answer");
    let seen = read(&answer);
    assert_eq!((seen.src.0, seen.dst.0), (cluster_ip::<F>(1), pod::<F>(1)));
    assert_eq!(quote(&answer), longer.packet()[..F::LEN + 16]);
}

fn too_big_tells_the_mtu<F: Family>() {
    let answer = report::<F>(
        &udp(pod::<F>(1), cluster_ip::<F>(1)),
        Unreachable::TooBig,
        1_400,
    )
    .unwrap();
    read(&answer);
    let icmp = &answer[ETH_LEN + F::LEN..];
    let expected = if F::VERSION == 4 { [3, 4] } else { [2, 0] };
    assert_eq!(
        (&icmp[..2], &icmp[4..8]),
        (&expected[..], &[0, 0, 0x05, 0x78][..])
    );
}

fn what_must_not_be_answered_is_not<F: Family>() {
    let from: IpAddr = pod::<F>(1);
    assert_eq!(
        reset::<F>(&tcp(from, cluster_ip::<F>(1)).rst(), Checksum::Complete),
        None
    );
    let error = icmp_error(from, cluster_ip::<F>(1), &udp(cluster_ip::<F>(1), from));
    assert_eq!(report::<F>(&error, Unreachable::Port, 0), None);
    // With headers of any length, what fits the answer would not hold the ports.
    let long = udp(from, cluster_ip::<F>(1));
    let long = if F::VERSION == 4 {
        long.options(3)
    } else {
        long.extension(60, 1)
    };
    assert_eq!(report::<F>(&long, Unreachable::Port, 0), None);
}

fn a_partial_checksum_holds_the_pseudo_header<F: Family>() {
    let segment = tcp(pod::<F>(1), cluster_ip::<F>(1)).syn();
    let [complete, mut partial] =
        [Checksum::Complete, Checksum::Partial].map(|c| reset::<F>(&segment, c).unwrap());
    // What a device does: sums from the transport header on, and puts the complement where it was told.
    let l4 = ETH_LEN + F::LEN;
    let words: Vec<u16> = partial[l4..]
        .chunks(2)
        .map(|w| u16::from_ne_bytes([w[0], w[1]]))
        .collect();
    let finished = !crate::checksum::fold(crate::checksum::sum(0, &words));
    partial[l4 + 16..l4 + 18].copy_from_slice(&finished.to_ne_bytes());
    assert_eq!(partial, complete);
}
