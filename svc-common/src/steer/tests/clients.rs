//! Who is a pod, and whose address the backend sees, by the node's settings.

use super::world;
use crate::family::Family;
use crate::memory::Memory;
use crate::reason::Reason;
use crate::steer::Route;
use crate::table::{CLUSTER, Scope, Source, TCP, frontend_flags, node_flags};
use crate::testing::Hook::{self, FromOutside, FromPod, ToOutside};
use crate::testing::frames::tcp;
use crate::testing::{
    Endpoint, addr, both_families, cluster_ip, external_ip, meet, node, outside, pod, remote_pod,
    serve,
};

both_families!(
    a_pod_of_another_node_is_served_as_a_pod,
    a_pod_of_another_node_reaches_remote_backends_through_us,
    without_a_cluster_cidr_other_nodes_pods_are_outside,
    an_outside_client_of_a_cluster_ip_is_masqueraded_towards_remote_backends,
    masquerade_all_hides_the_clients_of_cluster_ips,
    masquerade_all_spares_what_the_node_itself_serves,
);

/// Pods of other nodes are known by their addresses.
fn with_cidr<F: Family>() -> Memory<F> {
    let mut tables = world::<F>();
    tables.config.as_mut().unwrap().flags = node_flags::CLUSTER_CIDR;
    for ip in [pod::<F>(0), remote_pod::<F>(0)] {
        let range = Source {
            service: CLUSTER,
            addr: addr::<F>(ip),
        };
        let length = size_of::<F::Addr>() as u32 * 8 - 8;
        tables.ranges.insert((range, length));
    }
    tables
}

/// Policy Local: outside there is nothing here, inside there are all endpoints.
fn local_only<F: Family>(tables: &mut Memory<F>, endpoints: &[Endpoint]) {
    let frontend = (external_ip::<F>(2), 80);
    let drop = frontend_flags::DROP_WHEN_EMPTY | frontend_flags::LOCAL_SET;
    serve(tables, frontend, TCP, Scope::External, drop, &[]);
    serve(tables, frontend, TCP, Scope::Internal, 0, endpoints);
}

fn a_pod_of_another_node_is_served_as_a_pod<F: Family>() {
    let mut tables = with_cidr::<F>();
    let endpoint = (pod::<F>(2), 8_080);
    local_only(&mut tables, &[endpoint]);
    let ask = |src, dst| {
        let frame = tcp(src, dst).syn().build();
        meet(FromOutside, &frame, &tables)
    };
    let out = ask(remote_pod::<F>(5), external_ip::<F>(2));
    assert_eq!(out.result.unwrap().route, Route::Stack);
    assert_eq!(
        (out.sent().src, out.sent().dst),
        ((remote_pod::<F>(5), 40_000), endpoint)
    );
    ask(remote_pod::<F>(5), cluster_ip::<F>(1)).sent();
    let undefined = ask(remote_pod::<F>(5), cluster_ip::<F>(7));
    assert_eq!(undefined.because(), Reason::UndefinedPort);
    for (dst, reason) in [
        (external_ip::<F>(2), Reason::NoLocalEndpoints),
        (cluster_ip::<F>(1), Reason::ClusterIpFromOutside),
    ] {
        assert_eq!(ask(outside::<F>(1), dst).because(), reason);
    }
}

fn a_pod_of_another_node_reaches_remote_backends_through_us<F: Family>() {
    let mut tables = with_cidr::<F>();
    let endpoint = (remote_pod::<F>(1), 8_080);
    local_only(&mut tables, &[endpoint]);
    // Also where it is the backend itself.
    for client in [remote_pod::<F>(5), remote_pod::<F>(1)] {
        let frame = tcp(client, external_ip::<F>(2)).syn().build();
        let out = meet(FromOutside, &frame, &tables);
        assert_eq!((out.sent().src.0, out.sent().dst), (node::<F>(), endpoint));
        assert_eq!(out.result.unwrap().route, Route::Forward);
    }
}

fn without_a_cluster_cidr_other_nodes_pods_are_outside<F: Family>() {
    let mut tables = with_cidr::<F>();
    tables.config.as_mut().unwrap().flags = 0;
    local_only(&mut tables, &[(pod::<F>(2), 8_080)]);
    let frame = tcp(remote_pod::<F>(5), external_ip::<F>(2)).syn().build();
    let out = meet(FromOutside, &frame, &tables);
    assert_eq!(out.because(), Reason::NoLocalEndpoints);
}

fn an_outside_client_of_a_cluster_ip_is_masqueraded_towards_remote_backends<F: Family>() {
    for (endpoint, source) in [
        (remote_pod::<F>(1), node::<F>()),
        (pod::<F>(2), outside::<F>(1)),
    ] {
        let mut tables = world::<F>();
        tables.config.as_mut().unwrap().flags = node_flags::EXTERNAL_CLUSTER_IP;
        let frontend = (cluster_ip::<F>(3), 80);
        let endpoints = [(endpoint, 8_080)];
        serve(&mut tables, frontend, TCP, Scope::External, 0, &endpoints);
        let request = tcp(outside::<F>(1), cluster_ip::<F>(3)).syn();
        let sent = meet(FromOutside, &request.build(), &tables).sent();
        assert_eq!((sent.src.0, sent.dst), (source, endpoints[0]));
        let answer = tcp(endpoint, source)
            .from(endpoint, 8_080)
            .to(sent.src.0, sent.src.1);
        let hook = if source == node::<F>() {
            FromOutside
        } else {
            ToOutside(false)
        };
        let answer = meet(hook, &answer.build(), &tables).sent();
        assert_eq!(
            (answer.src, answer.dst),
            (frontend, (outside::<F>(1), 40_000))
        );
    }
}

/// The source that the backend sees of a packet to `frontend`, whose only backend is `endpoint`; and the way there.
fn seen<F: Family>(
    hook: Hook,
    client: std::net::IpAddr,
    frontend: std::net::IpAddr,
    endpoint: std::net::IpAddr,
) -> (std::net::IpAddr, Route) {
    let mut tables = with_cidr::<F>();
    tables.config.as_mut().unwrap().flags |= node_flags::MASQUERADE_ALL;
    for scope in [Scope::Internal, Scope::External] {
        serve(
            &mut tables,
            (frontend, 80),
            TCP,
            scope,
            0,
            &[(endpoint, 8_080)],
        );
    }
    let out = meet(hook, &tcp(client, frontend).syn().build(), &tables);
    (out.sent().src.0, out.result.unwrap().route)
}

fn masquerade_all_hides_the_clients_of_cluster_ips<F: Family>() {
    for endpoint in [pod::<F>(2), remote_pod::<F>(1)] {
        for (hook, client) in [
            (FromPod, pod::<F>(1)),
            (FromOutside, remote_pod::<F>(5)),
            (FromOutside, outside::<F>(1)),
        ] {
            let hidden = seen::<F>(hook, client, cluster_ip::<F>(3), endpoint);
            assert_eq!(hidden, (node::<F>(), Route::Forward), "{client}");
        }
        // Only of ClusterIPs.
        let shown = seen::<F>(FromPod, pod::<F>(1), external_ip::<F>(3), endpoint);
        assert_eq!(shown, (pod::<F>(1), Route::Stack));
    }
}

fn masquerade_all_spares_what_the_node_itself_serves<F: Family>() {
    let shown = seen::<F>(FromPod, pod::<F>(1), cluster_ip::<F>(3), node::<F>());
    assert_eq!(shown, (pod::<F>(1), Route::Stack));
}
