mod affine;
mod choice;
mod clients;
mod ends;
mod flows;
mod hostile;
mod model;
mod ports;
mod rules;
mod tunnels;

use crate::family::Family;
use crate::memory::Memory;
use crate::table::{Scope, TCP, UDP, frontend_flags};
use crate::testing::Hook::FromOutside;
use crate::testing::frames::{Frame, tcp};
use crate::testing::{
    Endpoint, Outcome, cluster, cluster_ip, external_ip, meet, node, outside, pod, remote_pod,
    serve,
};

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

/// The answer of a client's backend on another node, as it comes in by the NIC; None: the client's packet was not sent.
fn answer_to<F: Family>(out: &Outcome<F>) -> Option<Frame> {
    out.result.ok()?;
    let sent = out.sent();
    let answer = tcp(sent.dst.0, sent.src.0);
    Some(
        answer
            .from(sent.dst.0, sent.dst.1)
            .to(sent.src.0, sent.src.1),
    )
}

/// A client's connection to the LoadBalancer address, up to its first data: what became of the SYN.
fn connect<F: Family>(host: u8, tables: &Memory<F>) -> Outcome<F> {
    let client = tcp(outside::<F>(host), external_ip::<F>(1));
    let out = meet(FromOutside, &client.clone().syn().build(), tables);
    if let Some(answer) = answer_to(&out) {
        meet(FromOutside, &answer.flags(0x12).build(), tables).sent();
        meet(FromOutside, &client.build(), tables).sent();
    }
    out
}
