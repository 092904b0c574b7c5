use std::collections::BTreeSet;

use super::{flow_hash, select};
use crate::family::{Family, Port};
use crate::reason::Reason;
use crate::table::Backend;
use crate::table::{FlowKey, Frontend, TCP, Tables, frontend_flags};
use crate::testing::{addr, both_families, cluster, cluster_ip, outside, pod};

both_families!(
    random_numbers_reach_every_slot_and_no_other,
    only_maglev_asks_for_the_hash,
    the_hash_is_the_same_for_the_same_flow_and_spreads_others,
    an_empty_run_is_refused_or_dropped_as_it_says,
    a_run_past_the_table_is_our_fault,
);

fn run<F: Family>(count: u32, flags: u32) -> (crate::memory::Memory<F>, Frontend) {
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

fn random_numbers_reach_every_slot_and_no_other<F: Family>() {
    let (tables, frontend) = run::<F>(7, 0);
    let picked: BTreeSet<u16> = (0..500)
        .map(|_| {
            select(&frontend, |_| tables.random(), &tables)
                .unwrap()
                .port
                .get()
        })
        .collect();
    assert_eq!(picked, (5..12).collect());
}

fn only_maglev_asks_for_the_hash<F: Family>() {
    for (flags, expected) in [(0, false), (frontend_flags::MAGLEV, true)] {
        let (tables, frontend) = run::<F>(3, flags);
        let n = |maglev| {
            assert_eq!(maglev, expected);
            1
        };
        assert_eq!(select(&frontend, n, &tables).unwrap().port.get(), 6);
    }
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
        assert_eq!(select(&frontend, |_| 0, &tables), Err(reason));
    }
}

fn a_run_past_the_table_is_our_fault<F: Family>() {
    let (tables, mut frontend) = run::<F>(3, 0);
    frontend.first = 1_000;
    assert_eq!(select(&frontend, |_| 0, &tables), Err(Reason::BadSlot));
}
