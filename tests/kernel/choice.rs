//! How new flows choose, known beforehand: affinity, source ranges, turns, connections, and who counts as a pod.

use std::net::IpAddr;

use svc_common::reason::Reason;
use svc_common::table::{SCTP, TCP, UDP, node_flags};
use svc_common::wire::ETH_LEN;

use crate::cases::{Make, both_families, ends, every_protocol, ports};
use crate::host::Program::{NodeEgress, NodeIngress, NodeXdp, PodEgress, PodIngress};
use crate::host::action::*;
use crate::kernel::Keyed;
use crate::pair::Pair;
use crate::world::{WINDOW, allow, at, service};

both_families!(
    a_client_keeps_its_backend_through_both_frontends,
    the_window_ends,
    sources_out_of_range_are_dropped,
    round_robin_goes_round,
    connections_are_counted,
    pods_of_other_nodes_are_pods,
    masquerade_all_hides_pods,
);

fn backend<F: Keyed>(
    pair: &mut Pair<F>,
    client: IpAddr,
    vip: (u8, u8),
    make: Make,
    sport: u16,
) -> IpAddr {
    let request = make(client, at::<F>(vip.0, vip.1)).sport(sport);
    let program = if client == at::<F>(0, 1) {
        NodeEgress
    } else {
        PodIngress
    };
    let verdict = pair.run(program, &request.build());
    assert!(
        [NEXT, REDIRECT].contains(&verdict.action),
        "{:?}",
        verdict.reason
    );
    ends::<F>(&verdict.frame).1
}

fn a_client_keeps_its_backend_through_both_frontends<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    for client in [at::<F>(1, 3), at::<F>(1, 4), at::<F>(1, 5), at::<F>(0, 1)] {
        let first = backend(pair, client, (96, 7), make, 1_000);
        for sport in 2_000..2_020 {
            let vip = if sport % 2 == 0 { (50, 7) } else { (96, 7) };
            assert_eq!(backend(pair, client, vip, make, sport), first);
        }
    }
    // From outside only what is here, and that is remembered too.
    let local = [at::<F>(1, 1), at::<F>(1, 2)];
    let request = make(at::<F>(9, 1), at::<F>(50, 7));
    let first = ends::<F>(&pair.expect(NodeIngress, &request, NEXT)).1;
    assert!(local.contains(&first));
    for sport in 2_000..2_010 {
        let sent = pair.expect(NodeIngress, &request.clone().sport(sport), NEXT);
        assert_eq!(ends::<F>(&sent).1, first);
    }
}

fn the_window_ends<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let client = at::<F>(1, 3);
    let first = backend(pair, client, (96, 7), make, 1_000);
    let mut moved = false;
    for sport in 2_000..2_040 {
        pair.change(|tables| {
            for affinity in tables.affinities.borrow_mut().values_mut() {
                affinity.seen -= WINDOW + 1;
            }
        });
        moved |= backend(pair, client, (96, 7), make, sport) != first;
        assert_eq!(backend(pair, client, (96, 7), make, 1_000), first, "known");
    }
    assert!(moved);
}

fn sources_out_of_range_are_dropped<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let vip = at::<F>(50, 6);
    let allowed = make(at::<F>(9, 1), vip);
    for (program, client) in [
        (NodeIngress, at::<F>(9, 2)),
        (NodeEgress, at::<F>(0, 1)),
        (PodIngress, at::<F>(4, 9)),
    ] {
        let verdict = pair.run(program, &make(client, vip).build());
        assert_eq!(
            (verdict.action, verdict.reason),
            (SHOT, Some(Reason::SourceRange))
        );
    }
    pair.expect(NodeXdp, &make(at::<F>(9, 2), vip), XDP_PASS);
    assert!([NEXT, REDIRECT].contains(&pair.run(NodeIngress, &allowed.build()).action));
    pair.expect(PodIngress, &make(at::<F>(1, 3), vip), NEXT);
    // A range that is gone cuts no flow, and a range of another Service lets nobody in.
    pair.change(|tables| {
        tables.ranges.clear();
        allow(tables, service((50, 7), TCP), (1, 0), 8);
    });
    pair.expect(PodIngress, &make(at::<F>(1, 3), vip), NEXT);
    assert!([NEXT, REDIRECT].contains(&pair.run(NodeIngress, &allowed.build()).action));
    pair.expect(PodIngress, &make(at::<F>(1, 4), vip), SHOT);
    // Whole, halved in the middle of a word, and a range of everything.
    for wild in [0, 3, 8, 13, size_of::<F::Addr>() as u32 * 8] {
        pair.change(|tables| {
            tables.ranges.clear();
            for proto in [TCP, UDP, SCTP] {
                allow(tables, service((50, 6), proto), (1, 8), wild);
            }
        });
        for host in [8, 9, 15, 16, 255] {
            pair.run(PodIngress, &make(at::<F>(1, host), vip).build());
        }
        pair.run(PodIngress, &make(at::<F>(9, 9), vip).build());
    }
}

fn round_robin_goes_round<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let all = [(1, 2), (2, 1), (4, 1), (1, 1)].map(|(net, host)| at::<F>(net, host));
    for turn in 0..10 {
        let sent = backend(pair, at::<F>(1, 3), (50, 8), make, 2_000 + turn);
        assert_eq!(sent, all[usize::from(turn) % 4]);
        assert_eq!(backend(pair, at::<F>(1, 3), (50, 8), make, 2_000), all[0]);
    }
}

fn connections_are_counted<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let pod = at::<F>(1, 3);
    let proto = make(pod, pod).build()[ETH_LEN + if F::VERSION == 4 { 9 } else { 6 }];
    let service = service((50, 9), proto);
    let connections = |pair: &Pair<F>| -> Vec<u64> {
        let backends = pair.host.backends.borrow();
        let ours = backends.iter().filter(|(key, _)| key.service == service);
        ours.map(|(_, state)| state.connections).collect()
    };
    for sport in 2_000..2_040 {
        backend(pair, pod, (50, 9), make, sport);
        backend(pair, pod, (50, 9), make, sport);
    }
    let open = connections(pair);
    assert!(open.iter().all(|n| (8..=12).contains(n)), "{open:?}");
    if proto == TCP {
        let end = crate::frames::tcp(pod, at::<F>(50, 9)).sport(2_000);
        let to = ends::<F>(&pair.expect(PodIngress, &end.clone().fin(), NEXT)).1;
        let answer = crate::frames::tcp(to, pod).sport(8_080).port(2_000).fin();
        pair.run(PodEgress, &answer.build());
        pair.expect(PodIngress, &end.rst(), NEXT);
        assert_eq!(connections(pair).iter().sum::<u64>(), 39);
    }
}

fn pods_of_other_nodes_are_pods<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    let (remote, outside) = (at::<F>(2, 5), at::<F>(9, 5));
    pair.expect(NodeIngress, &make(remote, at::<F>(96, 1)), SHOT);
    pair.change(|tables| tables.config.as_mut().expect("set").flags = node_flags::CLUSTER_CIDR);
    let sent = pair.expect(NodeIngress, &make(remote, at::<F>(96, 1)), NEXT);
    assert_eq!(ends::<F>(&sent), (remote, at::<F>(1, 2)));
    let sent = pair.expect(NodeXdp, &make(remote, at::<F>(50, 1)), XDP_TX);
    assert_eq!(ends::<F>(&sent), (at::<F>(0, 1), at::<F>(2, 1)));
    pair.expect(NodeIngress, &make(outside, at::<F>(96, 1)), SHOT);
    pair.expect(NodeIngress, &make(remote, at::<F>(50, 4)), REDIRECT);
    pair.expect(NodeIngress, &make(outside, at::<F>(50, 4)), SHOT);
}

fn masquerade_all_hides_pods<F: Keyed>(pair: &mut Pair<F>, make: Make) {
    pair.change(|tables| tables.config.as_mut().expect("set").flags = node_flags::MASQUERADE_ALL);
    let (pod, node) = (at::<F>(1, 3), at::<F>(0, 1));
    let request = make(pod, at::<F>(96, 1));
    let sent = pair.expect(PodIngress, &request, REDIRECT);
    assert_eq!(ends::<F>(&sent), (node, at::<F>(1, 2)));
    let answer = make(at::<F>(1, 2), node)
        .sport(8_080)
        .port(ports::<F>(&sent).0);
    let seen = pair.expect(PodIngress, &answer, REDIRECT);
    assert_eq!(
        (ends::<F>(&seen), ports::<F>(&seen)),
        ((at::<F>(96, 1), pod), (80, 40_000))
    );
    // The backend is the node itself; and an address that is no ClusterIP.
    for vip in [(96, 5), (50, 1)] {
        let sent = pair.expect(PodIngress, &make(pod, at::<F>(vip.0, vip.1)), NEXT);
        assert_eq!(ends::<F>(&sent).0, pod);
    }
}
