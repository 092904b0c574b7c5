//! The ring that `monitor` reads: what is written when somebody watches, and that nothing is when nobody does.

use svc_common::event::{Event, Kind, LEASE, MAX_EVENTS, Place};
use svc_common::family::{V4, V6};
use svc_common::reason::Reason;

use crate::frames::{tcp, udp};
use crate::host::Program::{NodeIngress, PodIngress};
use crate::kernel::Keyed;
use crate::network::within;
use crate::pair::{Pair, settled_second};
use crate::world::at;

#[test]
fn who_watches_is_shown_what_is_lost_and_what_is_new() {
    within(|network| {
        shows(&mut Pair::<V4>::new(network));
        shows(&mut Pair::<V6>::new(network));
    });
}

fn shows<F: Keyed>(pair: &mut Pair<F>) {
    let refused = tcp(at::<F>(1, 3), at::<F>(96, 4)).port(80).syn().build();
    let opening = udp(at::<F>(9, 1), at::<F>(50, 1))
        .sport(1_234)
        .port(80)
        .build();
    pair.run(PodIngress, &refused);
    assert_eq!(pair.kernel.event_count(), 0, "nobody watches");
    let now = settled_second();
    pair.kernel.watch(now + LEASE, now + LEASE);
    pair.run(PodIngress, &refused);
    pair.run(NodeIngress, &opening);
    // A known flow, and what is nobody's.
    pair.run(NodeIngress, &opening);
    pair.run(NodeIngress, &tcp(at::<F>(9, 1), at::<F>(1, 2)).build());
    let events = pair.kernel.events();
    let [loss, new] = &events[..] else {
        panic!("{events:#?}")
    };
    let ports = |event: &Event| (event.client_port.get(), event.frontend_port.get());
    assert_eq!(
        (loss.kind, loss.reason, loss.place),
        (Kind::Lost as u8, Reason::NoEndpoints as u8, Place::Tc as u8)
    );
    assert_eq!(loss.ifindex, pair.network.pods.index);
    assert_eq!((loss.version, ports(loss)), (F::VERSION, (40_000, 80)));
    assert_eq!(
        (new.kind, new.ifindex),
        (Kind::Opened as u8, pair.network.nic.index)
    );
    assert_eq!((ports(new), new.backend_port.get()), ((1_234, 80), 8_080));
    assert_eq!((new.number, new.proto), (2, 17));
    assert!(new.service != 0 && new.time > loss.time);
    let words = |event: &Event| [event.client, event.frontend, event.backend];
    assert_eq!(
        words(new),
        [at::<F>(9, 1), at::<F>(50, 1), at::<F>(2, 1)].map(four::<F>)
    );
    // Each is asked for by itself.
    pair.kernel.watch(0, now + LEASE);
    pair.run(PodIngress, &refused);
    assert_eq!(pair.kernel.event_count(), 2);
    // A lease that is over.
    pair.kernel.watch(1, 1);
    pair.run(PodIngress, &refused);
    assert_eq!(pair.kernel.event_count(), 2);
}

/// As the programs write an address.
fn four<F: Keyed>(ip: std::net::IpAddr) -> [u32; 4] {
    let addr = F::addr_from_std(ip).expect("of this family");
    let mut bytes = bytemuck::bytes_of(&addr).to_vec();
    bytes.resize(16, 0);
    [0, 4, 8, 12].map(|i| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]))
}

#[test]
fn the_ring_goes_round_and_its_numbers_go_on() {
    within(|network| {
        let pair = &mut Pair::<V4>::new(network);
        let now = settled_second();
        pair.kernel.watch(now + 60, now + 60);
        // It ends too early, and is the same after each run.
        let mut refused = udp(at::<V4>(1, 3), at::<V4>(96, 1)).port(81).build();
        refused.truncate(14 + 20 + 2);
        let (runs, program) = (MAX_EVENTS + 10, PodIngress);
        pair.kernel.test(program, &refused, None, runs);
        assert_eq!(pair.kernel.event_count(), u64::from(runs));
        let events = pair.kernel.events();
        assert_eq!(events.len(), MAX_EVENTS as usize, "the oldest have gone");
        let numbers: Vec<u32> = events.iter().map(|event| event.number).collect();
        let expected: Vec<u32> = (11..=runs).collect();
        assert_eq!(numbers, expected);
        let event = &events[0];
        assert_eq!(event.reason, Reason::Truncated as u8);
        assert_eq!(
            (event.proto, event.client_port.get()),
            (0, 0),
            "they were not read"
        );
    });
}
