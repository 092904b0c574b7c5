//! When all SNAT ports towards a backend are in use.

use std::collections::BTreeSet;

use super::{answer_to, connect, serving};
use crate::family::Family;
use crate::memory::Memory;
use crate::testing::Hook::FromOutside;
use crate::testing::frames::tcp;
use crate::testing::{Outcome, both_families, external_ip, meet, outside, remote_pod};

both_families!(
    a_flood_leaves_connections_their_ports,
    the_connection_that_closed_first_gives_its_port_up_first,
    a_handshake_under_way_keeps_its_port_while_unanswered_ones_have_some,
    a_port_in_use_is_not_taken,
);

/// As many as there are ports.
const PORTS: u8 = 16;

fn one<F: Family>() -> Memory<F> {
    serving::<F>(&[(remote_pod::<F>(1), 8_080)])
}

fn syn<F: Family>(host: u8, tables: &Memory<F>) -> Outcome<F> {
    let client = tcp(outside::<F>(host), external_ip::<F>(1)).syn();
    meet(FromOutside, &client.build(), tables)
}

/// Whether a connection that was made with `out` goes on, both ways, by the same port.
#[track_caller]
fn goes_on<F: Family>(host: u8, out: &Outcome<F>, tables: &Memory<F>) {
    let client = tcp(outside::<F>(host), external_ip::<F>(1));
    assert_eq!(
        meet(FromOutside, &client.build(), tables).sent(),
        out.sent()
    );
    let answer = answer_to(out).expect("it was sent");
    let back = meet(FromOutside, &answer.build(), tables).sent();
    assert_eq!(back.dst.0, outside::<F>(host));
}

fn close<F: Family>(host: u8, out: &Outcome<F>, tables: &Memory<F>) {
    let client = tcp(outside::<F>(host), external_ip::<F>(1));
    meet(FromOutside, &client.fin().build(), tables).sent();
    let answer = answer_to(out).expect("it was sent");
    meet(FromOutside, &answer.fin().build(), tables).sent();
}

fn a_flood_leaves_connections_their_ports<F: Family>() {
    for answered in [false, true] {
        let tables = one::<F>();
        let there: Vec<_> = (1..PORTS - 2)
            .map(|host| (host, connect(host, &tables)))
            .collect();
        for host in 30..250 {
            let out = syn(host, &tables);
            let answer = answer_to(&out).expect("a port of the flood's own");
            if answered {
                meet(FromOutside, &answer.flags(0x12).build(), &tables).sent();
            }
            tables.now.set(tables.now.get() + u32::from(host % 50 == 0));
        }
        // Who comes now gets in.
        let last = connect(20, &tables);
        goes_on(20, &last, &tables);
        for (host, out) in &there {
            goes_on(*host, out, &tables);
        }
    }
}

fn the_connection_that_closed_first_gives_its_port_up_first<F: Family>() {
    let tables = one::<F>();
    let made: Vec<_> = (1..=PORTS)
        .map(|host| (host, connect(host, &tables)))
        .collect();
    let ports: BTreeSet<u16> = made.iter().map(|(_, out)| out.sent().src.1).collect();
    assert_eq!(ports.len(), usize::from(PORTS), "all ports are in use");
    // The odd ones close, one each second; none has been closed for a minute.
    let closed: Vec<_> = made.iter().filter(|(host, _)| host % 2 == 1).collect();
    for (host, out) in &closed {
        close(*host, out, &tables);
        tables.now.set(tables.now.get() + 1);
    }
    for (new, (_, old)) in (100..).zip(&closed) {
        assert_eq!(connect(new, &tables).sent().src, old.sent().src);
    }
    assert!(connect(200, &tables).result.is_err());
    for (host, out) in made.iter().filter(|(host, _)| host % 2 == 0) {
        goes_on(*host, out, &tables);
    }
}

fn a_handshake_under_way_keeps_its_port_while_unanswered_ones_have_some<F: Family>() {
    let tables = one::<F>();
    let first = syn(1, &tables);
    let answer = answer_to(&first).expect("there are ports");
    meet(FromOutside, &answer.flags(0x12).build(), &tables).sent();
    for host in 30..250 {
        syn(host, &tables).sent();
    }
    goes_on(1, &first, &tables);
}

fn a_port_in_use_is_not_taken<F: Family>() {
    let tables = one::<F>();
    let made: Vec<_> = (1..=PORTS)
        .map(|host| (host, connect(host, &tables)))
        .collect();
    tables.now.set(tables.now.get() + 500);
    assert!(connect(100, &tables).result.is_err());
    for (host, out) in &made {
        goes_on(*host, out, &tables);
    }
}
