//! Records: taken, judged, and given back.

use super::index::clear;
use super::{NUMBER, REPLY, Record, Store, read, seen_at, version};
use crate::family::Family;
use crate::flow::worth::{FREE, KEPT, OVER, UNCONFIRMED};

/// How many records are looked at for one that a new flow may have: those in a row at the hand, and if all of them are kept
/// some elsewhere. Of a table nine tenths full of connections, one flow in a thousand finds no room.
const REACH: u32 = 64;
/// In a row, because then those of one second go in the order in which they came: what has just come is not what a flood
/// pushes out.
const ROW: u32 = 16;
const STRIDE: u32 = 0x9e37_79b1;
/// How far the hand goes where connections lie close together.
const LEAP: u32 = 256;

/// The low bits of [`Record::version`]; the others count how often it has changed hands.
pub(super) const KIND: u32 = 3;
pub(super) const BUSY: u32 = 1;
pub(super) const USED: u32 = 2;

/// Ends being busy: a version that was not there before. (30 bits of it come round only after a billion flows in this one
/// record.) Swapped though only its owner writes it now, because what it wrote to the record must be there before.
#[inline(always)]
pub(super) fn set_version<F: Family>(record: *mut Record<F>, kind: u32, store: &impl Store<F>) {
    let at = version(record);
    let busy = read(at);
    let new = (busy | KIND).wrapping_add(1) | kind;
    // SAFETY: a version.
    unsafe { store.swap(at, busy, new) };
}

/// Takes a record for ourselves, if it is still at the version that it was seen at. A flow in it loses its slots.
#[inline(always)]
pub fn take<F: Family>(number: u32, seen_at: u32, store: &impl Store<F>) -> bool {
    let Some(record) = store.record(number) else {
        return false;
    };
    let at = version(record);
    // SAFETY: a version.
    if seen_at & KIND == BUSY || !unsafe { store.swap(at, seen_at, seen_at & !KIND | BUSY) } {
        return false;
    }
    if seen_at & KIND == USED {
        // SAFETY: the record is busy, nobody else writes to it.
        let flow = unsafe { &(*record).flow };
        let mut low = number;
        while low <= REPLY | NUMBER {
            if low < REPLY || flow.has_answers() {
                let key = if low < REPLY {
                    &flow.forward
                } else {
                    &flow.reply
                };
                clear(key, low, store);
            }
            low += REPLY;
        }
    }
    true
}

/// Gives a record back, if it is still at the version that it was seen at.
#[inline(always)]
pub(super) fn forget<F: Family>(number: u32, seen_at: u32, store: &impl Store<F>) -> bool {
    let taken = store.take(number, seen_at);
    if taken && let Some(record) = store.record(number) {
        set_version(record, 0, store);
    }
    taken
}

/// Finds a record for a new flow, and takes it. 0: none.
#[inline(always)]
pub fn claim<F: Family>(now: u32, store: &impl Store<F>) -> u32 {
    let Some(shape) = store.shape() else {
        return 0;
    };
    let (mask, hand) = (shape.records, store.hand());
    let (mut best, mut best_at, mut least) = (0, 0, KEPT);
    let mut i = 0;
    while i < REACH && (i < ROW || is_less(UNCONFIRMED, least)) {
        let ahead = if i < ROW { i } else { i.wrapping_mul(STRIDE) };
        let number = hand.wrapping_add(ahead) & mask;
        let found = store.worth(number, now);
        let (worth, at) = (found as u32, seen_at(found));
        if worth <= OVER && store.take(number, at) {
            store.set_hand(number.wrapping_add(1));
            return number;
        }
        if is_less(worth, least) {
            (best, best_at, least) = (number, at, worth);
        }
        i += 1;
    }
    let ahead = best.wrapping_sub(hand) & mask;
    store.set_hand(hand.wrapping_add(if ahead < ROW { ahead + 1 } else { LEAP }));
    if best != 0 && store.take(best, best_at) {
        best
    } else {
        0
    }
}

/// Whether `a < b`, in a way that the verifier learns nothing from about either. With each place that [`claim`] looks at it
/// would know a little more of the least worth, and before Linux 6.5 walk the rest of the loop once more for that.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn is_less(a: u32, b: u32) -> bool {
    let mut difference = a as u64;
    // SAFETY: a subtraction.
    unsafe {
        core::arch::asm!("{0} -= {1}", inout(reg) difference, in(reg) b as u64, options(pure, nomem, nostack));
    }
    difference >> 63 != 0
}

#[cfg(not(target_arch = "bpf"))]
fn is_less(a: u32, b: u32) -> bool {
    a < b
}

/// How much would be lost with a record ([`crate::flow::worth`]). In the upper half: at which version.
#[inline(always)]
pub fn worth<F: Family>(number: u32, now: u32, store: &impl Store<F>) -> u64 {
    let Some(record) = store.record(number) else {
        return KEPT as u64;
    };
    let before = read(version(record));
    store.fence();
    let worth = match before & KIND {
        _ if number == 0 => KEPT,
        BUSY => KEPT,
        // SAFETY: as in `with`.
        USED => unsafe { &(*record).flow }.worth(now, &store.lifetimes()),
        _ => FREE,
    };
    (before as u64) << 32 | worth as u64
}
