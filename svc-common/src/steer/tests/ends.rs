//! How flows end: half-closed connections, backends that go (D6, D7), and another proxy's connections.

use super::{connect, endpoints_become, serving};
use crate::family::{Addr, Family, Port};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::table::{
    BackendKey, BackendState, Flow, FlowKey, TCP, UDP, backend_state, flow_flags, flow_state,
    node_flags,
};
use crate::testing::Hook::{FromOutside, FromPod, ToOutside, ToPod};
use crate::testing::frames::{Frame, tcp, udp};
use crate::testing::{
    Endpoint, addr, both_families, cluster_ip, external_ip, meet, node, outside, pod, remote_pod,
};

both_families!(
    a_half_closed_connection_goes_on_both_ways,
    a_stray_syn_does_not_end_a_connection,
    a_port_is_free_again_when_both_sides_have_closed,
    udp_leaves_a_backend_that_has_stopped_serving_with_the_next_datagram,
    udp_stays_where_nobody_serves,
    udp_stays_with_a_backend_that_still_serves,
    established_tcp_stays_with_a_backend_that_is_gone,
    tcp_to_a_backend_that_is_gone_is_reset_if_wanted,
    a_syn_to_a_backend_that_is_gone_finds_another_one,
    another_proxys_connections_pass_untouched,
    a_connection_that_is_being_handed_over_waits,
    another_proxys_datagrams_become_ours_with_the_backend_they_have,
    another_proxys_datagrams_leave_a_backend_that_has_stopped_serving,
    a_takeover_leaves_unknown_connections_alone,
);

const FIRST: u16 = 8_080;

/// One backend, `first`, that serves; then the endpoints become `second` alone, and `listed` says what is known of
/// the first.
fn replaced<F: Family>(tables: &mut Memory<F>, listed: Option<u16>, second_serves: bool) {
    let second = (remote_pod::<F>(2), FIRST);
    endpoints_become(tables, &[second]);
    let mut all = Vec::new();
    if let Some(flags) = listed {
        all.push(((remote_pod::<F>(1), FIRST), flags));
    }
    if second_serves {
        all.push((second, backend_state::SERVING));
    }
    list(tables, &all);
}

/// Writes BACKENDS as the agent does, and ends the epoch.
pub(super) fn list<F: Family>(tables: &Memory<F>, all: &[(Endpoint, u16)]) {
    let mut backends = tables.backends.borrow_mut();
    backends.clear();
    for service in [80, 30_080] {
        let mut put = |addr, port, flags| {
            let key = BackendKey {
                service,
                addr,
                port,
                _pad: 0,
            };
            let state = BackendState {
                flags,
                weight: 1,
                ..BackendState::default()
            };
            backends.insert(key, state);
        };
        for ((ip, port), flags) in all {
            put(addr::<F>(*ip), Port::new(*port), *flags);
        }
        if all
            .iter()
            .any(|(_, flags)| flags & backend_state::SERVING != 0)
        {
            put(F::Addr::UNSPECIFIED, Port(0), 0);
        }
    }
    tables.epoch.set(tables.epoch.get().wrapping_add(1));
}

fn one<F: Family>() -> Memory<F> {
    let first = (remote_pod::<F>(1), FIRST);
    let tables = serving::<F>(&[first]);
    list(&tables, &[(first, backend_state::SERVING)]);
    tables
}

fn answer<F: Family>(from: Endpoint, like: Frame) -> Frame {
    like.from(from.0, from.1).to(pod::<F>(1), 40_000)
}

fn a_half_closed_connection_goes_on_both_ways<F: Family>() {
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    let backend = answer::<F>((remote_pod::<F>(1), FIRST), client.clone());
    let (to, back) = ((remote_pod::<F>(1), FIRST), (cluster_ip::<F>(1), 80));
    for client_closes in [true, false] {
        let mut tables = one::<F>();
        meet(FromPod, &client.clone().syn().build(), &tables).sent();
        meet(ToPod, &backend.clone().flags(0x12).build(), &tables).sent();
        if client_closes {
            meet(FromPod, &client.clone().fin().build(), &tables).sent();
        } else {
            meet(ToPod, &backend.clone().fin().build(), &tables).sent();
        }
        replaced(&mut tables, None, true);
        // An hour of it, with a word every 50 s.
        for step in 1..72 {
            tables.now.set(1_000 + step * 50);
            assert_eq!(meet(FromPod, &client.build(), &tables).sent().dst, to);
            assert_eq!(meet(ToPod, &backend.build(), &tables).sent().src, back);
        }
    }
}

fn a_stray_syn_does_not_end_a_connection<F: Family>() {
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    let mut tables = one::<F>();
    meet(FromPod, &client.clone().syn().build(), &tables).sent();
    let backend = answer::<F>((remote_pod::<F>(1), FIRST), client.clone());
    meet(ToPod, &backend.flags(0x12).build(), &tables).sent();
    replaced(&mut tables, None, true);
    let syn = client.clone().syn().build();
    for seconds in [1, 60, 119] {
        tables.now.set(1_000 + seconds);
        let to = meet(FromPod, &syn, &tables).sent().dst;
        assert_eq!(to, (remote_pod::<F>(1), FIRST), "after {seconds} s");
    }
    // But keeps nothing alive: a client that has lost its connection gets a new one.
    tables.now.set(1_000 + 121);
    assert_eq!(
        meet(FromPod, &syn, &tables).sent().dst,
        (remote_pod::<F>(2), FIRST)
    );
}

fn a_port_is_free_again_when_both_sides_have_closed<F: Family>() {
    for both in [true, false] {
        let tables = one::<F>();
        let mut refused = 0;
        for host in 1..60 {
            let client = tcp(outside::<F>(host), external_ip::<F>(1));
            let out = connect(host, &tables);
            if out.result.is_err() {
                assert_eq!(out.because(), Reason::SnatPortsExhausted);
                refused += 1;
                continue;
            }
            let sent = out.sent();
            meet(FromOutside, &client.fin().build(), &tables).sent();
            if both {
                let last = tcp(sent.dst.0, sent.src.0)
                    .from(sent.dst.0, sent.dst.1)
                    .to(sent.src.0, sent.src.1)
                    .fin();
                meet(FromOutside, &last.build(), &tables).sent();
            }
        }
        assert_eq!(refused == 0, both, "{refused} of 59 found no port");
    }
}

/// A client's first datagram to the first backend.
fn asked<F: Family>() -> (Memory<F>, Vec<u8>) {
    let tables = one::<F>();
    let query = udp(pod::<F>(1), cluster_ip::<F>(1)).build();
    let to = meet(FromPod, &query, &tables).sent().dst;
    assert_eq!(to, (remote_pod::<F>(1), FIRST));
    (tables, query)
}

fn udp_leaves_a_backend_that_has_stopped_serving_with_the_next_datagram<F: Family>() {
    for listed in [None, Some(0)] {
        let (mut tables, query) = asked::<F>();
        replaced(&mut tables, listed, true);
        assert_eq!(
            meet(FromPod, &query, &tables).sent().dst,
            (remote_pod::<F>(2), FIRST)
        );
        // What the old one still says reaches the client.
        let late = answer::<F>(
            (remote_pod::<F>(1), FIRST),
            udp(pod::<F>(1), cluster_ip::<F>(1)),
        );
        assert_eq!(
            meet(ToPod, &late.build(), &tables).sent().src,
            (cluster_ip::<F>(1), 80)
        );
        assert_eq!(
            meet(FromPod, &query, &tables).sent().dst,
            (remote_pod::<F>(2), FIRST)
        );
    }
}

fn udp_stays_where_nobody_serves<F: Family>() {
    let (mut tables, query) = asked::<F>();
    replaced(&mut tables, Some(0), false);
    for _ in 0..3 {
        let to = meet(FromPod, &query, &tables).sent().dst;
        assert_eq!(to, (remote_pod::<F>(1), FIRST));
    }
    replaced(&mut tables, Some(0), true);
    assert_eq!(
        meet(FromPod, &query, &tables).sent().dst,
        (remote_pod::<F>(2), FIRST)
    );
}

fn udp_stays_with_a_backend_that_still_serves<F: Family>() {
    let (mut tables, query) = asked::<F>();
    // On its way out, in no set any more.
    replaced(&mut tables, Some(backend_state::SERVING), true);
    for second in 0..20 {
        tables.now.set(1_000 + second);
        let to = meet(FromPod, &query, &tables).sent().dst;
        assert_eq!(to, (remote_pod::<F>(1), FIRST));
    }
}

fn established<F: Family>() -> (Memory<F>, Frame) {
    let tables = one::<F>();
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    meet(FromPod, &client.clone().syn().build(), &tables).sent();
    let backend = answer::<F>((remote_pod::<F>(1), FIRST), client.clone());
    meet(ToPod, &backend.flags(0x12).build(), &tables).sent();
    (tables, client)
}

fn established_tcp_stays_with_a_backend_that_is_gone<F: Family>() {
    let (mut tables, client) = established::<F>();
    replaced(&mut tables, None, true);
    for second in 0..20 {
        tables.now.set(1_000 + 100 * second);
        let to = meet(FromPod, &client.build(), &tables).sent().dst;
        assert_eq!(to, (remote_pod::<F>(1), FIRST));
    }
}

fn reset_gone<F: Family>(tables: &mut Memory<F>) {
    tables.config.as_mut().expect("configured").flags |= node_flags::RESET_GONE;
}

fn tcp_to_a_backend_that_is_gone_is_reset_if_wanted<F: Family>() {
    let (mut tables, client) = established::<F>();
    reset_gone(&mut tables);
    // One that does not serve may come back.
    replaced(&mut tables, Some(0), true);
    meet(FromPod, &client.build(), &tables).sent();
    replaced(&mut tables, None, true);
    for _ in 0..2 {
        let out = meet(FromPod, &client.build(), &tables);
        assert_eq!(out.because(), Reason::BackendGone);
    }
    assert!(Reason::BackendGone.refuses());
    let rst = client.clone().rst().build();
    assert!(
        meet(FromPod, &rst, &tables).result.is_ok(),
        "a reset is not answered by a reset"
    );
    let anew = meet(FromPod, &client.syn().build(), &tables).sent().dst;
    assert_eq!(anew, (remote_pod::<F>(2), FIRST));
}

fn a_syn_to_a_backend_that_is_gone_finds_another_one<F: Family>() {
    let mut tables = one::<F>();
    reset_gone(&mut tables);
    let syn = tcp(pod::<F>(1), cluster_ip::<F>(1)).syn().build();
    meet(FromPod, &syn, &tables).sent();
    replaced(&mut tables, None, true);
    assert_eq!(
        meet(FromPod, &syn, &tables).sent().dst,
        (remote_pod::<F>(2), FIRST)
    );
}

/// Writes a connection of kube-proxy's, masqueraded as the node's port 2000, as a takeover does.
fn foreign<F: Family>(tables: &Memory<F>, proto: u8) {
    let key = |src, sport, dst, dport| FlowKey {
        src: addr::<F>(src),
        dst: addr::<F>(dst),
        sport: Port::new(sport),
        dport: Port::new(dport),
        proto: u16::from(proto),
        _pad: 0,
    };
    let flow = Flow {
        forward: key(pod::<F>(1), 40_000, cluster_ip::<F>(1), 80),
        reply: key(remote_pod::<F>(1), FIRST, node::<F>(), 2_000),
        seen: tables.now.get(),
        service: 80,
        epoch: tables.epoch.get().wrapping_sub(1),
        flags: flow_flags::FOREIGN,
        client_state: flow_state::ESTABLISHED,
        backend_state: 0,
        _pad: [0; 3],
    };
    tables.flows.borrow_mut().insert(flow.reply, flow);
}

fn another_proxys_connections_pass_untouched<F: Family>() {
    let tables = one::<F>();
    foreign(&tables, TCP);
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    let backend = client
        .clone()
        .from(remote_pod::<F>(1), FIRST)
        .to(node::<F>(), 2_000);
    for seconds in [0, 1, 500, 86_400] {
        tables.now.set(1_000 + seconds);
        assert!(meet(FromPod, &client.build(), &tables).is_not_ours());
        assert!(meet(FromOutside, &backend.build(), &tables).is_not_ours());
        assert!(meet(ToOutside(true), &client.build(), &tables).is_not_ours());
    }
    // Its port is not given to others meanwhile, and the client's next connection is ours.
    let anew = meet(FromPod, &client.syn().build(), &tables).sent();
    assert_eq!(anew.dst, (remote_pod::<F>(1), FIRST));
    let answered = answer::<F>(anew.dst, tcp(pod::<F>(1), cluster_ip::<F>(1)));
    assert_eq!(
        meet(ToPod, &answered.build(), &tables).sent().src,
        (cluster_ip::<F>(1), 80)
    );
}

fn a_connection_that_is_being_handed_over_waits<F: Family>() {
    let tables = one::<F>();
    foreign(&tables, TCP);
    for flow in tables.flows.borrow_mut().values_mut() {
        flow.flags |= flow_flags::HELD;
    }
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    let backend = client
        .clone()
        .from(remote_pod::<F>(1), FIRST)
        .to(node::<F>(), 2_000);
    for seen in [
        meet(FromPod, &client.build(), &tables),
        meet(FromOutside, &backend.build(), &tables),
        meet(ToOutside(true), &client.build(), &tables),
    ] {
        assert_eq!(seen.result, Err(Reason::HandedOver.into()));
    }
}

fn another_proxys_datagrams_become_ours_with_the_backend_they_have<F: Family>() {
    let mut tables = one::<F>();
    foreign(&tables, UDP);
    replaced(&mut tables, Some(backend_state::SERVING), true);
    let query = udp(pod::<F>(1), cluster_ip::<F>(1)).build();
    for second in 0..=120 {
        tables.now.set(1_000 + second);
        assert!(
            meet(FromPod, &query, &tables).is_not_ours(),
            "at second {second}"
        );
    }
    tables.now.set(1_000 + 121);
    let sent = meet(FromPod, &query, &tables).sent();
    assert_eq!(
        (sent.src, sent.dst),
        ((node::<F>(), 2_000), (remote_pod::<F>(1), FIRST))
    );
    let back = udp(pod::<F>(1), cluster_ip::<F>(1))
        .from(remote_pod::<F>(1), FIRST)
        .to(node::<F>(), 2_000)
        .build();
    let got = meet(FromOutside, &back, &tables).sent();
    assert_eq!(
        (got.src, got.dst),
        ((cluster_ip::<F>(1), 80), (pod::<F>(1), 40_000))
    );
    // After a real silence there is nothing to keep.
    foreign(&tables, UDP);
    tables.now.set(1_000 + 121 + 500);
    assert_eq!(
        meet(FromPod, &query, &tables).sent().dst,
        (remote_pod::<F>(2), FIRST)
    );
}

fn another_proxys_datagrams_leave_a_backend_that_has_stopped_serving<F: Family>() {
    let mut tables = one::<F>();
    foreign(&tables, UDP);
    let query = udp(pod::<F>(1), cluster_ip::<F>(1)).build();
    assert!(meet(FromPod, &query, &tables).is_not_ours());
    replaced(&mut tables, None, true);
    assert_eq!(
        meet(FromPod, &query, &tables).sent().dst,
        (remote_pod::<F>(2), FIRST)
    );
}

fn a_takeover_leaves_unknown_connections_alone<F: Family>() {
    let mut tables = one::<F>();
    tables.config.as_mut().expect("configured").flags |= node_flags::TAKEOVER;
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    assert!(meet(FromPod, &client.build(), &tables).is_not_ours());
    assert!(tables.flows.borrow().is_empty());
    meet(FromPod, &client.clone().syn().build(), &tables).sent();
    meet(FromPod, &client.build(), &tables).sent();
    let query = udp(pod::<F>(1), cluster_ip::<F>(1)).build();
    meet(FromPod, &query, &tables).sent();
}
