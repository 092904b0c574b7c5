//! Who is answered and who is not, and by which address a backend is reached.

use std::net::IpAddr;

use super::world;
use crate::family::Family;
use crate::memory::Memory;
use crate::reason::Reason;
use crate::steer::Route;
use crate::table::{Scope, TCP, frontend_flags, node_flags};
use crate::testing::Hook::{self, FromOutside, FromPod, ToOutside, ToPod};
use crate::testing::frames::{icmp_error, tcp, udp};
use crate::testing::{
    Endpoint, Outcome, SNAT_MAX, SNAT_MIN, both_families, cluster_ip, external_ip, meet, node,
    outside, pod, read_quoted, remote_pod, serve,
};

both_families!(
    an_undefined_port_of_a_cluster_ip_is_refused_inside,
    a_cluster_ip_is_dropped_from_outside_unless_allowed,
    other_ports_of_other_addresses_are_not_ours,
    no_endpoints_is_refused_and_no_local_endpoints_dropped,
    a_pod_keeps_its_address,
    a_pod_that_reaches_itself_comes_from_the_node,
    a_client_outside_keeps_its_address_towards_a_local_backend,
    a_client_outside_gets_the_nodes_address_towards_a_remote_backend,
    without_a_route_the_packet_is_dropped,
    a_process_of_the_node_is_served_on_the_way_out,
    a_process_of_the_node_reaches_a_backend_that_is_the_node,
    traffic_that_only_passes_is_left_alone,
    errors_and_resets_open_no_flow,
    an_error_about_a_translated_flow_reaches_its_sender,
    fragments_follow_their_first_and_no_other,
    what_the_node_cannot_read_for_itself_is_the_stacks,
);

/// The world with one more Service of TCP, of one endpoint.
fn world_with<F: Family>(frontend: Endpoint, scope: Scope, ip: IpAddr) -> Memory<F> {
    let mut tables = world::<F>();
    serve(&mut tables, frontend, TCP, scope, 0, &[(ip, 8_080)]);
    tables
}

/// Who talks to whom after the frame went on.
#[track_caller]
fn ends<F: Family>(outcome: &Outcome<F>) -> (Endpoint, Endpoint) {
    let sent = outcome.sent();
    (sent.src, sent.dst)
}

fn an_undefined_port_of_a_cluster_ip_is_refused_inside<F: Family>() {
    let tables = world::<F>();
    let segment = tcp(pod::<F>(1), cluster_ip::<F>(1)).port(81).syn().build();
    assert_eq!(
        meet(FromPod, &segment, &tables).because(),
        Reason::UndefinedPort
    );
    let tcp_only_elsewhere = tcp(pod::<F>(1), cluster_ip::<F>(2)).syn().build();
    assert_eq!(
        meet(FromPod, &tcp_only_elsewhere, &tables).because(),
        Reason::UndefinedPort
    );
    assert_eq!(
        meet(ToOutside(true), &segment, &tables).because(),
        Reason::UndefinedPort
    );
    assert!(tables.flows.borrow().is_empty());
}

fn a_cluster_ip_is_dropped_from_outside_unless_allowed<F: Family>() {
    let mut tables = world::<F>();
    let segment = tcp(outside::<F>(1), cluster_ip::<F>(1)).syn().build();
    assert_eq!(
        meet(FromOutside, &segment, &tables).because(),
        Reason::ClusterIpFromOutside
    );
    // With the option on, ports that the agent did not write for outside are undefined.
    tables.config.as_mut().unwrap().flags = node_flags::EXTERNAL_CLUSTER_IP;
    assert_eq!(
        meet(FromOutside, &segment, &tables).because(),
        Reason::UndefinedPort
    );
    serve(
        &mut tables,
        (cluster_ip::<F>(1), 80),
        TCP,
        Scope::External,
        0,
        &[(pod::<F>(2), 8_080)],
    );
    assert_eq!(
        meet(FromOutside, &segment, &tables).sent().dst,
        (pod::<F>(2), 8_080)
    );
}

fn other_ports_of_other_addresses_are_not_ours<F: Family>() {
    let tables = world::<F>();
    for dst in [
        node::<F>(),
        external_ip::<F>(1),
        remote_pod::<F>(1),
        outside::<F>(3),
    ] {
        assert!(
            meet(
                FromPod,
                &tcp(pod::<F>(1), dst).port(22).syn().build(),
                &tables
            )
            .is_not_ours()
        );
        assert!(
            meet(
                FromOutside,
                &tcp(outside::<F>(1), dst).port(22).syn().build(),
                &tables
            )
            .is_not_ours()
        );
    }
}

fn no_endpoints_is_refused_and_no_local_endpoints_dropped<F: Family>() {
    let mut tables = world::<F>();
    for (flags, reason) in [
        (0, Reason::NoEndpoints),
        (frontend_flags::DROP_WHEN_EMPTY, Reason::NoLocalEndpoints),
    ] {
        for scope in [Scope::Internal, Scope::External] {
            serve(
                &mut tables,
                (external_ip::<F>(2), 80),
                TCP,
                scope,
                flags,
                &[],
            );
        }
        let segment = tcp(pod::<F>(1), external_ip::<F>(2)).syn().build();
        for hook in [FromPod, FromOutside, ToOutside(true)] {
            assert_eq!(meet(hook, &segment, &tables).because(), reason);
        }
    }
}

fn a_pod_keeps_its_address<F: Family>() {
    let tables = world::<F>();
    for sport in 1_000..1_050 {
        let out = meet(
            FromPod,
            &tcp(pod::<F>(1), cluster_ip::<F>(1))
                .sport(sport)
                .syn()
                .build(),
            &tables,
        );
        assert_eq!(
            (out.sent().src, out.result.unwrap().route),
            ((pod::<F>(1), sport), Route::Stack)
        );
        let back = tcp(pod::<F>(1), cluster_ip::<F>(1))
            .from(out.sent().dst.0, 8_080)
            .to(pod::<F>(1), sport);
        let answer = meet(ToPod, &back.build(), &tables);
        assert_eq!(
            ends(&answer),
            ((cluster_ip::<F>(1), 80), (pod::<F>(1), sport))
        );
    }
}

fn a_pod_that_reaches_itself_comes_from_the_node<F: Family>() {
    let tables = world_with::<F>((cluster_ip::<F>(3), 80), Scope::Internal, pod::<F>(1));
    let out = meet(
        FromPod,
        &tcp(pod::<F>(1), cluster_ip::<F>(3)).syn().build(),
        &tables,
    );
    let sent = out.sent();
    assert_eq!((sent.src.0, sent.dst), (node::<F>(), (pod::<F>(1), 8_080)));
    assert!((SNAT_MIN..=SNAT_MAX).contains(&sent.src.1));
    assert_eq!(out.result.unwrap().route, Route::Forward);
    let answer = tcp(pod::<F>(1), node::<F>())
        .from(pod::<F>(1), 8_080)
        .to(node::<F>(), sent.src.1);
    let answer = meet(FromPod, &answer.build(), &tables).sent();
    assert_eq!(
        (answer.src, answer.dst),
        ((cluster_ip::<F>(3), 80), (pod::<F>(1), 40_000))
    );
}

fn a_client_outside_keeps_its_address_towards_a_local_backend<F: Family>() {
    let tables = world_with::<F>((node::<F>(), 30_081), Scope::External, pod::<F>(2));
    let out = meet(
        FromOutside,
        &tcp(outside::<F>(1), node::<F>()).port(30_081).syn().build(),
        &tables,
    );
    assert_eq!(
        ends(&out),
        ((outside::<F>(1), 40_000), (pod::<F>(2), 8_080))
    );
    assert_eq!(out.result.unwrap().route, Route::Stack);
    let answer = tcp(pod::<F>(2), outside::<F>(1))
        .from(pod::<F>(2), 8_080)
        .to(outside::<F>(1), 40_000)
        .build();
    let answer = meet(ToOutside(false), &answer, &tables);
    assert_eq!(
        ends(&answer),
        ((node::<F>(), 30_081), (outside::<F>(1), 40_000))
    );
}

fn a_client_outside_gets_the_nodes_address_towards_a_remote_backend<F: Family>() {
    let tables = world_with::<F>(
        (external_ip::<F>(2), 80),
        Scope::External,
        remote_pod::<F>(1),
    );
    let out = meet(
        FromOutside,
        &tcp(outside::<F>(1), external_ip::<F>(2)).syn().build(),
        &tables,
    );
    let sent = out.sent();
    assert_eq!(
        (sent.src.0, sent.dst),
        (node::<F>(), (remote_pod::<F>(1), 8_080))
    );
    assert!(
        (SNAT_MIN..=SNAT_MAX).contains(&sent.src.1),
        "a port the node does not use itself"
    );
    assert_eq!(out.result.unwrap().route, Route::Forward);
    let answer = tcp(sent.dst.0, sent.src.0)
        .from(sent.dst.0, sent.dst.1)
        .to(sent.src.0, sent.src.1);
    let answer = meet(FromOutside, &answer.build(), &tables);
    assert_eq!(
        ends(&answer),
        ((external_ip::<F>(2), 80), (outside::<F>(1), 40_000))
    );
    assert!(answer.result.unwrap().reply);
    // A client's port that lies in the range anyway is kept.
    let lucky = tcp(outside::<F>(2), external_ip::<F>(2))
        .sport(SNAT_MIN + 3)
        .syn()
        .build();
    assert_eq!(
        meet(FromOutside, &lucky, &tables).sent().src,
        (node::<F>(), SNAT_MIN + 3)
    );
}

fn without_a_route_the_packet_is_dropped<F: Family>() {
    let mut tables = world_with::<F>(
        (external_ip::<F>(2), 80),
        Scope::External,
        remote_pod::<F>(1),
    );
    tables.routes.clear();
    let segment = tcp(outside::<F>(1), external_ip::<F>(2)).syn().build();
    assert_eq!(
        meet(FromOutside, &segment, &tables).because(),
        Reason::NoRoute
    );
}

fn a_process_of_the_node_is_served_on_the_way_out<F: Family>() {
    let mut tables = world::<F>();
    serve(
        &mut tables,
        (cluster_ip::<F>(3), 53),
        crate::table::UDP,
        Scope::Internal,
        0,
        &[(remote_pod::<F>(1), 5_353)],
    );
    let query = udp(node::<F>(), cluster_ip::<F>(3)).port(53);
    let out = meet(ToOutside(true), &query.build(), &tables);
    assert_eq!(
        ends(&out),
        ((node::<F>(), 40_000), (remote_pod::<F>(1), 5_353))
    );
    assert_eq!(out.result.unwrap().route, Route::Forward);
    let answer = udp(remote_pod::<F>(1), node::<F>())
        .from(remote_pod::<F>(1), 5_353)
        .to(node::<F>(), 40_000);
    let answer = meet(FromOutside, &answer.build(), &tables);
    assert_eq!(
        (answer.sent().src, answer.result.unwrap().route),
        ((cluster_ip::<F>(3), 53), Route::Stack)
    );
}

fn a_process_of_the_node_reaches_a_backend_that_is_the_node<F: Family>() {
    let mut tables = world::<F>();
    serve(
        &mut tables,
        (cluster_ip::<F>(3), 53),
        crate::table::UDP,
        Scope::Internal,
        0,
        &[(node::<F>(), 5_353)],
    );
    let out = meet(
        ToOutside(true),
        &udp(node::<F>(), cluster_ip::<F>(3)).port(53).build(),
        &tables,
    );
    let sent = out.sent();
    assert_eq!(
        (sent.src, sent.dst),
        ((cluster_ip::<F>(3), 40_000), (node::<F>(), 5_353))
    );
    assert_eq!(out.result.unwrap().route, Route::Inject);
    let answer = udp(node::<F>(), cluster_ip::<F>(3))
        .from(node::<F>(), 5_353)
        .to(cluster_ip::<F>(3), 40_000);
    let answer = meet(ToOutside(true), &answer.build(), &tables);
    assert_eq!(
        ends(&answer),
        ((cluster_ip::<F>(3), 53), (node::<F>(), 40_000))
    );
    assert_eq!(answer.result.unwrap().route, Route::Inject);
}

fn traffic_that_only_passes_is_left_alone<F: Family>() {
    let tables = world::<F>();
    let to_service = tcp(pod::<F>(1), cluster_ip::<F>(1)).syn().build();
    assert!(meet(ToOutside(false), &to_service, &tables).is_not_ours());
    assert!(meet(ToPod, &to_service, &tables).is_not_ours());
    let elsewhere = tcp(pod::<F>(1), outside::<F>(1)).syn().build();
    for hook in Hook::ALL {
        assert!(meet(hook, &elsewhere, &tables).is_not_ours());
    }
    assert!(tables.flows.borrow().is_empty());
}

fn errors_and_resets_open_no_flow<F: Family>() {
    let tables = world::<F>();
    let quoted = tcp(cluster_ip::<F>(1), pod::<F>(1))
        .from(cluster_ip::<F>(1), 80)
        .to(pod::<F>(1), 40_000);
    assert!(
        meet(
            FromPod,
            &icmp_error(pod::<F>(1), cluster_ip::<F>(1), &quoted).build(),
            &tables
        )
        .is_not_ours()
    );
    assert!(
        meet(
            FromPod,
            &tcp(pod::<F>(1), cluster_ip::<F>(1)).rst().build(),
            &tables
        )
        .is_not_ours()
    );
    assert!(tables.flows.borrow().is_empty());
}

fn an_error_about_a_translated_flow_reaches_its_sender<F: Family>() {
    let (vip, backend, client) = (external_ip::<F>(2), remote_pod::<F>(1), outside::<F>(1));
    let tables = world_with::<F>((vip, 80), Scope::External, backend);
    let request = tcp(client, vip).syn();
    let sent = meet(FromOutside, &request.build(), &tables).sent();
    // A router behind us complains about the translated packet: the client hears about its own.
    let translated = request
        .clone()
        .from(sent.src.0, sent.src.1)
        .to(sent.dst.0, sent.dst.1);
    let error = icmp_error(outside::<F>(77), node::<F>(), &translated);
    let heard = meet(FromOutside, &error.build(), &tables);
    assert_eq!(
        (heard.sent().src.0, heard.sent().dst.0),
        (outside::<F>(77), client)
    );
    let quoted = read_quoted(&heard.frame);
    assert_eq!((quoted.src, quoted.dst), ((client, 40_000), (vip, 80)));
    // The client complains about an answer: the backend hears about what it sent.
    let answer = request.reversed();
    let heard = meet(
        FromOutside,
        &icmp_error(client, vip, &answer).build(),
        &tables,
    );
    assert_eq!(
        (heard.sent().src.0, heard.sent().dst.0),
        (sent.src.0, backend)
    );
    let quoted = read_quoted(&heard.frame);
    assert_eq!((quoted.src, quoted.dst), ((backend, 8_080), sent.src));
}

fn fragments_follow_their_first_and_no_other<F: Family>() {
    let tables = world::<F>();
    let whole = udp(pod::<F>(1), cluster_ip::<F>(1)).payload(&[7; 64]);
    let later = |id| whole.clone().fragment(id, 3, false).build();
    assert_eq!(
        meet(FromPod, &later(1), &tables).because(),
        Reason::FragmentUnknown
    );
    let first = meet(
        FromPod,
        &whole.clone().fragment(1, 0, true).build(),
        &tables,
    )
    .sent();
    let second = meet(FromPod, &later(1), &tables).sent();
    assert_eq!((first.src.0, first.dst.0), (second.src.0, second.dst.0));
    assert_eq!(
        meet(FromPod, &later(2), &tables).because(),
        Reason::FragmentUnknown
    );
}

fn what_the_node_cannot_read_for_itself_is_the_stacks<F: Family>() {
    let tables = world::<F>();
    let later = udp(outside::<F>(1), node::<F>())
        .payload(&[1; 9])
        .fragment(4, 9, true)
        .build();
    assert!(meet(FromOutside, &later, &tables).is_not_ours());
    let mut cut = tcp(outside::<F>(1), node::<F>()).build();
    cut.truncate(14 + F::LEN + 2);
    assert!(meet(FromOutside, &cut, &tables).is_not_ours());
    let mut cut = tcp(pod::<F>(1), cluster_ip::<F>(1)).build();
    cut.truncate(14 + F::LEN + 2);
    assert_eq!(meet(FromPod, &cut, &tables).because(), Reason::Truncated);
}
