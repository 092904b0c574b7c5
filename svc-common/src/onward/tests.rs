use super::*;
use crate::memory::Memory;
use crate::steer;
use crate::table::{TCP, UDP, flow_flags};
use crate::testing::frames::{Frame, icmp_error, tcp, udp};
use crate::testing::{
    addr, both_families, cluster, cluster_ip, node, outside, pod, remote_pod, serve,
};
use crate::wire::ETH_LEN;

fn hop(host: u8) -> Hop {
    Hop {
        ifindex: u32::from(host),
        dmac: [2, 0, 0, 0, 0, host],
        smac: [4, 0, 0, 0, 0, host],
    }
}

/// A Service with one backend here, pod 2; packets may be handed to pods 1 and 2.
fn world<F: Family>() -> Memory<F> {
    let mut tables = cluster::<F>();
    for proto in [TCP, UDP] {
        for scope in [Scope::Internal, Scope::External] {
            let backend = (pod::<F>(2), 8_080);
            serve(
                &mut tables,
                (cluster_ip::<F>(1), 80),
                proto,
                scope,
                0,
                &[backend],
            );
            serve(
                &mut tables,
                (node::<F>(), 30_080),
                proto,
                scope,
                0,
                &[backend],
            );
        }
    }
    for host in [1, 2] {
        tables.peers.insert(addr::<F>(pod::<F>(host)), hop(host));
    }
    if let Some(config) = &mut tables.config {
        config.flags |= node_flags::PEER_FROM_PODS | node_flags::PEER_FROM_OUTSIDE;
    }
    tables
}

/// What is done with a packet that comes in: the hop it is handed to, and whether as an answer to be rewritten.
fn handed<F: Family>(scope: Scope, frame: &Frame, tables: &Memory<F>) -> Option<(Hop, bool)> {
    let mut bytes = frame.build();
    let packet = Packet::of(&mut bytes);
    let mut work = Work::EMPTY;
    let translated = match steer::ingress(scope, &packet, ETH_LEN, tables, &mut work) {
        Ok(()) if work.decision.route == Route::Stack => true,
        Err(Aside::NotOurs) => false,
        _ => return None,
    };
    if translated {
        crate::rewrite::apply(
            &mut crate::rewrite::Bytes(packet),
            ETH_LEN,
            &work.segment,
            &work.decision.to,
        )
        .expect("a good packet");
    }
    onward(scope, translated, &packet, ETH_LEN, tables, &mut work).ok()?;
    assert_eq!(work.decision.route, Route::Peer);
    Some((work.hop, work.decision.reply))
}

both_families!(
    what_is_for_a_pod_here_is_handed_to_it,
    an_answer_is_known_before_it_is_handed_over,
    what_is_for_others_is_left_to_the_stack,
    parts_of_datagrams_and_errors_are_left_to_the_stack,
    without_the_setting_everything_is_left_to_the_stack,
    another_proxys_answers_are_left_to_the_stack,
);

fn what_is_for_a_pod_here_is_handed_to_it<F: Family>() {
    let tables = world::<F>();
    let direct = tcp(pod::<F>(1), pod::<F>(2)).port(8_080).syn();
    assert_eq!(
        handed(Scope::Internal, &direct, &tables),
        Some((hop(2), false))
    );
    let service = tcp(pod::<F>(1), cluster_ip::<F>(1)).port(80).syn();
    assert_eq!(
        handed(Scope::Internal, &service, &tables),
        Some((hop(2), false))
    );
    let outside = udp(outside::<F>(1), node::<F>()).port(30_080);
    assert_eq!(
        handed(Scope::External, &outside, &tables),
        Some((hop(2), false))
    );
}

fn an_answer_is_known_before_it_is_handed_over<F: Family>() {
    let tables = world::<F>();
    let request = udp(pod::<F>(1), cluster_ip::<F>(1)).sport(4_000).port(80);
    assert!(handed(Scope::Internal, &request, &tables).is_some());
    let answer = udp(pod::<F>(2), pod::<F>(1)).sport(8_080).port(4_000);
    assert_eq!(
        handed(Scope::Internal, &answer, &tables),
        Some((hop(1), true))
    );
    let other = udp(pod::<F>(2), pod::<F>(1)).sport(8_080).port(4_001);
    assert_eq!(
        handed(Scope::Internal, &other, &tables),
        Some((hop(1), false))
    );
}

fn what_is_for_others_is_left_to_the_stack<F: Family>() {
    let tables = world::<F>();
    for dst in [
        pod::<F>(3),
        remote_pod::<F>(1),
        outside::<F>(1),
        node::<F>(),
    ] {
        let frame = tcp(pod::<F>(1), dst).port(443).syn();
        assert_eq!(handed(Scope::Internal, &frame, &tables), None, "{dst}");
    }
}

fn parts_of_datagrams_and_errors_are_left_to_the_stack<F: Family>() {
    let tables = world::<F>();
    for dst in [(pod::<F>(2), 8_080), (cluster_ip::<F>(1), 80)] {
        let whole = udp(pod::<F>(1), dst.0).port(dst.1).payload(&[7; 64]);
        assert!(handed(Scope::Internal, &whole, &tables).is_some());
        let first = whole.clone().fragment(5, 0, true);
        assert_eq!(handed(Scope::Internal, &first, &tables), None);
        let last = whole.fragment(5, 64, false);
        assert_eq!(handed(Scope::Internal, &last, &tables), None);
    }
    let quoted = udp(pod::<F>(1), pod::<F>(2)).port(9);
    let error = icmp_error(pod::<F>(2), pod::<F>(1), &quoted);
    assert_eq!(handed(Scope::Internal, &error, &tables), None);
}

fn without_the_setting_everything_is_left_to_the_stack<F: Family>() {
    let mut tables = world::<F>();
    if let Some(config) = &mut tables.config {
        config.flags = node_flags::PEER_FROM_PODS;
    }
    let frame = tcp(outside::<F>(1), pod::<F>(2)).port(8_080).syn();
    assert_eq!(handed(Scope::External, &frame, &tables), None);
    assert!(handed(Scope::Internal, &frame, &tables).is_some());
    if let Some(config) = &mut tables.config {
        config.flags = 0;
    }
    assert_eq!(handed(Scope::Internal, &frame, &tables), None);
}

fn another_proxys_answers_are_left_to_the_stack<F: Family>() {
    let tables = world::<F>();
    let request = udp(pod::<F>(1), cluster_ip::<F>(1)).sport(4_000).port(80);
    assert!(handed(Scope::Internal, &request, &tables).is_some());
    for flow in tables.flows.borrow_mut().values_mut() {
        flow.flags |= flow_flags::FOREIGN;
    }
    let answer = udp(pod::<F>(2), pod::<F>(1)).sport(8_080).port(4_000);
    assert_eq!(handed(Scope::Internal, &answer, &tables), None);
}
