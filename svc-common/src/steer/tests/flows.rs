//! How long a flow lives, and what it keeps.

use std::collections::BTreeSet;

use super::{connect, endpoints_become, serving, world};
use crate::family::Family;
use crate::reason::Reason;
use crate::table::{NodeConfig, Scope, TCP, UDP, address_flags};
use crate::testing::Hook::{FromOutside, FromPod, ToOutside, ToPod};
use crate::testing::frames::{Frame, tcp, udp};
use crate::testing::{
    SNAT_MAX, SNAT_MIN, addr, both_families, cluster_ip, external_ip, meet, outside, pod,
    remote_pod, serve,
};

both_families!(
    a_flow_keeps_its_backend_when_the_set_changes,
    a_lost_flow_from_outside_finds_its_backend_again,
    a_syn_of_a_client_that_has_closed_starts_anew,
    closing_is_learnt_from_either_side,
    other_packets_of_a_closing_flow_still_follow_it,
    a_late_packet_of_an_old_flow_does_not_close_the_new_one,
    an_idle_udp_flow_starts_anew,
    one_client_port_reaches_one_backend_through_two_frontends,
    masqueraded_flows_never_share_a_port,
    a_closed_flow_gives_its_port_up,
    a_direct_connection_may_have_the_tuple_of_a_closed_flow,
    answers_keep_a_udp_flow_alive,
    a_lost_masqueraded_flow_finds_its_port_again,
    an_answer_gets_the_services_address_where_it_goes_out,
);

fn a_flow_keeps_its_backend_when_the_set_changes<F: Family>() {
    for packet in [
        tcp(pod::<F>(1), cluster_ip::<F>(1)).syn(),
        udp(pod::<F>(1), cluster_ip::<F>(1)),
    ] {
        let mut tables = world::<F>();
        let first = meet(FromPod, &packet.build(), &tables).sent();
        endpoints_become(&mut tables, &[(remote_pod::<F>(7), 9_090)]);
        for _ in 0..5 {
            assert_eq!(
                meet(FromPod, &packet.clone().flags(16).build(), &tables).sent(),
                first
            );
        }
        let other = packet.sport(40_001).build();
        assert_eq!(
            meet(FromPod, &other, &tables).sent().dst,
            (remote_pod::<F>(7), 9_090)
        );
    }
}

fn a_lost_flow_from_outside_finds_its_backend_again<F: Family>() {
    let tables = world::<F>();
    for sport in 2_000..2_100 {
        let packet = tcp(outside::<F>(1), external_ip::<F>(1)).sport(sport).syn();
        let first = meet(FromOutside, &packet.build(), &tables).sent();
        tables.flows.borrow_mut().clear();
        let again = meet(FromOutside, &packet.flags(16).build(), &tables).sent();
        tables.flows.borrow_mut().clear();
        assert_eq!(again.dst, first.dst);
    }
}

/// A TCP flow to `first` that is closing, after which only `second` is served.
fn closing<F: Family>(last: &Frame, from_client: bool) -> crate::memory::Memory<F> {
    let mut tables = serving::<F>(&[(remote_pod::<F>(1), 8_080)]);
    meet(
        FromPod,
        &tcp(pod::<F>(1), cluster_ip::<F>(1)).syn().build(),
        &tables,
    )
    .sent();
    meet(
        if from_client { FromPod } else { ToPod },
        &last.build(),
        &tables,
    )
    .sent();
    endpoints_become(&mut tables, &[(remote_pod::<F>(2), 8_080)]);
    tables
}

fn a_syn_of_a_client_that_has_closed_starts_anew<F: Family>() {
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    for last in [client.clone().fin(), client.clone().rst()] {
        let tables = closing::<F>(&last, true);
        assert_eq!(
            meet(FromPod, &client.clone().syn().build(), &tables)
                .sent()
                .dst,
            (remote_pod::<F>(2), 8_080)
        );
        // And the new flow is no longer closing.
        let again = meet(FromPod, &client.clone().syn().build(), &tables).sent();
        assert_eq!(again.dst, (remote_pod::<F>(2), 8_080));
    }
}

fn closing_is_learnt_from_either_side<F: Family>() {
    let backend = tcp(remote_pod::<F>(1), pod::<F>(1))
        .from(remote_pod::<F>(1), 8_080)
        .to(pod::<F>(1), 40_000);
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    for last in [backend.clone().fin(), backend.clone().rst()] {
        let tables = closing::<F>(&last, false);
        meet(FromPod, &client.clone().fin().build(), &tables).sent();
        assert_eq!(
            meet(FromPod, &client.clone().syn().build(), &tables)
                .sent()
                .dst,
            (remote_pod::<F>(2), 8_080)
        );
    }
}

fn other_packets_of_a_closing_flow_still_follow_it<F: Family>() {
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    let tables = closing::<F>(&client.clone().fin(), true);
    assert_eq!(
        meet(FromPod, &client.build(), &tables).sent().dst,
        (remote_pod::<F>(1), 8_080)
    );
}

fn a_late_packet_of_an_old_flow_does_not_close_the_new_one<F: Family>() {
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    let mut tables = closing::<F>(&client.clone().fin(), true);
    let new = meet(FromPod, &client.clone().syn().build(), &tables).sent();
    assert_eq!(new.dst, (remote_pod::<F>(2), 8_080));
    // The old backend's last words come a second later.
    tables.now.set(1_001);
    let late = tcp(remote_pod::<F>(1), pod::<F>(1))
        .from(remote_pod::<F>(1), 8_080)
        .to(pod::<F>(1), 40_000)
        .fin();
    meet(ToPod, &late.build(), &tables);
    endpoints_become(&mut tables, &[(remote_pod::<F>(3), 8_080)]);
    let retransmitted = meet(FromPod, &client.syn().build(), &tables).sent();
    assert_eq!(
        retransmitted.dst, new.dst,
        "the new flow is as open as before"
    );
}

fn an_idle_udp_flow_starts_anew<F: Family>() {
    let query = udp(pod::<F>(1), cluster_ip::<F>(1)).build();
    let answer = udp(remote_pod::<F>(1), pod::<F>(1))
        .from(remote_pod::<F>(1), 53)
        .to(pod::<F>(1), 40_000)
        .build();
    let NodeConfig {
        udp, udp_stream, ..
    } = NodeConfig::default();
    assert_eq!((udp, udp_stream), (30, 120), "the kernel's");
    for (answered, lifetime) in [(false, udp), (true, udp_stream)] {
        let mut tables = serving::<F>(&[(remote_pod::<F>(1), 53)]);
        meet(FromPod, &query, &tables).sent();
        if answered {
            meet(ToPod, &answer, &tables).sent();
        }
        endpoints_become(&mut tables, &[(remote_pod::<F>(2), 53)]);
        tables.now.set(1_000 + lifetime);
        assert_eq!(
            meet(FromPod, &query, &tables).sent().dst,
            (remote_pod::<F>(1), 53)
        );
        tables.now.set(1_000 + 2 * lifetime + 1);
        assert_eq!(
            meet(FromPod, &query, &tables).sent().dst,
            (remote_pod::<F>(2), 53)
        );
    }
}

fn one_client_port_reaches_one_backend_through_two_frontends<F: Family>() {
    let tables = serving::<F>(&[(remote_pod::<F>(1), 8_080)]);
    for frontend in [cluster_ip::<F>(1), external_ip::<F>(1)] {
        let out = meet(FromPod, &tcp(pod::<F>(1), frontend).syn().build(), &tables).sent();
        assert_eq!(
            (out.src.0, out.dst),
            (pod::<F>(1), (remote_pod::<F>(1), 8_080))
        );
        let answer = tcp(out.dst.0, out.src.0)
            .from(out.dst.0, out.dst.1)
            .to(out.src.0, out.src.1);
        let answer = meet(ToPod, &answer.build(), &tables).sent();
        assert_eq!(
            (answer.src, answer.dst),
            ((frontend, 80), (pod::<F>(1), 40_000))
        );
    }
}

fn masqueraded_flows_never_share_a_port<F: Family>() {
    let mut tables = serving::<F>(&[(remote_pod::<F>(1), 8_080)]);
    serve(
        &mut tables,
        (external_ip::<F>(1), 80),
        UDP,
        Scope::External,
        0,
        &[(remote_pod::<F>(1), 8_080)],
    );
    let (mut ports, mut dropped) = (BTreeSet::new(), 0);
    for host in 1..60 {
        let out = connect(host, &tables);
        match out.result {
            Ok(_) => assert!(
                ports.insert(out.sent().src.1),
                "two flows at {}",
                out.sent().src.1
            ),
            Err(_) => {
                assert_eq!(out.because(), Reason::SnatPortsExhausted);
                dropped += 1;
            }
        }
    }
    assert!(
        ports
            .iter()
            .all(|port| (SNAT_MIN..=SNAT_MAX).contains(port))
    );
    assert_eq!(ports.len() + dropped, 59);
    assert_eq!(ports.len(), 16, "ports found of 16");
    // Another protocol is another matter.
    assert!(
        meet(
            FromOutside,
            &udp(outside::<F>(1), external_ip::<F>(1)).build(),
            &tables
        )
        .result
        .is_ok()
    );
}

fn a_closed_flow_gives_its_port_up<F: Family>() {
    let tables = serving::<F>(&[(remote_pod::<F>(1), 8_080)]);
    for host in 1..200 {
        let packet = tcp(outside::<F>(host), external_ip::<F>(1));
        let out = meet(FromOutside, &packet.clone().syn().build(), &tables);
        assert!(out.result.is_ok(), "client {host}: {:?}", out.result);
        meet(FromOutside, &packet.fin().build(), &tables).sent();
        let (src, dst) = (out.sent().src, out.sent().dst);
        let answer = tcp(dst.0, src.0).from(dst.0, dst.1).to(src.0, src.1);
        meet(FromOutside, &answer.fin().build(), &tables).sent();
    }
    assert!(
        tables
            .flows
            .borrow()
            .keys()
            .all(|key| key.proto == u16::from(TCP))
    );
}

fn a_direct_connection_may_have_the_tuple_of_a_closed_flow<F: Family>() {
    let tables = serving::<F>(&[(remote_pod::<F>(1), 8_080)]);
    let client = tcp(pod::<F>(1), cluster_ip::<F>(1));
    meet(FromPod, &client.clone().syn().build(), &tables).sent();
    meet(FromPod, &client.fin().build(), &tables).sent();
    let answer = tcp(remote_pod::<F>(1), pod::<F>(1))
        .from(remote_pod::<F>(1), 8_080)
        .to(pod::<F>(1), 40_000);
    let syn_ack = meet(ToPod, &answer.clone().flags(0x12).build(), &tables);
    assert!(
        syn_ack.result.is_err(),
        "the pod has connected to the backend itself"
    );
    let data = meet(ToPod, &answer.build(), &tables);
    assert!(
        data.result.is_err(),
        "what follows belongs to that connection"
    );
    let through = tcp(pod::<F>(1), cluster_ip::<F>(1)).syn();
    meet(FromPod, &through.build(), &tables).sent();
    assert_eq!(
        meet(ToPod, &answer.build(), &tables).sent().src,
        (cluster_ip::<F>(1), 80),
        "until the pod connects through the Service again"
    );
}

fn an_answer_gets_the_services_address_where_it_goes_out<F: Family>() {
    let client = outside::<F>(1);
    let query = udp(client, external_ip::<F>(1)).build();
    let answer = udp(pod::<F>(1), client)
        .from(pod::<F>(1), 53)
        .to(client, 40_000)
        .build();
    // A filter may say yes to the client's address, and the client may be another node.
    for (crowded, flags) in [(false, 0), (true, 0), (true, address_flags::PEER)] {
        let mut tables = serving::<F>(&[(pod::<F>(1), 53)]);
        tables.crowded = crowded;
        if flags != 0 {
            tables.addresses.insert(addr::<F>(client), flags);
        }
        assert_eq!(
            meet(FromOutside, &query, &tables).sent().dst,
            (pod::<F>(1), 53)
        );
        for way_in in [FromPod, FromOutside] {
            assert!(meet(way_in, &answer, &tables).is_not_ours());
        }
        let sent = meet(ToOutside(false), &answer, &tables).sent();
        assert_eq!(sent.src, (external_ip::<F>(1), 80));
    }
}

fn answers_keep_a_udp_flow_alive<F: Family>() {
    let query = udp(pod::<F>(1), cluster_ip::<F>(1)).build();
    let mut tables = serving::<F>(&[(remote_pod::<F>(1), 53)]);
    meet(FromPod, &query, &tables).sent();
    let answer = udp(remote_pod::<F>(1), pod::<F>(1))
        .from(remote_pod::<F>(1), 53)
        .to(pod::<F>(1), 40_000)
        .build();
    for minute in 0..10 {
        tables.now.set(1_000 + minute * 60);
        meet(ToPod, &answer, &tables).sent();
    }
    endpoints_become(&mut tables, &[(remote_pod::<F>(2), 53)]);
    assert_eq!(
        meet(FromPod, &query, &tables).sent().dst,
        (remote_pod::<F>(1), 53)
    );
}

fn a_lost_masqueraded_flow_finds_its_port_again<F: Family>() {
    let mut tables = serving::<F>(&[(remote_pod::<F>(1), 8_080)]);
    serve(
        &mut tables,
        (external_ip::<F>(1), 80),
        TCP,
        Scope::External,
        0,
        &[(remote_pod::<F>(1), 8_080)],
    );
    let client = tcp(outside::<F>(1), external_ip::<F>(1));
    let first = meet(FromOutside, &client.clone().syn().build(), &tables).sent();
    tables.flows.borrow_mut().clear();
    let again = meet(FromOutside, &client.build(), &tables).sent();
    assert_eq!((again.src, again.dst), (first.src, first.dst));
}
