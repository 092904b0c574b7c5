//! The table against a naive one, and what it does when there is no room.

extern crate std;

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use bytemuck::Zeroable;
use proptest::prelude::*;

use super::index::hash;
use super::*;
use crate::family::{Port, V4, V6};
use crate::table::{TCP, UDP, flow_state};
use crate::testing::{addr, cluster_ip, node, outside, remote_pod};

/// A table in ordinary memory.
pub(super) struct Heap<F: Family> {
    shape: Shape,
    records: RefCell<Vec<Record<F>>>,
    buckets: RefCell<Vec<Bucket>>,
    hand: Cell<u32>,
}

impl<F: Family> Heap<F> {
    pub(super) fn new(buckets: u32, records: u32) -> Self {
        let none = Record {
            flow: Flow::zeroed(),
            version: 0,
        };
        Self {
            shape: Shape {
                seed: [0x1234_5677, 3, 5, 7, 11, 13, 17, 19, 23, 0x9999_9999],
                buckets: buckets - 1,
                records: records - 1,
            },
            records: RefCell::new(vec![none; records as usize]),
            buckets: RefCell::new(vec![Bucket([0; WAYS]); buckets as usize]),
            hand: Cell::new(0),
        }
    }

    fn all(&self) -> Vec<Flow<F>> {
        let mut flows = Vec::new();
        each(self, |_, flow| flows.push(*flow));
        flows
    }

    /// How many slots name a record.
    fn slots(&self) -> usize {
        let buckets = self.buckets.borrow();
        let slots = buckets.iter().flat_map(|bucket| bucket.0);
        slots.filter(|slot| *slot != 0).count()
    }
}

impl<F: Family> Store<F> for Heap<F> {
    fn shape(&self) -> Option<&Shape> {
        Some(&self.shape)
    }

    fn bucket(&self, number: u32) -> Option<*mut u32> {
        let mut buckets = self.buckets.borrow_mut();
        let bucket: *mut Bucket = buckets.get_mut(number as usize)?;
        Some(bucket.cast())
    }

    fn record(&self, number: u32) -> Option<*mut Record<F>> {
        let mut records = self.records.borrow_mut();
        Some(records.get_mut(number as usize)?)
    }

    unsafe fn swap(&self, at: *mut u32, old: u32, new: u32) -> bool {
        // SAFETY: a word of this table, which one thread has.
        let there = unsafe { &mut *at };
        let is_old = *there == old;
        if is_old {
            *there = new;
        }
        is_old
    }

    fn hand(&self) -> u32 {
        self.hand.get()
    }

    fn set_hand(&self, number: u32) {
        self.hand.set(number);
    }

    fn lifetimes(&self) -> NodeConfig {
        NodeConfig::default()
    }
}

pub(super) fn flow<F: Family>(client: u16, backend: u16, proto: u8, seen: u32) -> Flow<F> {
    let key = |src, sport, dst, dport| FlowKey {
        src,
        dst,
        sport: Port::new(sport),
        dport: Port::new(dport),
        proto: u16::from(proto),
        _pad: 0,
    };
    Flow {
        forward: key(
            addr::<F>(outside::<F>(1)),
            client,
            addr::<F>(cluster_ip::<F>(1)),
            80,
        ),
        reply: key(
            addr::<F>(remote_pod::<F>(1)),
            8_080,
            addr::<F>(node::<F>()),
            backend,
        ),
        seen,
        ..Flow::zeroed()
    }
}

/// And confirmed by its client.
pub(super) fn answered<F: Family>(flow: Flow<F>) -> Flow<F> {
    Flow {
        backend_state: flow_state::ESTABLISHED | flow_state::CONFIRMED,
        ..flow
    }
}

/// What may happen to a table.
#[derive(Clone, Debug)]
enum Act {
    Insert { client: u16, nat: u16, tunnel: bool },
    Remove { nat: u16 },
    Pass { seconds: u32 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..40u16, 0..40u16, any::<bool>())
            .prop_map(|(client, nat, tunnel)| Act::Insert { client, nat, tunnel }),
        2 => (0..40u16).prop_map(|nat| Act::Remove { nat }),
        1 => (0..40u32).prop_map(|seconds| Act::Pass { seconds }),
    ]
}

/// Tables with room behave as one that looks at every flow it has.
fn agrees<F: Family>(acts: &[Act], buckets: u32) {
    let table = Heap::<F>::new(buckets, 256);
    let mut model: BTreeMap<FlowKey<F>, Flow<F>> = BTreeMap::new();
    let mut now = 1_000;
    let config = NodeConfig::default();
    for act in acts {
        match *act {
            Act::Pass { seconds } => now += seconds,
            Act::Remove { nat } => {
                let key = flow::<F>(0, nat, UDP, 0).reply;
                remove(&key, &table);
                model.remove(&key);
            }
            Act::Insert {
                client,
                nat,
                tunnel,
            } => {
                let mut new = flow::<F>(client, nat, UDP, now);
                if tunnel {
                    new.flags = flow_flags::TUNNEL;
                }
                let same = |flow: &&mut Flow<F>| {
                    flow.forward == new.forward && flow.flags & flow_flags::LATE == 0
                };
                if let Some(old) = model.values_mut().find(same) {
                    let own = *old.own_key();
                    if old.has_answers() && old.reply != new.reply {
                        old.flags |= flow_flags::LATE;
                    } else {
                        model.remove(&own);
                    }
                }
                let owner = model.get(&new.reply).filter(|_| new.has_answers());
                let expected = match owner {
                    Some(owner)
                        if !owner.is_over(now, false, &config) && owner.forward != new.forward =>
                    {
                        Insert::Taken(owner.worth(now, &config))
                    }
                    _ => {
                        model.insert(*new.own_key(), new);
                        Insert::Done
                    }
                };
                assert_eq!(insert(&new, OVER, &table), expected);
            }
        }
        let mut slots = 0;
        for expected in model.values() {
            let late = expected.flags & flow_flags::LATE != 0;
            if !late {
                slots += 1;
                let found = with(&expected.forward, &table, |flow, reply| (*flow, reply));
                assert_eq!(found, Some((*expected, false)));
            }
            if expected.has_answers() {
                slots += 1;
                let found = with(&expected.reply, &table, |flow, reply| (*flow, reply));
                assert_eq!(found, Some((*expected, true)));
            }
        }
        assert_eq!(table.all().len(), model.len());
        assert_eq!(table.slots(), slots, "no slot is left behind");
    }
}

proptest! {
    #[test]
    fn a_table_with_room_is_a_map(acts in prop::collection::vec(act(), 1..120)) {
        agrees::<V4>(&acts, 64);
        agrees::<V6>(&acts, 64);
    }
}

#[test]
fn every_flow_is_found_in_a_full_table() {
    let table = Heap::<V6>::new(256, 512);
    let flows: Vec<Flow<V6>> = (0..300).map(|n| answered(flow(n, n, TCP, 1_000))).collect();
    for flow in &flows {
        assert_eq!(insert(flow, OVER, &table), Insert::Done);
    }
    for flow in &flows {
        assert_eq!(with(&flow.forward, &table, |_, reply| reply), Some(false));
        assert_eq!(with(&flow.reply, &table, |_, reply| reply), Some(true));
    }
    assert_eq!(table.slots(), 600);
}

/// 63 connections in a table of 63 records.
fn full(seen: u32) -> Heap<V4> {
    let table = Heap::new(64, 64);
    for n in 0..63 {
        let flow = answered(flow(n, n, TCP, seen));
        assert_eq!(insert(&flow, OVER, &table), Insert::Done, "flow {n}");
    }
    table
}

#[test]
fn connections_do_not_go_for_a_newcomer() {
    let table = full(1_000);
    let new = flow::<V4>(100, 100, TCP, 1_100);
    assert_eq!(insert(&new, OVER, &table), Insert::Full);
    assert_eq!(table.all().len(), 63);
    assert_eq!(table.slots(), 2 * 63);
}

#[test]
fn who_is_unanswered_goes_before_who_is_idle() {
    let table = full(1_000);
    let key = flow::<V4>(20, 20, TCP, 0).forward;
    with(&key, &table, |flow, _| {
        flow.backend_state = 0;
        flow.seen = 9_000;
    });
    let new = flow::<V4>(100, 100, TCP, 9_001);
    assert_eq!(insert(&new, OVER, &table), Insert::Done);
    assert!(with(&key, &table, |_, _| ()).is_none());
    assert!(with(&new.reply, &table, |_, _| ()).is_some());
    // Answered, so that the longest idle is next.
    with(&new.forward, &table, |flow, _| {
        *flow = answered(*flow);
    });
    let idle: Vec<_> = (2..63)
        .step_by(4)
        .map(|n| flow(n, n, TCP, 0).forward)
        .collect();
    for key in &idle {
        with(key, &table, |flow, _| flow.seen = 500);
    }
    assert_eq!(
        insert(&flow::<V4>(101, 101, TCP, 9_001), OVER, &table),
        Insert::Done
    );
    let left = idle.iter().filter_map(|key| with(key, &table, |_, _| ()));
    assert_eq!(left.count(), idle.len() - 1);
    assert_eq!(table.slots(), 2 * 63);
}

#[test]
fn what_is_over_makes_room() {
    let table = full(1_000);
    let key = flow::<V4>(20, 20, TCP, 0).forward;
    with(&key, &table, |flow, _| {
        flow.client_state = flow_state::CLOSING
    });
    let new = flow::<V4>(100, 100, TCP, 1_061);
    assert_eq!(insert(&new, OVER, &table), Insert::Done);
    assert!(with(&key, &table, |_, _| ()).is_none());
    assert_eq!(table.slots(), 2 * 63);
}

#[test]
fn a_full_bucket_gives_way_too() {
    // One bucket: sixteen slots, eight flows.
    let table = Heap::<V4>::new(1, 256);
    for n in 0..8 {
        assert_eq!(insert(&flow(n, n, UDP, 1_000), OVER, &table), Insert::Done);
    }
    let new = flow(100, 100, UDP, 1_000);
    assert_eq!(insert(&new, OVER, &table), Insert::Done);
    assert!(with(&new.forward, &table, |_, _| ()).is_some());
    assert!(with(&new.reply, &table, |_, _| ()).is_some());
    let flows = table.all();
    for flow in &flows {
        with(&flow.reply, &table, |flow, _| {
            *flow = answered(*flow);
        });
    }
    let len = flows.len();
    assert_eq!(
        insert(&flow(101, 101, UDP, 1_000), OVER, &table),
        Insert::Full
    );
    assert_eq!(table.all().len(), len);
    assert_eq!(table.slots(), 2 * len);
}

#[test]
fn a_client_that_goes_back_to_a_backend_gets_its_port_again() {
    let table = Heap::<V4>::new(64, 64);
    let (one, other) = (flow::<V4>(1, 1, UDP, 1_000), flow::<V4>(1, 2, UDP, 1_000));
    for flow in [&one, &other, &one] {
        assert_eq!(insert(flow, OVER, &table), Insert::Done);
        let seen = with(&one.forward, &table, |flow, _| flow.reply);
        assert_eq!(seen, Some(flow.reply));
    }
    assert_eq!(table.all().len(), 2);
    assert_eq!(table.slots(), 3);
}

#[test]
fn a_service_that_is_known_stays() {
    let table = Heap::<V4>::new(64, 64);
    let new = flow::<V4>(1, 1, UDP, 1_000);
    assert_eq!(insert(&new, OVER, &table), Insert::Done);
    for service in [7, 8] {
        each(&table, |number, _| place(number, service, &table));
        assert_eq!(table.all()[0].service, 7);
    }
}

#[test]
fn a_flow_that_made_room_meanwhile_is_not_followed() {
    let table = Heap::<V4>::new(64, 64);
    let flow = flow::<V4>(1, 1, UDP, 1_000);
    assert_eq!(insert(&flow, OVER, &table), Insert::Done);
    let seen = with(&flow.forward, &table, |_, _| remove(&flow.forward, &table));
    assert_eq!(seen, None);
}

#[test]
fn tuples_spread_over_the_buckets() {
    let table = Heap::<V6>::new(1_024, 2);
    let mut counts = [0u32; 1_024];
    for n in 0..8_192 {
        let hash = hash(&flow::<V6>(n, n, TCP, 0).forward, &table.shape);
        counts[(hash as u32 & table.shape.buckets) as usize] += 1;
    }
    assert!(
        counts.iter().all(|count| *count < 30),
        "{:?}",
        counts.iter().max()
    );
}
