//! A flood of ten times the table from random sources: who was there stays, and who comes honestly gets in.

extern crate std;

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;
use std::vec::Vec;

use super::tests::{Heap, answered, flow};
use super::*;
use crate::family::{Port, V4, V6};
use crate::table::{TCP, UDP, flow_state};

const RECORDS: u32 = 4_096;
/// Connections that are there before, and stay.
const ESTABLISHED: u32 = 2_400;
const FLOOD: u32 = 10 * RECORDS;
/// Packets of the flood between a client's packet and the answer, and from there to the client's next.
const BACKEND_AWAY: u32 = 5;
const CLIENT_AWAY: u32 = 400;
/// Every so many packets of the flood an honest client connects.
const HONEST: u32 = 100;

/// What the flood's packets lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    Unanswered,
    /// The backend answers, and the source is not there to hear it.
    Answered,
    /// Its answers do not come by here (DSR).
    Tunnelled,
    /// Each source asks once and is answered, by UDP.
    Queries,
}

/// A new flow of client `n`; those with an odd number are masqueraded.
fn new<F: Family>(n: u32, proto: u8, now: u32) -> Flow<F> {
    let v4 = Ipv4Addr::from_bits(0x0b00_0000 + n).into();
    let v6 = Ipv6Addr::from_bits((0xfd0b << 112) + u128::from(n)).into();
    let client = F::addr_from_std(v4).or(F::addr_from_std(v6));
    let client = client.expect("of one family or the other");
    let mut flow = flow::<F>(1_000, 1_000, proto, now);
    flow.forward.src = client;
    if n.is_multiple_of(2) {
        flow.reply.dst = client;
    } else {
        // The node's ports towards ever another backend.
        flow.reply.dport = Port::new(n as u16 | 1);
        flow.reply.sport = Port::new((n >> 16) as u16);
    }
    flow
}

/// A packet of a flow that is there: does it find its flow?
fn meet<F: Family>(flow: &Flow<F>, reply: bool, now: u32, table: &Heap<F>) -> bool {
    let key = if reply { &flow.reply } else { &flow.forward };
    let met = with(key, table, |known, as_reply| {
        assert_eq!(as_reply, reply);
        known.seen = now;
        if reply {
            known.backend_state |= flow_state::ESTABLISHED;
        } else {
            known.client_state |= known.confirmed(known.state());
        }
        known.forward == flow.forward
    });
    met == Some(true)
}

/// `rate`: packets of the flood in a second.
fn survives<F: Family>(flood: Flood, rate: u32) {
    let table = Heap::<F>::new(RECORDS / 2, RECORDS);
    let long_ago = 10_000;
    let mut now = long_ago + 3_000;
    let there: Vec<Flow<F>> = (0..ESTABLISHED)
        .map(|n| {
            // A third of them have been silent for nearly an hour.
            let seen = if n.is_multiple_of(3) { long_ago } else { now };
            answered(new(n, TCP, seen))
        })
        .collect();
    for flow in &there {
        assert_eq!(insert(flow, OVER, &table), Insert::Done);
    }
    let mut handshakes: BTreeMap<u32, Vec<(Flow<F>, bool)>> = BTreeMap::new();
    let (mut connected, mut failed) = (Vec::new(), 0);
    for n in 0..FLOOD {
        now += u32::from(n % rate == rate - 1);
        let proto = if flood == Flood::Queries { UDP } else { TCP };
        let mut spoofed = new::<F>(1_000_000 + n, proto, now);
        if flood == Flood::Tunnelled {
            spoofed.flags = flow_flags::TUNNEL;
        }
        insert(&spoofed, OVER, &table);
        if matches!(flood, Flood::Answered | Flood::Queries) {
            meet(&spoofed, true, now, &table);
        }
        if n % HONEST == 0 && n + BACKEND_AWAY + CLIENT_AWAY < FLOOD {
            let honest = new::<F>(9_000_000 + n, TCP, now);
            match insert(&honest, OVER, &table) {
                Insert::Done => {
                    let answer = handshakes.entry(n + BACKEND_AWAY).or_default();
                    answer.push((honest, true));
                    let next = handshakes.entry(n + BACKEND_AWAY + CLIENT_AWAY);
                    next.or_default().push((honest, false));
                }
                _ => failed += 1,
            }
        }
        for (honest, reply) in handshakes.remove(&n).unwrap_or_default() {
            match (meet(&honest, reply, now, &table), reply) {
                (true, true) => {}
                (true, false) => connected.push(honest),
                (false, _) => failed += 1,
            }
        }
    }
    let lost = |flows: &[Flow<F>]| {
        let both =
            |flow: &&Flow<F>| !(meet(flow, false, now, &table) && meet(flow, true, now, &table));
        flows.iter().filter(both).count()
    };
    let what = std::format!("{flood:?} at {rate}/s");
    assert_eq!(lost(&there), 0, "{what}: established connections");
    assert_eq!(lost(&connected), 0, "{what}: new connections, once there");
    let all = connected.len() + failed;
    assert!(
        all >= 400 && failed * 100 <= all,
        "{what}: {failed} of {all} new connections failed"
    );
}

fn floods<F: Family>() {
    use Flood::{Answered, Queries, Tunnelled, Unanswered};
    for flood in [Unanswered, Answered, Tunnelled, Queries] {
        // All of one second; the table in one; in ten.
        for rate in [FLOOD + 1, RECORDS, RECORDS / 10] {
            survives::<F>(flood, rate);
        }
    }
}

#[test]
fn connections_live_through_a_flood_of_ten_tables_v4() {
    floods::<V4>();
}

#[test]
fn connections_live_through_a_flood_of_ten_tables_v6() {
    floods::<V6>();
}

/// With four fifths of the table in use by connections that idle, the flood still takes none of their places.
#[test]
fn idle_connections_stay_while_anything_else_can_go() {
    let table = Heap::<V4>::new(RECORDS / 2, RECORDS);
    let there: Vec<Flow<V4>> = (0..RECORDS * 8 / 10)
        .map(|n| answered(new(n, TCP, 1_000)))
        .collect();
    for flow in &there {
        assert_eq!(insert(flow, OVER, &table), Insert::Done);
    }
    for n in 0..FLOOD {
        insert(&new(1_000_000 + n, TCP, 5_000 + n / RECORDS), OVER, &table);
    }
    let lost = there.iter().filter(|flow| !meet(flow, true, 6_000, &table));
    assert_eq!(lost.count(), 0);
}

#[test]
fn who_is_worth_the_least_goes_first() {
    let config = NodeConfig::default();
    let of = |state: u8, silence: u32| {
        let flow = Flow {
            backend_state: state,
            ..flow::<V4>(1, 1, TCP, 10_000 - silence)
        };
        flow.worth(10_000, &config)
    };
    use flow_state::{CLOSING, CONFIRMED, ESTABLISHED};
    let rising = [
        of(0, 121),
        of(0, 100),
        of(0, 2),
        of(CLOSING | CONFIRMED | ESTABLISHED, 60),
        of(CLOSING, 0),
        of(ESTABLISHED, 90),
        of(0, 1),
        of(ESTABLISHED, 1),
        of(0, 0),
        of(ESTABLISHED, 0),
        of(ESTABLISHED | CONFIRMED, 9_000),
        of(ESTABLISHED | CONFIRMED, 601),
        of(ESTABLISHED | CONFIRMED, 600),
    ];
    assert!(rising.is_sorted_by(|a, b| a < b), "{rising:?}");
}
