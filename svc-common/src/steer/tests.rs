mod affine;
mod choice;
mod clients;
mod ends;
mod flows;
mod hostile;
mod model;
mod rules;
mod tunnels;

use crate::family::Family;
use crate::memory::Memory;
use crate::table::{Scope, TCP, UDP, frontend_flags};
use crate::testing::{Endpoint, cluster, cluster_ip, external_ip, node, pod, remote_pod, serve};

/// A ClusterIP, a NodePort and a LoadBalancer address, all with the same endpoints: one on this node, two elsewhere.
fn world<F: Family>() -> Memory<F> {
    let endpoints = [
        (pod::<F>(2), 8_080),
        (remote_pod::<F>(1), 8_080),
        (remote_pod::<F>(2), 8_080),
    ];
    serving(&endpoints)
}

fn serving<F: Family>(endpoints: &[Endpoint]) -> Memory<F> {
    let mut tables = cluster::<F>();
    endpoints_become(&mut tables, endpoints);
    tables
}

fn frontends<F: Family>() -> [Endpoint; 3] {
    [
        (cluster_ip::<F>(1), 80),
        (node::<F>(), 30_080),
        (external_ip::<F>(1), 80),
    ]
}

fn endpoints_become<F: Family>(tables: &mut Memory<F>, endpoints: &[Endpoint]) {
    for proto in [TCP, UDP] {
        for frontend in frontends::<F>() {
            serve(tables, frontend, proto, Scope::Internal, 0, endpoints);
            if frontend.0 != cluster_ip::<F>(1) {
                serve(
                    tables,
                    frontend,
                    proto,
                    Scope::External,
                    frontend_flags::MAGLEV,
                    endpoints,
                );
            }
        }
    }
}
