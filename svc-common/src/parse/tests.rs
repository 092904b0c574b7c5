use proptest::prelude::*;

use super::segment;
use crate::family::{Family, V4, V6};
use crate::memory::Memory;
use crate::packet::Packet;
use crate::reason::{Aside, Reason};
use crate::refuse::{Checksum, IcmpError, Reset};
use crate::rewrite::{Bytes, apply};
use crate::steer::{self, Work};
use crate::table::{Scope, TCP, UDP, address_flags};
use crate::testing::frames::{echo, icmp_error, tcp, udp};
use crate::testing::{both_families, cluster, cluster_ip, outside, pod, remote_pod, serve};
use crate::wire::{ETH_LEN, Part, Unreachable};

/// Room as another packet left it.
fn leftover<F: Family>() -> super::Segment<F> {
    let mut segment = super::Segment::EMPTY;
    (segment.l4, segment.quoted, segment.tcp_flags) = (77, 55, 0xff);
    (segment.fragment_id, segment.part) = (7, Part::Later);
    (segment.key.proto, segment.key._pad) = (99, 0x5a5a);
    (segment.key.sport.0, segment.key.dport.0) = (0x5a5a, 0x5a5a);
    segment
}

fn parse<F: Family>(frame: &[u8]) -> Result<super::Segment<F>, Aside> {
    let mut frame = frame.to_vec();
    let mut read = leftover();
    segment(
        &Packet::of(&mut frame),
        ETH_LEN,
        &Memory::<F>::default(),
        &mut read,
    )?;
    Ok(read)
}

both_families!(
    an_icmp_error_belongs_to_the_answers_of_the_flow_it_is_about,
    a_frame_cut_anywhere_is_never_read_past_its_end,
    other_icmp_is_nobodys,
    a_lying_quote_is_truncated,
    an_error_about_a_later_fragment_is_nobodys,
    an_error_to_somebody_else_than_it_quotes_is_nobodys,
);

fn an_icmp_error_belongs_to_the_answers_of_the_flow_it_is_about<F: Family>() {
    let quoted = udp(pod::<F>(1), remote_pod::<F>(2)).sport(4_000).port(53);
    let error = parse::<F>(&icmp_error(outside::<F>(1), pod::<F>(1), &quoted).build()).unwrap();
    let answer = parse::<F>(&quoted.reversed().build()).unwrap();
    assert_eq!(error.key, answer.key);
    assert!(error.is_error() && !answer.is_error());
}

fn a_frame_cut_anywhere_is_never_read_past_its_end<F: Family>() {
    let quoted = tcp(pod::<F>(1), remote_pod::<F>(2));
    for frame in [
        tcp(pod::<F>(1), cluster_ip::<F>(1)).build(),
        udp(pod::<F>(1), cluster_ip::<F>(1))
            .payload(&[1; 7])
            .build(),
        icmp_error(outside::<F>(1), pod::<F>(1), &quoted).build(),
    ] {
        assert!(parse::<F>(&frame).is_ok());
        for len in 1..frame.len() {
            if let Err(aside) = parse::<F>(&frame[..len]) {
                assert_eq!(aside, Aside::Because(Reason::Truncated), "cut to {len}");
            }
            any_bytes_are_safe::<F>(&frame[..len]);
        }
    }
}

fn other_icmp_is_nobodys<F: Family>() {
    let ping = echo(pod::<F>(1), cluster_ip::<F>(1));
    let other = ping
        .clone()
        .kind([if F::VERSION == 4 { 13 } else { 135 }, 0]);
    assert_eq!(parse::<F>(&other.build()), Err(Aside::NotOurs));
    let part = ping.clone().fragment(1, 0, true);
    assert_eq!(parse::<F>(&part.build()), Err(Aside::NotOurs));
    assert_eq!(parse::<F>(&ping.build()), Err(Aside::Echo));
}

/// The quoted header says that its transport header is further on than the packet goes.
fn a_lying_quote_is_truncated<F: Family>() {
    let mut frame = icmp_error(
        outside::<F>(1),
        pod::<F>(1),
        &tcp(pod::<F>(1), remote_pod::<F>(2)),
    )
    .quoting(8)
    .build();
    let quoted = ETH_LEN + F::LEN + 8;
    if F::VERSION == 4 {
        frame[quoted] = 0x4f;
    } else {
        // A first fragment, whose transport header is missing.
        frame[quoted + 6] = 44;
        frame[quoted + 40] = TCP;
        frame[quoted + 42..quoted + 44].fill(0);
    }
    assert_eq!(parse::<F>(&frame), Err(Reason::Truncated.into()));
}

/// What stands where its ports would be is payload.
fn an_error_about_a_later_fragment_is_nobodys<F: Family>() {
    let quoted = udp(pod::<F>(1), remote_pod::<F>(2)).payload(&[7; 40]);
    let error = |quoted| icmp_error(outside::<F>(1), pod::<F>(1), &quoted).build();
    assert!(parse::<F>(&error(quoted.clone().fragment(1, 0, true))).is_ok());
    assert_eq!(
        parse::<F>(&error(quoted.fragment(1, 2, true))),
        Err(Aside::NotOurs)
    );
}

/// Or else whoever can guess a flow's ports could send errors about it by any address of ours.
fn an_error_to_somebody_else_than_it_quotes_is_nobodys<F: Family>() {
    for make in [tcp, udp] {
        let quoted = make(pod::<F>(1), remote_pod::<F>(2));
        let error = |to| parse::<F>(&icmp_error(outside::<F>(1), to, &quoted).build());
        assert!(error(pod::<F>(1)).is_ok());
        for to in [pod::<F>(2), cluster_ip::<F>(1), remote_pod::<F>(2)] {
            assert_eq!(error(to), Err(Aside::NotOurs), "{to}");
        }
    }
}

#[test]
fn v4_options_move_the_ports() {
    let read = parse::<V4>(
        &tcp(pod::<V4>(1), cluster_ip::<V4>(1))
            .options(10)
            .port(81)
            .build(),
    )
    .unwrap();
    assert_eq!((read.l4(), read.key.dport.get()), (ETH_LEN + 60, 81));
}

#[test]
fn bad_ihl_is_truncated() {
    let mut frame = tcp(pod::<V4>(1), cluster_ip::<V4>(1)).build();
    for ihl in 0..5 {
        frame[ETH_LEN] = 0x40 | ihl;
        assert_eq!(parse::<V4>(&frame), Err(Reason::Truncated.into()));
    }
}

#[test]
fn v6_fragments_are_read() {
    let whole = udp(pod::<V6>(1), cluster_ip::<V6>(1));
    let first = parse::<V6>(&whole.clone().fragment(9, 0, true).build()).unwrap();
    assert_eq!((first.part, first.key.dport.get()), (Part::First, 80));
    let other = parse::<V6>(&whole.clone().fragment(10, 0, true).build()).unwrap();
    assert_ne!(first.fragment_id, other.fragment_id);
    assert_eq!(
        parse::<V6>(&whole.payload(&[0; 16]).fragment(9, 2, false).build()),
        Err(Reason::FragmentUnknown.into())
    );
}

#[test]
fn v6_extensions_that_cannot_be_walked_are_named() {
    let whole = tcp(pod::<V6>(1), cluster_ip::<V6>(1));
    let unwalked = |frame: &[u8], what: &str| {
        let read = parse::<V6>(frame);
        assert_eq!(read, Err(Reason::ExtensionHeader.into()), "{what}");
    };
    for extension in [51, 135, 139, 140] {
        let mut frame = whole.build();
        frame[ETH_LEN + 6] = extension;
        unwalked(&frame, "of an unknown kind");
    }
    let five = (0..5).fold(whole.clone(), |frame, _| frame.extension(60, 0));
    unwalked(&five.build(), "a fifth one");
    unwalked(&whole.clone().extension(60, 30).build(), "too far");
    let mut routed = whole.clone().extension(43, 0).build();
    routed[ETH_LEN + 43] = 1;
    unwalked(&routed, "a segment is left");
}

#[test]
fn v6_extensions_are_walked() {
    let whole = tcp(pod::<V6>(1), cluster_ip::<V6>(1)).port(81);
    for kinds in [&[0][..], &[60, 43], &[0, 60, 43], &[0, 60, 43, 60]] {
        let frame = kinds
            .iter()
            .fold(whole.clone(), |frame, kind| frame.extension(*kind, 1));
        let read = parse::<V6>(&frame.build()).unwrap();
        let l4 = ETH_LEN + 40 + 16 * kinds.len();
        assert_eq!((read.l4(), read.key.dport.get()), (l4, 81), "{kinds:?}");
        let first = frame.extension(0, 0).payload(&[1; 8]).fragment(7, 0, true);
        if kinds.len() < 3 {
            let read = parse::<V6>(&first.build()).unwrap();
            assert_eq!(read.l4(), l4 + 16);
            assert!(read.part == Part::First && read.fragment_id != 0);
        }
    }
}

/// Runs everything over a buffer, twice, with different bytes behind its end: nothing may be read or written there.
fn any_bytes_are_safe<F: Family>(bytes: &[u8]) {
    let run = |rubbish: u8| {
        let mut memory = [bytes, &[rubbish; 128]].concat();
        let (frame, _) = memory.split_at_mut(bytes.len());
        let packet = Packet::of(frame);
        let mut results = Vec::new();
        for hook in 0..4 {
            let mut tables = world::<F>();
            // Whatever the destination is, it shall be one of ours.
            if let Some(dst) = crate::wire::dst::<F>(&packet, ETH_LEN) {
                tables.addresses.insert(dst, address_flags::CLUSTER_IP);
            }
            let mut work = Work::<F>::EMPTY;
            work.segment = leftover();
            let steered = match hook {
                0 => steer::ingress(Scope::Internal, &packet, ETH_LEN, &tables, &mut work),
                1 => steer::ingress(Scope::External, &packet, ETH_LEN, &tables, &mut work),
                2 => steer::egress(false, &packet, ETH_LEN, &tables, &mut work),
                _ => steer::egress(true, &packet, ETH_LEN, &tables, &mut work),
            };
            let applied = steered.and_then(|()| {
                apply(
                    &mut Bytes(packet),
                    ETH_LEN,
                    &work.segment,
                    &work.decision.to,
                )
                .map_err(Aside::from)
            });
            results.push((steered, applied));
            if matches!(steered, Err(Aside::Because(reason)) if reason.refuses()) {
                refuse(&packet, &work.segment);
            }
            let _ = F::decrement_ttl(&packet, ETH_LEN);
        }
        assert!(
            memory[bytes.len()..].iter().all(|byte| *byte == rubbish),
            "written past the end"
        );
        memory.truncate(bytes.len());
        (results, memory)
    };
    assert_eq!(run(0x00), run(0xff), "read past the end");
}

fn refuse<F: Family>(packet: &Packet, segment: &super::Segment<F>) {
    if let Some(reset) = Reset::to(packet, ETH_LEN, segment) {
        let _ = reset.write::<F>(packet, ETH_LEN, &segment.key, Checksum::Complete);
    }
    if let Some(error) = IcmpError::to(ETH_LEN, segment) {
        let _ = error.write::<F>(packet, ETH_LEN, &segment.key, Unreachable::Port, 0);
    }
}

fn world<F: Family>() -> Memory<F> {
    let mut tables = cluster::<F>();
    for proto in [TCP, UDP] {
        for scope in [Scope::Internal, Scope::External] {
            serve(
                &mut tables,
                (cluster_ip::<F>(1), 80),
                proto,
                scope,
                0,
                &[(pod::<F>(2), 8_080)],
            );
        }
    }
    tables
}

/// A good frame of some kind, with a few bytes changed and cut somewhere.
fn mangled<F: Family>() -> impl Strategy<Value = Vec<u8>> {
    let quoted = tcp(cluster_ip::<F>(1), pod::<F>(1)).from(cluster_ip::<F>(1), 80);
    let base = prop::sample::select(vec![
        tcp(pod::<F>(1), cluster_ip::<F>(1)).syn().build(),
        udp(pod::<F>(1), cluster_ip::<F>(1))
            .payload(&[3; 30])
            .build(),
        udp(pod::<F>(1), cluster_ip::<F>(1))
            .fragment(7, 0, true)
            .build(),
        icmp_error(pod::<F>(1), cluster_ip::<F>(1), &quoted).build(),
        icmp_error(pod::<F>(1), cluster_ip::<F>(1), &quoted)
            .quoting(8)
            .build(),
    ]);
    (
        base,
        prop::collection::vec((14usize..130, any::<u8>()), 0..6),
        0usize..200,
    )
        .prop_map(|(mut frame, changes, len)| {
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(len);
            frame
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_bytes_are_safe_v4(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        any_bytes_are_safe::<V4>(&bytes);
    }

    #[test]
    fn any_bytes_are_safe_v6(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        any_bytes_are_safe::<V6>(&bytes);
    }

    #[test]
    fn any_mangled_frame_is_safe_v4(bytes in mangled::<V4>()) {
        any_bytes_are_safe::<V4>(&bytes);
    }

    #[test]
    fn any_mangled_frame_is_safe_v6(bytes in mangled::<V6>()) {
        any_bytes_are_safe::<V6>(&bytes);
    }
}
