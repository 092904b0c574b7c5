//! Several threads at one small table, which is always full: every insertion takes somebody's place.

extern crate std;

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicU32, Ordering};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use bytemuck::Zeroable;

use super::index::{TAG_SHIFT, hash, tag};
use super::records::BUSY;
use super::tests::flow;
use super::*;
use crate::family::{V4, V6};
use crate::table::UDP;

const BUCKETS: u32 = 16;
const RECORDS: u32 = 64;
/// As many clients, and as many of the node's ports.
const CLIENTS: u16 = 100;

struct Shared<F: Family> {
    shape: Shape,
    records: Box<[UnsafeCell<Record<F>>]>,
    buckets: Box<[UnsafeCell<Bucket>]>,
}

// SAFETY: what all this is about.
unsafe impl<F: Family> Sync for Shared<F> {}

impl<F: Family> Shared<F> {
    fn new() -> Self {
        let record = |_| {
            UnsafeCell::new(Record {
                flow: Flow::zeroed(),
                version: 0,
            })
        };
        Self {
            shape: Shape {
                seed: [9, 8, 7, 6, 5, 4, 3, 2, 1, 0].map(|n: u32| n.wrapping_mul(0x0765_4321)),
                buckets: BUCKETS - 1,
                records: RECORDS - 1,
            },
            records: (0..RECORDS).map(record).collect(),
            buckets: (0..BUCKETS)
                .map(|_| UnsafeCell::new(Bucket([0; WAYS])))
                .collect(),
        }
    }
}

/// The table as one of the CPUs sees it.
struct Cpu<'a, F: Family> {
    table: &'a Shared<F>,
    hand: Cell<u32>,
    random: Cell<u64>,
}

impl<F: Family> Cpu<'_, F> {
    fn below(&self, n: u16) -> u16 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        ((x >> 32) % u64::from(n)) as u16
    }
}

impl<F: Family> Store<F> for Cpu<'_, F> {
    fn shape(&self) -> Option<&Shape> {
        Some(&self.table.shape)
    }

    fn bucket(&self, number: u32) -> Option<*mut u32> {
        Some(self.table.buckets.get(number as usize)?.get().cast())
    }

    fn record(&self, number: u32) -> Option<*mut Record<F>> {
        Some(self.table.records.get(number as usize)?.get())
    }

    unsafe fn swap(&self, at: *mut u32, old: u32, new: u32) -> bool {
        // SAFETY: a word of the table.
        let at = unsafe { AtomicU32::from_ptr(at) };
        at.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
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

/// A flow that tells by itself whether it is whole.
fn whole<F: Family>(client: u16, nat: u16) -> Flow<F> {
    Flow {
        service: u32::from(client) << 16 | u32::from(nat),
        ..flow(client, nat, UDP, 1_000)
    }
}

fn is_whole<F: Family>(flow: &Flow<F>) -> bool {
    let whole = whole::<F>((flow.service >> 16) as u16, flow.service as u16);
    flow.forward == whole.forward && flow.reply == whole.reply
}

fn act<F: Family>(cpu: &Cpu<'_, F>) {
    let (client, nat) = (cpu.below(CLIENTS), cpu.below(CLIENTS));
    let new = whole::<F>(client, nat);
    let see = |key: &FlowKey<F>, as_reply: bool| {
        let seen = with(key, cpu, |flow, reply| {
            flow.seen = 1_000;
            (*flow, reply)
        });
        if let Some((flow, reply)) = seen {
            let own = if reply { &flow.reply } else { &flow.forward };
            assert_eq!(reply, as_reply);
            assert_eq!(own, key, "followed another flow");
            assert!(is_whole(&flow), "{flow:?}");
        }
    };
    match cpu.below(8) {
        0..4 => {
            insert(&new, OVER, cpu);
        }
        4 | 5 => see(&new.forward, false),
        6 => see(&new.reply, true),
        _ => remove(&new.reply, cpu),
    }
}

/// What must be true once nobody is at work.
fn check<F: Family>(cpu: &Cpu<'_, F>) {
    let mut replies = BTreeMap::new();
    for number in 1..RECORDS {
        let record = cpu.record(number).unwrap();
        assert_ne!(
            read(version(record)) & KIND,
            BUSY,
            "record {number} is lost"
        );
    }
    each(cpu, |_, flow| {
        assert!(is_whole(flow), "{flow:?}");
        let other = replies.insert(flow.reply, flow.forward);
        let is_twin = other.is_none_or(|client| client == flow.forward);
        assert!(is_twin, "two clients have the same answers");
    });
    for (at, bucket) in cpu.table.buckets.iter().enumerate() {
        // SAFETY: nobody else is at work.
        for slot in unsafe { *bucket.get() }.0 {
            let record = cpu.record(slot & NUMBER).unwrap();
            // SAFETY: as above.
            let Record { flow, version } = unsafe { &*record };
            let key = if slot & REPLY != 0 {
                &flow.reply
            } else {
                &flow.forward
            };
            let hash = hash(key, &cpu.table.shape);
            let is_its_own = version & KIND == USED
                && tag(hash) == slot >> TAG_SHIFT
                && hash as u32 & cpu.table.shape.buckets == at as u32;
            assert!(slot == 0 || is_its_own, "a slot was left behind");
        }
    }
    for reply in replies.keys() {
        assert_ne!(find(reply, 0, cpu), 0, "answers do not find their flow");
    }
}

fn threads_share_a_full_table<F: Family>() {
    let table = Shared::<F>::new();
    for round in 0..40u64 {
        let end = Instant::now() + Duration::from_millis(10);
        thread::scope(|scope| {
            for thread in 0..4u32 {
                let table = &table;
                scope.spawn(move || {
                    let cpu = Cpu {
                        table,
                        hand: Cell::new(thread * 16),
                        random: Cell::new(
                            (round * 4 + u64::from(thread) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                        ),
                    };
                    while Instant::now() < end {
                        for _ in 0..50 {
                            act(&cpu);
                        }
                    }
                });
            }
        });
        check(&Cpu {
            table: &table,
            hand: Cell::new(0),
            random: Cell::new(1),
        });
    }
}

#[test]
fn threads_share_a_full_table_v4() {
    threads_share_a_full_table::<V4>();
}

#[test]
fn threads_share_a_full_table_v6() {
    threads_share_a_full_table::<V6>();
}
