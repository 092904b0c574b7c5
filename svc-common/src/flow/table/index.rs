//! The index: buckets of slots, each a cache line, that say which record a tuple's flow is in.

use super::records::{BUSY, KIND, USED, forget};
use super::{Hit, NUMBER, REPLY, Shape, Store, WAYS, read, seen_at, version};
use crate::family::Family;
use crate::flow::worth::UNCONFIRMED;
use crate::table::FlowKey;

pub(super) const TAG_SHIFT: u32 = 21;

/// UMAC's NH (Black et al., 1999): whoever does not know the seed cannot make tuples collide. Then mixed, because slots
/// take their bits from everywhere.
#[inline(always)]
pub(super) fn hash<F: Family>(key: &FlowKey<F>, shape: &Shape) -> u64 {
    let words: *const u32 = (&raw const *key).cast();
    let mut sum = 0u64;
    let mut i = 0;
    while i < size_of::<FlowKey<F>>() / 4 {
        // SAFETY: within the key, which is aligned to 8.
        let (a, b) = unsafe { (words.add(i).read(), words.add(i + 1).read()) };
        let a = a.wrapping_add(shape.seed[i]) as u64;
        let b = b.wrapping_add(shape.seed[i + 1]) as u64;
        sum = sum.wrapping_add(a.wrapping_mul(b));
        i += 2;
    }
    sum ^= sum >> 32;
    sum = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    sum ^ (sum >> 29)
}

/// The bits of a hash that its slot holds.
#[inline(always)]
pub(super) const fn tag(hash: u64) -> u32 {
    (hash >> (64 - 11)) as u32
}

/// The slots of a bucket, from the one that the hash names first.
#[inline(always)]
const fn way(hash: u64, i: usize) -> usize {
    ((hash >> 48) as usize).wrapping_add(i) & (WAYS - 1)
}

#[inline(always)]
fn line<F: Family>(hash: u64, shape: &Shape, store: &impl Store<F>) -> Option<*mut u32> {
    store.bucket(hash as u32 & shape.buckets)
}

/// A tuple's hash, and its bucket.
#[inline(always)]
fn bucket<F: Family>(key: &FlowKey<F>, store: &impl Store<F>) -> Option<(u64, *mut u32)> {
    let shape = store.shape()?;
    let hash = hash(key, shape);
    Some((hash, line(hash, shape, store)?))
}

/// Compares eight bytes at a time.
#[inline(always)]
pub(super) fn same<F: Family>(a: *const FlowKey<F>, b: *const FlowKey<F>) -> bool {
    // SAFETY: within the key, which is aligned to 8; volatile, because others write it.
    equal(a, |i| unsafe { b.cast::<u64>().add(i).read_volatile() })
}

/// The same for a packet's tuple, which was written by fours a moment ago: a processor waits for the halves to come together.
#[inline(always)]
fn is_packet<F: Family>(a: *const FlowKey<F>, packet: &FlowKey<F>) -> bool {
    let words: *const u32 = (&raw const *packet).cast();
    equal(a, |i| {
        // SAFETY: within the key; volatile, so that they are not put together to what `same` reads.
        let words = unsafe {
            [
                words.add(2 * i).read_volatile(),
                words.add(2 * i + 1).read_volatile(),
            ]
        };
        bytemuck::cast(words)
    })
}

#[inline(always)]
fn equal<F: Family>(a: *const FlowKey<F>, b: impl Fn(usize) -> u64) -> bool {
    let mut difference = 0;
    let mut i = 0;
    while i < size_of::<FlowKey<F>>() / 8 {
        // SAFETY: as in `same`.
        difference |= unsafe { a.cast::<u64>().add(i).read_volatile() } ^ b(i);
        i += 1;
    }
    difference == 0
}

/// The version at which the slot's record is a flow with this tuple; 0: it is none.
#[inline(always)]
fn names<F: Family>(
    slot: u32,
    busy_too: bool,
    is_it: impl FnOnce(*const FlowKey<F>) -> bool,
    store: &impl Store<F>,
) -> u32 {
    let Some(record) = store.record(slot & NUMBER) else {
        return 0;
    };
    let before = read(version(record));
    store.fence();
    if before & KIND != USED && !(busy_too && before & KIND == BUSY) {
        return 0;
    }
    // SAFETY: places in the record.
    let own = unsafe {
        if slot & REPLY != 0 {
            &raw const (*record).flow.reply
        } else {
            &raw const (*record).flow.forward
        }
    };
    if is_it(own) { before } else { 0 }
}

/// The flow of a packet's tuple. Most lie in the slot that their hash names first, and most packets of no flow meet no tag
/// like theirs.
#[inline(always)]
pub(super) fn find_first<F: Family>(key: &FlowKey<F>, store: &impl Store<F>) -> Hit {
    let Some((hash, line)) = bucket(key, store) else {
        return 0;
    };
    let tag = tag(hash);
    // SAFETY: within the bucket.
    let slot = read(unsafe { line.add(way(hash, 0)) });
    if slot >> TAG_SHIFT == tag {
        let version = names(slot, false, |own| is_packet(own, key), store);
        if version != 0 {
            return hit(version, slot);
        }
    } else if !holds(line, tag) {
        return 0;
    }
    store.find(key, 0)
}

/// Whether a slot of a bucket may have this tag: all at once, two slots a word.
#[inline(always)]
fn holds(line: *const u32, tag: u32) -> bool {
    const LOW: u64 = 1 << TAG_SHIFT | 1 << (TAG_SHIFT + 32);
    const TAGS: u64 = LOW * ((1 << (32 - TAG_SHIFT)) - 1);
    const HIGH: u64 = 1 << 31 | 1 << 63;
    let wanted = LOW * tag as u64;
    let line = line.cast::<u64>();
    let (mut any, mut i) = (0, 0);
    while i < WAYS / 2 {
        // SAFETY: within the bucket, which is aligned; volatile, because others write it.
        let slots = unsafe { line.add(i).read_volatile() };
        // What is zero borrows from its highest bit.
        let difference = (slots ^ wanted) & TAGS;
        any |= difference.wrapping_sub(LOW) & !difference;
        i += 1;
    }
    any & HIGH != 0
}

#[inline(always)]
const fn hit(version: u32, slot: u32) -> Hit {
    (version as u64) << 32 | (slot & (REPLY | NUMBER)) as u64
}

/// The flow of a packet's tuple. `except`, if not 0: for the insertion of this record, whose twin may be busy yet.
#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F>, except: u32, store: &impl Store<F>) -> Hit {
    let Some((hash, line)) = bucket(key, store) else {
        return 0;
    };
    let tag = tag(hash);
    if !holds(line, tag) {
        return 0;
    }
    let mut i = 0;
    while i < WAYS {
        // SAFETY: within the bucket.
        let slot = read(unsafe { line.add(way(hash, i)) });
        if slot >> TAG_SHIFT == tag && slot & NUMBER != except {
            let version = names(slot, except != 0, |own| same(own, key), store);
            if version != 0 {
                return hit(version, slot);
            }
        }
        i += 1;
    }
    0
}

/// Puts a record's number into a slot for `key`. In a full bucket a flow that is not confirmed may have to go.
#[inline(never)]
pub(super) fn put<F: Family>(key: &FlowKey<F>, low: u32, store: &impl Store<F>) -> bool {
    let Some((hash, line)) = bucket(key, store) else {
        return false;
    };
    let word = tag(hash) << TAG_SHIFT | low;
    let mut i = 0;
    while i < WAYS {
        // SAFETY: within the bucket.
        let at = unsafe { line.add(way(hash, i)) };
        // SAFETY: a slot.
        if read(at) == 0 && unsafe { store.swap(at, 0, word) } {
            return true;
        }
        i += 1;
    }
    push_out(hash, word, store)
}

#[inline(never)]
fn push_out<F: Family>(hash: u64, word: u32, store: &impl Store<F>) -> bool {
    let Some(shape) = store.shape() else {
        return false;
    };
    let own = word & NUMBER;
    let Some((line, record)) = line(hash, shape, store).zip(store.record(own)) else {
        return false;
    };
    // SAFETY: the record is ours.
    let now = unsafe { (*record).flow.seen };
    let mut i = 0;
    while i < WAYS {
        // SAFETY: within the bucket.
        let at = unsafe { line.add(way(hash, i)) };
        let slot = read(at);
        let found = store.worth(slot & NUMBER, now);
        if slot & NUMBER != own
            && (found as u32) <= UNCONFIRMED
            && forget(slot & NUMBER, seen_at(found), store)
            // SAFETY: a slot.
            && unsafe { store.swap(at, 0, word) }
        {
            return true;
        }
        i += 1;
    }
    false
}

/// Empties the slot of a record for `key`. Not a function of its own, for the sake of the eight calls deep that BPF goes.
#[inline(always)]
pub(super) fn clear<F: Family>(key: &FlowKey<F>, low: u32, store: &impl Store<F>) {
    let Some((hash, line)) = bucket(key, store) else {
        return;
    };
    let word = tag(hash) << TAG_SHIFT | low;
    let mut i = 0;
    while i < WAYS {
        // SAFETY: within the bucket.
        let at = unsafe { line.add(way(hash, i)) };
        if read(at) == word {
            // SAFETY: a slot.
            unsafe { store.swap(at, word, 0) };
            return;
        }
        i += 1;
    }
}
