//! Which packets of clients outside are tunnelled (D12), and what is known of a flow of which only one side is seen.

use super::ends::list;
use super::serving;
use crate::memory::Memory;
use crate::steer::Route;
use crate::table::{backend_state, frontend_flags, node_flags};
use crate::testing::Hook::FromOutside;
use crate::testing::frames::{Frame, tcp, udp};
use crate::testing::{Endpoint, both_families, external_ip, meet, node, outside, remote_pod};
use crate::tunnel::Outer;

both_families!(
    only_a_backend_that_another_node_runs_is_tunnelled_to,
    a_tunnelled_connection_is_over_when_its_client_has_closed_it,
    a_tunnelled_udp_flow_lives_as_long_as_an_answered_one,
);

/// Two backends that are not here, the first one listed with these flags.
fn world<F: Outer>(place: u16) -> Memory<F> {
    let endpoints: [Endpoint; 2] = [1, 2].map(|host| (remote_pod::<F>(host), 8_080));
    let mut tables = serving(&endpoints[..1]);
    tables.config.as_mut().unwrap().flags = node_flags::DSR_IPIP;
    let serves = backend_state::SERVING | backend_state::IN_CLUSTER_SET;
    list(
        &tables,
        &[
            (endpoints[0], serves | place),
            (endpoints[1], serves | backend_state::REMOTE),
        ],
    );
    tables
}

fn route<F: Outer>(frame: &Frame, tables: &Memory<F>) -> Route {
    meet(FromOutside, &frame.build(), tables)
        .result
        .unwrap()
        .route
}

fn only_a_backend_that_another_node_runs_is_tunnelled_to<F: Outer>() {
    let request = tcp(outside::<F>(1), external_ip::<F>(1)).syn();
    let tables = world::<F>(backend_state::REMOTE);
    assert_eq!(route(&request, &tables), Route::Tunnel);
    // Where it is nobody says, perhaps outside of the cluster: nobody would take the packet out of its tunnel.
    let tables = world::<F>(0);
    let out = meet(FromOutside, &request.build(), &tables);
    assert_eq!(out.sent().src.0, node::<F>());
    assert_eq!(out.result.unwrap().route, Route::Forward);
}

fn a_tunnelled_connection_is_over_when_its_client_has_closed_it<F: Outer>() {
    let mut tables = world::<F>(backend_state::REMOTE);
    for frontend in tables.frontends.values_mut() {
        frontend.flags = frontend_flags::LEAST_CONNECTIONS;
    }
    let open = |tables: &Memory<F>| -> u64 {
        let backends = tables.backends.borrow();
        backends.values().map(|state| state.connections).sum()
    };
    let client = tcp(outside::<F>(1), external_ip::<F>(1));
    route(&client.clone().syn(), &tables);
    assert_eq!(open(&tables), 1);
    route(&client.clone().fin(), &tables);
    assert_eq!(open(&tables), 0);
    // Its last acknowledgements still go there.
    assert_eq!(route(&client, &tables), Route::Tunnel);
    let flows = tables.flows.borrow();
    let config = tables.config.unwrap();
    let counts = |flow: &crate::table::Flow<F>| flow.is_counted(1_000, &config);
    assert!(!flows.values().any(counts));
}

fn a_tunnelled_udp_flow_lives_as_long_as_an_answered_one<F: Outer>() {
    let mut tables = world::<F>(backend_state::REMOTE);
    let request = udp(outside::<F>(1), external_ip::<F>(1));
    let backend = |tables: &Memory<F>| meet(FromOutside, &request.build(), tables).sent().dst;
    let first = backend(&tables);
    super::endpoints_become(&mut tables, &[(remote_pod::<F>(2), 8_080)]);
    let config = tables.config.unwrap();
    tables.now.set(1_000 + config.udp_stream);
    assert_eq!(backend(&tables), first);
    tables.now.set(tables.now.get() + config.udp_stream + 1);
    assert_ne!(backend(&tables), first);
}
