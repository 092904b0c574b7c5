//! FLOWS, our own table: an index of cache-line buckets over records of one flow each, in array maps.
//!
//! A packet's tuple hashes to a bucket, whose slots say (tag, direction, record number); the record holds both tuples and
//! is held against the packet's. So either direction costs two cache lines, and a packet of no flow one.
//!
//! Programs on all CPUs and the agent write at once, without locks. A slot is taken by compare-and-swap, a record by that
//! of its version: free → busy → used → busy → free, each time a number that was not there before. Only who made it busy
//! writes its tuples, and what was read of it counts if the version before and after is the same. The swaps are full
//! barriers; [`Store::fence`] keeps the reads in their order.

use bytemuck::{Pod, Zeroable};

use crate::family::Family;
use crate::table::{Flow, FlowKey, NodeConfig, flow_flags};

mod index;
mod records;

pub use index::find;
use index::{clear, find_first, put, same};
use records::{KIND, USED, forget, set_version};
pub use records::{claim, take, worth};

use super::worth::{CLOSED, FREE, KEPT, OVER, UNANSWERED};

/// Slots of a bucket, which is one cache line.
pub const WAYS: usize = 16;
/// A slot: 11 bits of the hash, the direction, the record's number. Record 0 is never used, so that 0 is an empty slot.
const NUMBER: u32 = (1 << 20) - 1;
const REPLY: u32 = 1 << 20;
/// The most records that slots can name.
pub const MAX_RECORDS: u32 = NUMBER + 1;

/// Value of FLOW_INDEX.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Bucket(pub [u32; WAYS]);

/// Value of FLOWS.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Record<F: Family> {
    pub flow: Flow<F>,
    version: u32,
}

/// Value of FLOW_TABLE: what the agent lays down when it makes the maps.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Shape {
    /// Random: who sends packets must not be able to choose their bucket.
    pub seed: [u32; 10],
    /// Number of buckets and of records less one; both numbers are powers of two.
    pub buckets: u32,
    pub records: u32,
}

const _: () = assert!(size_of::<Shape>() == 48 && size_of::<Bucket>() == 64);

/// Where a table lies. Its pointers stay valid and shared for as long as `self`; others write there, too.
pub trait Store<F: Family> {
    fn shape(&self) -> Option<&Shape>;
    /// The first slot of a bucket.
    fn bucket(&self, number: u32) -> Option<*mut u32>;
    fn record(&self, number: u32) -> Option<*mut Record<F>>;
    /// Puts `new` where `old` is, atomically; false if something else is there.
    ///
    /// # Safety
    /// `at` is a slot or a version of this table.
    unsafe fn swap(&self, at: *mut u32, old: u32, new: u32) -> bool;
    /// What was read before it was read before what is read after it.
    #[inline(always)]
    fn fence(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
    }
    /// Which record this CPU looks at first for a new flow.
    fn hand(&self) -> u32;
    fn set_hand(&self, number: u32);
    fn lifetimes(&self) -> NodeConfig;

    /// [`find`], [`take`], [`claim`] and [`worth`], for BPF to make functions of that are verified once, not at every call.
    #[inline(always)]
    fn find(&self, key: &FlowKey<F>, except: u32) -> Hit
    where
        Self: Sized,
    {
        find(key, except, self)
    }
    #[inline(always)]
    fn take(&self, number: u32, version: u32) -> bool
    where
        Self: Sized,
    {
        take(number, version, self)
    }
    #[inline(always)]
    fn claim(&self, now: u32) -> u32
    where
        Self: Sized,
    {
        claim(now, self)
    }
    #[inline(always)]
    fn worth(&self, number: u32, now: u32) -> u64
    where
        Self: Sized,
    {
        worth(number, now, self)
    }
}

/// What became of a new flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    Done,
    /// Another flow, of this worth, has its answers' tuple.
    Taken(u32),
    /// No record within reach may be given up for it.
    Full,
}

/// Where a record was found, and as which direction's; above that, at which version. 0: nowhere.
pub type Hit = u64;

/// Half a [`Hit`], or of what [`worth`] says: the version that the rest was true of.
#[inline(always)]
const fn seen_at(hit: u64) -> u32 {
    (hit >> 32) as u32
}

#[inline(always)]
fn read(at: *const u32) -> u32 {
    // SAFETY: a word of the table, which is aligned; volatile, because others write it.
    unsafe { at.read_volatile() }
}

#[inline(always)]
fn version<F: Family>(record: *mut Record<F>) -> *mut u32 {
    // SAFETY: a place, nothing is read.
    unsafe { &raw mut (*record).version }
}

/// Runs `f` on the flow of a packet's tuple, in place, and says whether the packet is an answer. None: there is no such
/// flow, or it had to make room meanwhile.
#[inline(always)]
pub fn with<F: Family, R>(
    key: &FlowKey<F>,
    store: &impl Store<F>,
    f: impl FnOnce(&mut Flow<F>, bool) -> R,
) -> Option<R> {
    let hit = find_first(key, store);
    if hit == 0 {
        return None;
    }
    let record = store.record(hit as u32 & NUMBER)?;
    // SAFETY: as the trait says. Another CPU may write the same flow: the tuples never change while the version stands,
    // and the rest are single words, of which a lost update is made up by the next packet. A record that changes hands
    // this very moment may get a word of the old flow's, as an entry of the kernel's LRU maps may.
    let result = f(unsafe { &mut (*record).flow }, hit as u32 & REPLY != 0);
    store.fence();
    (read(version(record)) == seen_at(hit)).then_some(result)
}

/// As a limit of [`insert`]: those that are over, or closed.
pub const OR_CLOSED: u32 = OVER + 1;

/// Whether a flow of such a worth gives its answers' tuple away.
#[inline(always)]
pub(crate) const fn may_take(worth: u32, limit: u32) -> bool {
    worth <= limit || limit == OR_CLOSED && worth > UNANSWERED && worth <= CLOSED
}

/// Adds a flow. An older one of the same client to the same frontend makes way, as does one with the same answers' tuple
/// that is worth no more than `limit`.
#[inline(always)]
pub fn insert<F: Family>(flow: &Flow<F>, limit: u32, store: &impl Store<F>) -> Insert {
    let late = flow.flags & flow_flags::LATE != 0;
    if !late {
        make_way(flow, store);
    }
    if flow.has_answers() {
        let owner = store.find(&flow.reply, 0);
        if owner != 0 {
            let worth = store.worth(owner as u32 & NUMBER, flow.seen) as u32;
            if !may_take(worth, limit) && !is_of_client(owner as u32 & NUMBER, flow, store) {
                return Insert::Taken(worth);
            }
            forget(owner as u32 & NUMBER, seen_at(owner), store);
        }
    }
    let number = store.claim(flow.seen);
    let Some(record) = store.record(number) else {
        return Insert::Full;
    };
    if number == 0 {
        return Insert::Full;
    }
    // SAFETY: the record is ours while it is busy; nobody else writes to it.
    unsafe { (*record).flow = *flow };
    let outcome = enter(flow, number, late, store);
    if outcome != Insert::Done {
        clear(&flow.reply, REPLY | number, store);
        clear(&flow.forward, number, store);
    }
    // Whoever had seen its slots could not take it for theirs until now.
    let kind = if outcome == Insert::Done { USED } else { 0 };
    set_version(record, kind, store);
    outcome
}

/// Puts a busy record's number into the index.
#[inline(always)]
fn enter<F: Family>(flow: &Flow<F>, number: u32, late: bool, store: &impl Store<F>) -> Insert {
    if flow.has_answers() {
        if !put(&flow.reply, REPLY | number, store) {
            return Insert::Full;
        }
        // Another CPU may be doing the same. Both give way, and try their next port; unless it is the same flow's next
        // packet, which the same record would say the same of.
        let twin = store.find(&flow.reply, number) as u32 & NUMBER;
        if twin != 0 && !is_of_client(twin, flow, store) {
            return Insert::Taken(KEPT);
        }
    }
    if !late && !put(&flow.forward, number, store) {
        return Insert::Full;
    }
    Insert::Done
}

/// The older flow with the client's tuple of this one goes. What its backend still says reaches the client, where that
/// can be told apart.
#[inline(always)]
fn make_way<F: Family>(flow: &Flow<F>, store: &impl Store<F>) {
    let hit = store.find(&flow.forward, 0);
    let number = hit as u32 & NUMBER;
    let Some(record) = store.record(number) else {
        return;
    };
    // SAFETY: as in `with`.
    let old = unsafe { &mut (*record).flow };
    if number == 0 {
        return;
    }
    if hit as u32 & REPLY == 0
        && old.has_answers()
        && !same(&raw const old.reply, &raw const flow.reply)
    {
        clear(&flow.forward, number, store);
        old.flags |= flow_flags::LATE;
    } else {
        forget(number, seen_at(hit), store);
    }
}

/// Whether a record has the client's tuple of a flow.
#[inline(always)]
fn is_of_client<F: Family>(number: u32, flow: &Flow<F>, store: &impl Store<F>) -> bool {
    // SAFETY: a place.
    let own = |record: *mut Record<F>| unsafe { &raw const (*record).flow.forward };
    store
        .record(number)
        .is_some_and(|record| same(own(record), &flow.forward))
}

/// Removes the flow of a tuple.
pub fn remove<F: Family>(key: &FlowKey<F>, store: &impl Store<F>) {
    let hit = store.find(key, 0);
    if hit != 0 {
        forget(hit as u32 & NUMBER, seen_at(hit), store);
    }
}

/// Shows every flow, and its number.
pub fn each<F: Family>(store: &impl Store<F>, mut f: impl FnMut(u32, &Flow<F>)) {
    let records = store.shape().map_or(0, |shape| shape.records);
    for number in 1..=records {
        let Some(record) = store.record(number) else {
            return;
        };
        let before = read(version(record));
        if before & KIND != USED {
            continue;
        }
        store.fence();
        // SAFETY: of the table; volatile, because others write it, and shown only if they did not.
        let flow = unsafe { (&raw const (*record).flow).read_volatile() };
        store.fence();
        if read(version(record)) == before {
            f(number, &flow);
        }
    }
}

/// Says which service a flow belongs to of which that was not known yet.
pub fn place<F: Family>(number: u32, service: u32, store: &impl Store<F>) {
    if let Some(record) = store.record(number) {
        // SAFETY: a word of the table. Whatever is in the record now: a service that is known does not change.
        unsafe { store.swap(&raw mut (*record).flow.service, 0, service) };
    }
}

impl Insert {
    /// As a BPF function gives it to [`Self::of`]. What is free or over is never in the way.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        match self {
            Insert::Done => FREE,
            Insert::Full => OVER,
            Insert::Taken(worth) => worth,
        }
    }

    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            FREE => Insert::Done,
            OVER => Insert::Full,
            worth => Insert::Taken(worth),
        }
    }
}

impl<F: Family> Flow<F> {
    /// Whether its answers come by here.
    #[inline(always)]
    pub fn has_answers(&self) -> bool {
        self.flags & flow_flags::TUNNEL == 0
    }

    /// A tuple that no other flow has.
    #[inline(always)]
    pub fn own_key(&self) -> &FlowKey<F> {
        if self.has_answers() {
            &self.reply
        } else {
            &self.forward
        }
    }
}

#[cfg(test)]
mod flood;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod tests;
