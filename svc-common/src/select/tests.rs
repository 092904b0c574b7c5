use std::collections::BTreeSet;

use super::{choose, flow_hash, number};
use crate::family::{Family, Port};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::table::{
    Backend, BackendState, FlowKey, Frontend, Source, TCP, backend_state, frontend_flags,
};
use crate::testing::{addr, both_families, cluster, cluster_ip, outside, pod};

both_families!(
    random_numbers_reach_every_slot_and_no_other,
    numbers_are_asked_for_only_where_they_are_needed,
    round_robin_takes_slots_in_turn,
    least_connections_takes_the_better_of_two,
    a_connection_weighs_less_where_the_weight_is_more,
    a_backend_that_is_gone_is_not_taken_if_another_is_there,
    only_sources_in_a_range_are_let_in,
    the_hash_is_the_same_for_the_same_flow_and_spreads_others,
    an_empty_run_is_refused_or_dropped_as_it_says,
    a_run_past_the_table_is_our_fault,
);

fn run<F: Family>(count: u32, flags: u32) -> (Memory<F>, Frontend) {
    let mut tables = cluster::<F>();
    for slot in 0..count + 10 {
        let backend = Backend {
            addr: addr::<F>(pod::<F>(slot as u8)),
            port: Port::new(slot as u16),
            flags: 0,
        };
        tables.slots.insert(slot, backend);
    }
    (
        tables,
        Frontend {
            first: 5,
            count,
            service: 1,
            flags,
            affinity: 0,
        },
    )
}

/// The port of the slot that was picked.
fn pick<F: Family>(tables: &Memory<F>, frontend: &Frontend, n: u32) -> Result<u16, Reason> {
    let mut backend = Backend::EMPTY;
    let client = addr::<F>(outside::<F>(1));
    choose(frontend, &client, || n, tables, &mut backend).map(|()| backend.port.get())
}

fn random_numbers_reach_every_slot_and_no_other<F: Family>() {
    let (tables, frontend) = run::<F>(7, 0);
    let picked: BTreeSet<u16> = (0..500)
        .map(|_| pick(&tables, &frontend, number(&frontend, &tables)).unwrap())
        .collect();
    assert_eq!(picked, (5..12).collect());
}

fn numbers_are_asked_for_only_where_they_are_needed<F: Family>() {
    let (tables, frontend) = run::<F>(0, frontend_flags::ROUND_ROBIN);
    let mut backend = Backend::EMPTY;
    let client = addr::<F>(outside::<F>(1));
    let never = || panic!("an empty run has no turns");
    assert!(choose(&frontend, &client, never, &tables, &mut backend).is_err());
}

fn round_robin_takes_slots_in_turn<F: Family>() {
    let (tables, frontend) = run::<F>(3, frontend_flags::ROUND_ROBIN);
    let picked: Vec<u16> = (0..7)
        .map(|_| pick(&tables, &frontend, number(&frontend, &tables)).unwrap())
        .collect();
    assert_eq!(picked, [5, 6, 7, 5, 6, 7, 5]);
    // Every run has turns of its own.
    let other = Frontend {
        first: 8,
        ..frontend
    };
    assert_eq!(number(&other, &tables), 0);
}

/// A run of two with so many connections and such weights.
fn loaded<F: Family>(loads: [(u64, u16); 2]) -> (Memory<F>, Frontend) {
    let (tables, frontend) = run::<F>(2, frontend_flags::LEAST_CONNECTIONS);
    for (slot, (connections, weight)) in (5..).zip(loads) {
        let key = tables.slots[&slot].key(frontend.service);
        let state = BackendState {
            flags: backend_state::SERVING | backend_state::IN_CLUSTER_SET,
            weight,
            connections,
            ..BackendState::default()
        };
        tables.backends.borrow_mut().insert(key, state);
    }
    (tables, frontend)
}

/// What two numbers of 16 bits each make of a run of two.
const ORDERS: [u32; 4] = [0, 1, 0x1_0000, 0x1_0001];

fn least_connections_takes_the_better_of_two<F: Family>() {
    for n in ORDERS {
        let (tables, frontend) = loaded::<F>([(3, 1), (4, 1)]);
        assert_eq!(pick(&tables, &frontend, n), Ok(5));
        let (tables, frontend) = loaded::<F>([(5, 1), (4, 1)]);
        assert_eq!(pick(&tables, &frontend, n), Ok(6));
    }
    // The first of equals.
    let (tables, frontend) = loaded::<F>([(4, 1), (4, 1)]);
    assert_eq!(pick(&tables, &frontend, 0), Ok(5));
    assert_eq!(pick(&tables, &frontend, 1), Ok(6));
}

fn a_connection_weighs_less_where_the_weight_is_more<F: Family>() {
    for n in ORDERS {
        let (tables, frontend) = loaded::<F>([(10, 5), (3, 1)]);
        assert_eq!(pick(&tables, &frontend, n), Ok(5));
        let (tables, frontend) = loaded::<F>([(0, 1), (0, 2)]);
        assert_eq!(pick(&tables, &frontend, n), Ok(6));
        let (tables, frontend) = loaded::<F>([(0, 0), (900, 1)]);
        assert_eq!(pick(&tables, &frontend, n), Ok(6), "0 is no connections");
        // More ends than starts were counted.
        let (tables, frontend) = loaded::<F>([(u64::MAX, 1), (1, 1)]);
        assert_eq!(pick(&tables, &frontend, n), Ok(5));
    }
}

fn a_backend_that_is_gone_is_not_taken_if_another_is_there<F: Family>() {
    for n in ORDERS {
        let (tables, frontend) = loaded::<F>([(0, 1), (100, 1)]);
        let gone = tables.slots[&5].key(frontend.service);
        tables.backends.borrow_mut().remove(&gone);
        assert_eq!(pick(&tables, &frontend, n), Ok(6));
    }
}

fn only_sources_in_a_range_are_let_in<F: Family>() {
    let (mut tables, frontend) = run::<F>(1, frontend_flags::SOURCE_RANGES);
    assert_eq!(pick(&tables, &frontend, 0), Err(Reason::SourceRange));
    let bits = size_of::<F::Addr>() as u32 * 8;
    let range = |service, host| {
        let addr = addr::<F>(outside::<F>(host));
        Source { service, addr }
    };
    tables.ranges.insert((range(2, 1), bits));
    tables.ranges.insert((range(1, 2), bits));
    assert_eq!(pick(&tables, &frontend, 0), Err(Reason::SourceRange));
    tables.ranges.insert((range(1, 0), bits - 8));
    assert_eq!(pick(&tables, &frontend, 0), Ok(5));
    // Whoever is kept out learns nothing of the endpoints.
    let (tables, frontend) = run::<F>(0, frontend_flags::SOURCE_RANGES);
    assert_eq!(pick(&tables, &frontend, 0), Err(Reason::SourceRange));
}

fn the_hash_is_the_same_for_the_same_flow_and_spreads_others<F: Family>() {
    let key = |sport: u16| FlowKey::<F> {
        src: addr::<F>(outside::<F>(1)),
        dst: addr::<F>(cluster_ip::<F>(1)),
        sport: Port::new(sport),
        dport: Port::new(80),
        proto: TCP.into(),
        _pad: 0,
    };
    assert_eq!(flow_hash(&key(1)), flow_hash(&key(1)));
    let mut buckets = [0u32; 10];
    for sport in 1_000..11_000 {
        buckets[(flow_hash(&key(sport)) % 10) as usize] += 1;
    }
    assert!(
        buckets.iter().all(|n| (850..1_150).contains(n)),
        "{buckets:?}"
    );
}

fn an_empty_run_is_refused_or_dropped_as_it_says<F: Family>() {
    for (flags, reason) in [
        (0, Reason::NoEndpoints),
        (frontend_flags::DROP_WHEN_EMPTY, Reason::NoLocalEndpoints),
    ] {
        let (tables, frontend) = run::<F>(0, flags);
        assert_eq!(pick(&tables, &frontend, 0), Err(reason));
    }
}

fn a_run_past_the_table_is_our_fault<F: Family>() {
    let (tables, mut frontend) = run::<F>(3, 0);
    frontend.first = 1_000;
    assert_eq!(pick(&tables, &frontend, 0), Err(Reason::BadSlot));
}
