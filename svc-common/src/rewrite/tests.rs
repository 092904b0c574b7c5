use std::net::IpAddr;

use proptest::prelude::*;

use super::{Bytes, Rewrite, apply, apply_delta, was_complete};
use crate::checksum::{Delta, fold};
use crate::family::{Family, Port, V4, V6};
use crate::memory::Memory;
use crate::packet::Packet;
use crate::parse::{Segment, segment};
use crate::table::{TCP, UDP};
use crate::testing::frames::{Frame, icmp_error, sctp, tcp, udp};
use crate::testing::{addr, both_families, outside, pod, read, read_quoted, remote_pod};
use crate::wire::ETH_LEN;

both_families!(
    an_error_of_a_router_keeps_the_routers_address,
    a_later_fragment_changes_addresses_only,
    the_first_part_of_an_sctp_packet_keeps_its_ports,
    a_packet_that_ends_before_its_checksum_is_left_alone,
);

fn rewritten<F: Family>(frame: &[u8], to: &Rewrite<F>) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let packet = Packet::of(&mut frame);
    let mut from = Segment::EMPTY;
    segment(&packet, ETH_LEN, &Memory::default(), &mut from).expect("readable");
    apply(&mut Bytes(packet), ETH_LEN, &from, to).expect("rewritable");
    frame
}

fn rewrite<F: Family>(to: &Frame) -> Rewrite<F> {
    Rewrite {
        src: addr::<F>(to.src),
        dst: addr::<F>(to.dst),
        sport: Port::new(to.sport),
        dport: Port::new(to.dport),
    }
}

/// Zero and all ones are the same number to a checksum; an update may leave either (RFC 1624 §3).
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.chunks(2).zip(right.chunks(2)).all(|(l, r)| {
            l == r || matches!((l, r), ([0, 0], [0xff, 0xff]) | ([0xff, 0xff], [0, 0]))
        })
}

fn ip<F: Family>() -> impl Strategy<Value = IpAddr> {
    if F::VERSION == 4 {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    } else {
        any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
    }
}

/// A frame of some kind.
fn some_frame<F: Family>() -> impl Strategy<Value = Frame> {
    let options = if F::VERSION == 4 { 11usize } else { 1 };
    let ends = (ip::<F>(), ip::<F>(), any::<u16>(), any::<u16>());
    (
        ends,
        0u8..7,
        prop::collection::vec(any::<u8>(), 0..64),
        0..options,
        any::<(u32, u32)>(),
    )
        .prop_map(
            |((src, dst, sport, dport), kind, payload, options, (seq, ack))| {
                let frame = match kind {
                    0 => tcp(src, dst).syn(),
                    1 => tcp(src, dst).numbers(seq, ack),
                    2 => udp(src, dst),
                    3 => udp(src, dst).without_checksum(),
                    4 => sctp(src, dst),
                    5 => sctp(src, dst).without_checksum(),
                    _ => udp(src, dst).fragment(seq as u16, 0, true),
                };
                // A fragment's checksum covers what is not in it: only whole packets are held against one computed anew.
                let extensions = if F::VERSION == 6 { ack as usize % 4 } else { 0 };
                [0, 60, 43][..extensions]
                    .iter()
                    .fold(frame, |frame, kind| frame.extension(*kind, seq as u8 & 1))
                    .payload(&payload)
                    .options(options)
                    .sport(sport)
                    .port(dport)
            },
        )
}

fn rewriting_equals_building<F: Family>(from: &Frame, ends: ([IpAddr; 2], [u16; 2])) {
    let ([src, dst], [sport, dport]) = ends;
    let to = from.clone().from(src, sport).to(dst, dport);
    let result = rewritten::<F>(&from.build(), &rewrite(&to));
    let built = to.build();
    assert!(same(&result, &built), "\n{result:02x?}\n{built:02x?}");
    // etherparse does not know SCTP.
    if from.proto() != 132 {
        let seen = read(&result);
        assert_eq!((seen.src.0, seen.dst.0), (src, dst));
    }
    if from.build()[ETH_LEN + 9] == 17 && F::VERSION == 4 {
        let l4 = ETH_LEN + (result[ETH_LEN] & 0xf) as usize * 4;
        let absent = |frame: &[u8]| frame[l4 + 6..l4 + 8] == [0, 0];
        assert_eq!(
            absent(&from.build()),
            absent(&result),
            "a UDP checksum appears or goes"
        );
    }
}

/// An error about a packet that was translated, received by the side that does not know of it. `quote`: how much of the
/// packet is quoted behind its IP header.
fn rewriting_an_error_equals_building_it<F: Family>(
    sent: &Frame,
    ends: ([IpAddr; 2], [u16; 2]),
    quote: usize,
    router: Option<IpAddr>,
) {
    let ([src, dst], [sport, dport]) = ends;
    // An IPv6 packet's ports may be behind more headers.
    let more = if F::VERSION == 6 {
        sent.extension_len()
    } else {
        0
    };
    let full = quote >= 100;
    // SCTP's quoted checksum stays as it is.
    let quote = more + if sent.proto() == 132 { 8 } else { quote };
    // The flow's packet as the error's author saw it, and as its sender sent it.
    let original = sent.clone().from(src, sport).to(dst, dport);
    let error = |quoted: &Frame| {
        icmp_error(router.unwrap_or(quoted.dst), quoted.src, quoted).quoting(quote)
    };
    let to = original.clone().reversed();
    let result = rewritten::<F>(&error(sent).build(), &rewrite(&to));
    let built = error(&original).build();
    assert!(same(&result, &built), "\n{result:02x?}\n{built:02x?}");
    // Checksums of what is quoted in part cannot be computed anew.
    let seen = read(&result);
    assert_eq!((seen.src.0, seen.dst.0), (router.unwrap_or(dst), src));
    if full && sent.proto() != 132 {
        let quoted = read_quoted(&result);
        assert_eq!((quoted.src.0, quoted.dst.0), (src, dst));
    }
}

macro_rules! for_family {
    ($family:ty, $rewrite:ident, $error:ident) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(1_000))]

            #[test]
            fn $rewrite(from in some_frame::<$family>(), addrs in [ip::<$family>(), ip::<$family>()], ports: [u16; 2]) {
                rewriting_equals_building::<$family>(&from, (addrs, ports));
            }

            #[test]
            fn $error(
                sent in some_frame::<$family>(),
                addrs in [ip::<$family>(), ip::<$family>()],
                ports: [u16; 2],
                quote in prop::sample::select(vec![8usize, 20, 200]),
                router in prop::option::of(ip::<$family>()),
            ) {
                let sent = sent.options(0);
                rewriting_an_error_equals_building_it::<$family>(&sent, (addrs, ports), quote, router);
            }
        }
    };
}

fn the_first_part_of_an_sctp_packet_keeps_its_ports<F: Family>() {
    let first = sctp(pod::<F>(1), pod::<F>(2))
        .payload(&[7; 32])
        .fragment(9, 0, true);
    let same_ports = first.clone().from(pod::<F>(3), 40_000);
    assert_eq!(
        rewritten::<F>(&first.build(), &rewrite(&same_ports)),
        same_ports.build()
    );
    let mut frame = first.build();
    let packet = Packet::of(&mut frame);
    let mut from = Segment::<F>::EMPTY;
    segment(&packet, ETH_LEN, &Memory::default(), &mut from).unwrap();
    assert_eq!(
        apply(
            &mut Bytes(packet),
            ETH_LEN,
            &from,
            &rewrite(&same_ports.port(81))
        ),
        Err(crate::reason::Reason::RewriteFailed)
    );
}

for_family!(
    V4,
    rewriting_equals_building_v4,
    rewriting_an_error_equals_building_it_v4
);
for_family!(
    V6,
    rewriting_equals_building_v6,
    rewriting_an_error_equals_building_it_v6
);

fn an_error_of_a_router_keeps_the_routers_address<F: Family>() {
    let quoted = udp(outside::<F>(1), remote_pod::<F>(1)).port(53);
    let error = icmp_error(outside::<F>(9), outside::<F>(1), &quoted);
    let to = udp(pod::<F>(1), pod::<F>(2)).sport(53).port(7);
    let result = rewritten::<F>(&error.build(), &rewrite(&to));
    assert_eq!(
        (read(&result).src.0, read(&result).dst.0),
        (outside::<F>(9), pod::<F>(2))
    );
    let quoted = read_quoted(&result);
    assert_eq!(
        (quoted.src, quoted.dst),
        ((pod::<F>(2), 7), (pod::<F>(1), 53))
    );
}

fn a_later_fragment_changes_addresses_only<F: Family>() {
    let later = udp(pod::<F>(1), pod::<F>(2))
        .payload(&[7; 32])
        .fragment(9, 2, false);
    let mut frame = later.build();
    let packet = Packet::of(&mut frame);
    let tables = Memory::<F>::default();
    let first = udp(pod::<F>(1), pod::<F>(2)).fragment(9, 0, true);
    let mut read_segment = Segment::EMPTY;
    segment(
        &Packet::of(&mut first.build()),
        ETH_LEN,
        &tables,
        &mut read_segment,
    )
    .unwrap();
    crate::parse::remember_fragment(&read_segment, &tables);
    segment(&packet, ETH_LEN, &tables, &mut read_segment).unwrap();
    let to = later.from(pod::<F>(3), 1).to(pod::<F>(4), 2);
    apply(&mut Bytes(packet), ETH_LEN, &read_segment, &rewrite(&to)).unwrap();
    assert_eq!(frame, to.build());
}

fn a_packet_that_ends_before_its_checksum_is_left_alone<F: Family>() {
    let mut frame = udp(pod::<F>(1), pod::<F>(2)).build();
    frame.truncate(ETH_LEN + F::LEN + 4);
    let before = frame.clone();
    let packet = Packet::of(&mut frame);
    let mut from = Segment::EMPTY;
    segment(&packet, ETH_LEN, &Memory::default(), &mut from).unwrap();
    let to = rewrite::<F>(&udp(pod::<F>(3), pod::<F>(4)));
    assert_eq!(
        apply(&mut Bytes(packet), ETH_LEN, &from, &to),
        Err(crate::reason::Reason::RewriteFailed)
    );
    assert_eq!(frame, before);
}

proptest! {
    /// As `inet_proto_csum_replace_by_diff` changes the field (net/core/utils.c), and `bpf_l4_csum_replace` UDP's.
    #[test]
    fn the_kernel_shows_whether_a_checksum_was_complete(before: u16, old: u16, new: u16, udp: bool) {
        let (addresses, proto) = (Delta::default().word(old, new), if udp { UDP } else { TCP });
        prop_assume!(!addresses.is_none() && (!udp || before != 0));
        let complete = apply_delta(addresses, before, proto);
        let partial = match fold(addresses.0 + before as u32) {
            0 if udp => 0xffff,
            sum => sum,
        };
        prop_assert!(was_complete(addresses, before, complete, proto));
        prop_assert!(!was_complete(addresses, before, partial, proto));
    }
}
