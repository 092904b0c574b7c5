//! What is counted by service port: each new connection once, and of packets what the agent asks for.

use svc_common::family::{V4, V6};
use svc_common::table::{TCP, counted};
use svc_common::wire::ETH_LEN;

use crate::cases::{Make, both_families, every_protocol};
use crate::frames::{Frame, tcp, udp};
use crate::host::Program::{NodeEgress, NodeIngress, NodeXdp, PodEgress, PodIngress};
use crate::host::action::*;
use crate::kernel::{Kernel, Keyed};
use crate::network::{Network, within};
use crate::pair::Pair;
use crate::world::{self, at, service};

both_families!(a_new_flow_counts_one_connection_for_its_service);

fn protocol<F: Keyed>(make: Make) -> u8 {
    make(at::<F>(1, 1), at::<F>(1, 2)).build()[ETH_LEN + if F::VERSION == 4 { 9 } else { 6 }]
}

fn a_new_flow_counts_one_connection_for_its_service<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let proto = protocol::<F>(make);
    let [web, other, empty] = [(96, 1), (96, 8), (96, 4)].map(|vip| service(vip, proto));
    let connections = |pair: &Pair<F>| [web, other, empty].map(|id| pair.kernel.counted(id).0);
    let request = |vip: (u8, u8), sport| make(at::<F>(1, 1), at::<F>(vip.0, vip.1)).sport(sport);
    assert_eq!(connections(pair), [0; 3]);
    for _ in 0..3 {
        pair.expect(PodIngress, &request((96, 1), 4_000), NEXT);
    }
    assert_eq!(connections(pair), [1, 0, 0], "one flow, however long");
    pair.expect(PodIngress, &request((96, 1), 4_001), NEXT);
    pair.expect(PodIngress, &request((96, 8), 4_000), NEXT);
    pair.run(PodIngress, &request((96, 4), 4_000).build());
    assert_eq!(connections(pair), [2, 1, 0], "what is refused is none");
    // XDP makes the flow, tc finds it.
    let front = service((50, 2), proto);
    let outside = make(at::<F>(9, 1), at::<F>(50, 2)).sport(4_000);
    pair.run(NodeXdp, &outside.build());
    pair.run(NodeIngress, &outside.build());
    assert_eq!(pair.kernel.counted(front).0, 1);
    if proto == TCP {
        // Of a connection whose flow was lost.
        let later = tcp(at::<F>(1, 1), at::<F>(96, 1)).sport(4_002);
        pair.expect(PodIngress, &later, NEXT);
        assert_eq!(connections(pair), [2, 1, 0], "it was counted when it began");
    }
    assert_eq!(
        pair.kernel.counted(web).1,
        [0; 4],
        "packets are not counted"
    );
}

#[test]
fn packets_and_bytes_are_counted_once_each_way_where_they_are_asked_for() {
    within(|network| {
        counts_traffic::<V4>(network);
        counts_traffic::<V6>(network);
    });
}

fn len(frame: &Frame) -> u64 {
    frame.build().len() as u64 - ETH_LEN as u64
}

fn counts_traffic<F: Keyed>(network: &Network) {
    let kernel = Kernel::counting(network, counted::CONNECTIONS | counted::TRAFFIC);
    let pair = &mut Pair::<F>::of(network, kernel, world::new::<F>());
    let (pod, backend) = (at::<F>(1, 1), at::<F>(1, 2));
    let web = service((96, 1), 17);
    let request = udp(pod, at::<F>(96, 1)).sport(4_000).payload(b"hello");
    let answer = udp(backend, pod)
        .sport(8_080)
        .port(4_000)
        .payload(b"hello yourself");
    for _ in 0..3 {
        pair.expect(PodIngress, &request, NEXT);
    }
    // It meets two hooks on its way, and is translated at one.
    pair.expect(PodIngress, &answer, NEXT);
    pair.expect(PodEgress, &answer, NEXT);
    let told = [3, 3 * len(&request), 1, len(&answer)];
    assert_eq!(pair.kernel.counted(web), (1, told));
    // From outside, to another node and back, masqueraded.
    let front = service((50, 2), 17);
    let request = udp(at::<F>(9, 1), at::<F>(50, 2))
        .sport(4_000)
        .payload(b"hi");
    pair.expect(NodeIngress, &request, REDIRECT);
    pair.expect(NodeIngress, &request, REDIRECT);
    let told = [2, 2 * len(&request), 0, 0];
    assert_eq!(pair.kernel.counted(front), (1, told));
    // The node's own.
    let remote = service((96, 8), 17);
    let request = udp(at::<F>(0, 1), at::<F>(96, 8)).sport(4_000);
    pair.expect(NodeEgress, &request, REDIRECT);
    assert_eq!(pair.kernel.counted(remote), (1, [1, len(&request), 0, 0]));
    // Nobody's.
    pair.expect(PodIngress, &udp(pod, backend), NEXT);
    assert_eq!(pair.kernel.counted(web).1[0], 3);
}

#[test]
fn nothing_is_counted_where_nothing_is_asked_for() {
    within(|network| {
        let pair = &mut Pair::<V4>::of(network, Kernel::counting(network, 0), world::new());
        let request = udp(at::<V4>(1, 1), at::<V4>(96, 1)).sport(4_000);
        pair.expect(PodIngress, &request, NEXT);
        assert_eq!(pair.kernel.counted(service((96, 1), 17)), (0, [0; 4]));
    });
}
