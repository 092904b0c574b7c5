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

/// Slots of a bucket, which is one cache line.
pub const WAYS: usize = 16;
/// A slot: 11 bits of the hash, the direction, the record's number. Record 0 is never used, so that 0 is an empty slot.
const NUMBER: u32 = (1 << 20) - 1;
const REPLY: u32 = 1 << 20;
const TAG_SHIFT: u32 = 21;
/// The most records that slots can name.
pub const MAX_RECORDS: u32 = NUMBER + 1;

/// How many records are looked at for one that a new flow may have: four in a row at the hand, and until there is one that
/// is free, over or unanswered, four at each of the places that follow. Of a table nine tenths full of connections, one flow in a thousand finds no room.
const REACH: u32 = 64;
const IN_A_ROW: u32 = 4;
const STRIDE: u32 = 0x9e37_79b1;

/// The low bits of [`Record::version`]; the others count how often it has changed hands.
const KIND: u32 = 3;
const BUSY: u32 = 1;
const USED: u32 = 2;

/// An answered flow may have to go for a new one only after so many seconds of silence.
const KEPT_SECONDS: u32 = 600;
/// [`worth`]: what has the lowest goes first.
const FREE: u32 = 0;
const OVER: u32 = 1;
const UNANSWERED: u32 = 1 << 30;
const IDLE: u32 = 1 << 31;
const KEPT: u32 = u32::MAX;

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
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    Done,
    /// Another flow has its answers' tuple.
    Taken,
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

/// UMAC's NH (Black et al., 1999): whoever does not know the seed cannot make tuples collide. Then mixed, because slots
/// take their bits from everywhere.
#[inline(always)]
fn hash<F: Family>(key: &FlowKey<F>, shape: &Shape) -> u64 {
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
const fn tag(hash: u64) -> u32 {
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

/// Compares eight bytes at a time.
#[inline(always)]
fn same<F: Family>(a: *const FlowKey<F>, b: *const FlowKey<F>) -> bool {
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
fn find_first<F: Family>(key: &FlowKey<F>, store: &impl Store<F>) -> Hit {
    let Some(shape) = store.shape() else {
        return 0;
    };
    let hash = hash(key, shape);
    let Some(line) = line(hash, shape, store) else {
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
    let Some(shape) = store.shape() else {
        return 0;
    };
    let hash = hash(key, shape);
    let Some(line) = line(hash, shape, store) else {
        return 0;
    };
    let tag = tag(hash);
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

/// Adds a flow. An older one of the same client to the same frontend makes way, as does one with the same answers' tuple
/// if it is over; when `hard_pressed`, also if it has only just closed.
#[inline(always)]
pub fn insert<F: Family>(flow: &Flow<F>, hard_pressed: bool, store: &impl Store<F>) -> Insert {
    let late = flow.flags & flow_flags::LATE != 0;
    if !late {
        make_way(flow, store);
    }
    if flow.has_answers() {
        let owner = store.find(&flow.reply, 0);
        if owner != 0 {
            if !may_go(owner as u32 & NUMBER, flow, hard_pressed, store) {
                return Insert::Taken;
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
            return Insert::Taken;
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

/// Whether a record may give its answers' tuple to a new flow: it is over, or of the same client's same connection.
#[inline(always)]
fn may_go<F: Family>(
    number: u32,
    flow: &Flow<F>,
    hard_pressed: bool,
    store: &impl Store<F>,
) -> bool {
    let Some(record) = store.record(number) else {
        return true;
    };
    // SAFETY: as in `with`.
    let old = unsafe { &(*record).flow };
    old.is_over(flow.seen, hard_pressed, &store.lifetimes()) || is_of_client(number, flow, store)
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

/// Ends being busy: a version that was not there before. (30 bits of it come round only after a billion flows in this one
/// record.) Swapped though only its owner writes it now, because what it wrote to the record must be there before.
#[inline(always)]
fn set_version<F: Family>(record: *mut Record<F>, kind: u32, store: &impl Store<F>) {
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
fn forget<F: Family>(number: u32, seen_at: u32, store: &impl Store<F>) -> bool {
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
    while i < REACH {
        let ahead = (i / IN_A_ROW)
            .wrapping_mul(STRIDE)
            .wrapping_add(i % IN_A_ROW);
        let number = hand.wrapping_add(ahead) & mask;
        let found = store.worth(number, now);
        let (worth, at) = (found as u32, seen_at(found));
        if worth <= OVER && store.take(number, at) {
            store.set_hand(number.wrapping_add(1));
            return number;
        }
        if worth < least {
            (best, best_at, least) = (number, at, worth);
        }
        i += 1;
        // The oldest are at the hand. Every further place is a cache line that nobody else asks for.
        if i.is_multiple_of(IN_A_ROW) && least <= UNANSWERED {
            break;
        }
    }
    store.set_hand(hand.wrapping_add(IN_A_ROW));
    if best != 0 && store.take(best, best_at) {
        best
    } else {
        0
    }
}

/// How much would be lost with a record: nothing, a flow that is over, one that nobody has answered, an idle one. The
/// longer it has been silent, the less. In the upper half: at which version.
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
        USED => worth_of(unsafe { &(*record).flow }, now, &store.lifetimes()),
        _ => FREE,
    };
    (before as u64) << 32 | worth as u64
}

#[inline(always)]
fn worth_of<F: Family>(flow: &Flow<F>, now: u32, lifetimes: &NodeConfig) -> u32 {
    let silence = now.saturating_sub(flow.seen);
    if flow.is_over(now, false, lifetimes) {
        OVER
    } else if flow.is_unanswered() {
        UNANSWERED - silence.min(UNANSWERED / 2)
    } else if silence > KEPT_SECONDS {
        IDLE - silence.min(UNANSWERED / 2)
    } else {
        KEPT
    }
}

/// Puts a record's number into a slot for `key`. In a full bucket another flow may have to go.
#[inline(never)]
fn put<F: Family>(key: &FlowKey<F>, low: u32, store: &impl Store<F>) -> bool {
    let Some(shape) = store.shape() else {
        return false;
    };
    let hash = hash(key, shape);
    let Some(line) = line(hash, shape, store) else {
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
            && (found as u32) < KEPT
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
fn clear<F: Family>(key: &FlowKey<F>, low: u32, store: &impl Store<F>) {
    let Some(shape) = store.shape() else {
        return;
    };
    let hash = hash(key, shape);
    let Some(line) = line(hash, shape, store) else {
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

impl Insert {
    /// As it comes out of a BPF function.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Insert::Done,
            1 => Insert::Taken,
            _ => Insert::Full,
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
mod stress;
#[cfg(test)]
mod tests;
