//! The maps, and the answers that [`Tables`] asks of them. No policy.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray};
use svc_common::family::{Family, Ip, Port, V4, V6};
use svc_common::filter::{self, Bit, Line};
use svc_common::flow::table as flow;
use svc_common::onward::Hop;
use svc_common::reason::Reason;
use svc_common::socket::Target;
use svc_common::steer::Work;
use svc_common::table::{
    Affinity, Backend, BackendKey, BackendState, Bucket, Flow, FlowKey, FragmentKey, Frontend,
    FrontendKey, Insert, MAX_ADDRESSES, MAX_AFFINITIES, MAX_BACKENDS, MAX_DEVICES,
    MAX_FLOW_BUCKETS, MAX_FLOWS, MAX_FRAGMENTS, MAX_FRONTENDS, MAX_RANGES, MAX_SERVICES, MAX_SLOTS,
    MAX_SOCKETS, NodeConfig, Ports, Record, ServiceLabel, Shape, SocketKey, SocketPeer, Source,
    Tables,
};
use svc_common::tunnel::Outer;

use crate::events;
use crate::flows::{self, Flows};
use crate::hook::{self, Context};
use crate::tally;

macro_rules! family_maps {
    ($family:ident, $addr:ty, $addresses:ident, $frontends:ident, $slots:ident, $flows:ident, $flow_index:ident, $sockets:ident, $fragments:ident, $devices:ident, $scratch:ident, $work:ident, $ranges:ident, $affinities:ident, $backends:ident, $filter:ident, $find:ident, $insert:ident, $place:ident, $claim:ident, $take:ident, $worth:ident, $loss:ident, $opened:ident, $call:ident) => {
        #[map]
        static $addresses: HashMap<$addr, u32> =
            HashMap::with_max_entries(MAX_ADDRESSES, NO_PREALLOC);
        #[map]
        static $filter: Array<Line> = Array::with_max_entries(filter::LINES, 0);
        #[map]
        static $frontends: HashMap<FrontendKey<$family>, Frontend> =
            HashMap::with_max_entries(MAX_FRONTENDS, NO_PREALLOC);
        #[map]
        static $slots: Array<Backend<$family>> = Array::with_max_entries(MAX_SLOTS, 0);
        #[map]
        static $flows: Array<Record<$family>> = Array::with_max_entries(MAX_FLOWS, MMAPABLE);
        #[map]
        static $flow_index: Array<Bucket> = Array::with_max_entries(MAX_FLOW_BUCKETS, MMAPABLE);
        #[map]
        static $sockets: LruHashMap<SocketKey<$family>, SocketPeer<$family>> =
            LruHashMap::with_max_entries(MAX_SOCKETS, 0);
        #[map]
        static $fragments: LruHashMap<FragmentKey<$family>, Ports> =
            LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);
        #[map]
        static $devices: HashMap<u32, $addr> = HashMap::with_max_entries(MAX_DEVICES, NO_PREALLOC);

        #[map]
        static $ranges: LpmTrie<Source<$family>, u32> =
            LpmTrie::with_max_entries(MAX_RANGES, NO_PREALLOC);
        #[map]
        static $affinities: LruHashMap<Source<$family>, Affinity<$family>> =
            LruHashMap::with_max_entries(MAX_AFFINITIES, 0);
        #[map]
        static $backends: HashMap<BackendKey<$family>, BackendState> =
            HashMap::with_max_entries(MAX_BACKENDS, NO_PREALLOC);

        #[map]
        static $scratch: PerCpuArray<Flow<$family>> = PerCpuArray::with_max_entries(1, 0);
        #[map]
        static $work: PerCpuArray<Work<$family>> = PerCpuArray::with_max_entries(1, 0);

        impl Mapped for $family {
            #[inline(always)]
            fn find_record(key: &FlowKey<Self>, except: u32) -> u64 {
                // SAFETY: it is a key.
                unsafe { flows::$find(key, except) }
            }
            #[inline(always)]
            fn insert_scratch(limit: u32) -> u32 {
                flows::$insert(limit)
            }
            #[inline(always)]
            fn place_scratch() -> u64 {
                flows::$place()
            }
            #[inline(always)]
            fn claim_record(now: u32) -> u32 {
                flows::$claim(now)
            }
            #[inline(always)]
            fn take_record(number: u32, version: u32) -> bool {
                flows::$take(number, version) != 0
            }
            #[inline(always)]
            fn worth_of_record(number: u32, now: u32) -> u64 {
                flows::$worth(number, now)
            }
            #[inline(always)]
            fn tell_loss(what: u32, ifindex: u32) {
                events::$loss(what, ifindex);
            }
            #[inline(always)]
            fn tell_flow(place: u32, ifindex: u32) {
                events::$opened(place, ifindex);
            }
            #[inline(always)]
            fn tell_call(target: &Target<Self>, backend: &Backend<Self>, refused: u32) {
                // SAFETY: they are what they are called.
                unsafe { events::$call(target, backend, refused) };
            }
            #[inline(always)]
            fn maps() -> Maps<Self> {
                Maps {
                    addresses: &$addresses,
                    frontends: &$frontends,
                    slots: &$slots,
                    flows: &$flows,
                    flow_index: &$flow_index,
                    sockets: &$sockets,
                    fragments: &$fragments,
                    devices: &$devices,
                    scratch: &$scratch,
                    work: &$work,
                    ranges: &$ranges,
                    affinities: &$affinities,
                    backends: &$backends,
                    filter: &$filter,
                }
            }
        }
    };
}

/// `BPF_F_NO_PREALLOC`: memory follows the number of entries.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`: values begin at a page, and thus at a cache line; the agent reads and writes them in place.
pub(crate) const MMAPABLE: u32 = 1 << 10;

/// One family's maps. Built at the call, it folds away.
pub struct Maps<F: Family> {
    addresses: &'static HashMap<F::Addr, u32>,
    frontends: &'static HashMap<FrontendKey<F>, Frontend>,
    slots: &'static Array<Backend<F>>,
    pub(crate) flows: &'static Array<Record<F>>,
    pub(crate) flow_index: &'static Array<Bucket>,
    sockets: &'static LruHashMap<SocketKey<F>, SocketPeer<F>>,
    fragments: &'static LruHashMap<FragmentKey<F>, Ports>,
    devices: &'static HashMap<u32, F::Addr>,
    pub(crate) scratch: &'static PerCpuArray<Flow<F>>,
    work: &'static PerCpuArray<Work<F>>,
    ranges: &'static LpmTrie<Source<F>, u32>,
    affinities: &'static LruHashMap<Source<F>, Affinity<F>>,
    backends: &'static HashMap<BackendKey<F>, BackendState>,
    filter: &'static Array<Line>,
}

/// A family that has maps.
pub trait Mapped: Outer {
    fn maps() -> Maps<Self>;
    /// The functions of [`crate::flows`] that are verified once.
    fn find_record(key: &FlowKey<Self>, except: u32) -> u64;
    fn insert_scratch(limit: u32) -> u32;
    fn place_scratch() -> u64;
    fn claim_record(now: u32) -> u32;
    fn take_record(number: u32, version: u32) -> bool;
    fn worth_of_record(number: u32, now: u32) -> u64;
    /// The functions of [`crate::events`] that are verified once.
    fn tell_loss(what: u32, ifindex: u32);
    fn tell_flow(place: u32, ifindex: u32);
    fn tell_call(target: &Target<Self>, backend: &Backend<Self>, refused: u32);
}

family_maps!(
    V4,
    Ip<2>,
    ADDRESSES_V4,
    FRONTENDS_V4,
    SLOTS_V4,
    FLOWS_V4,
    FLOW_INDEX_V4,
    SOCKETS_V4,
    FRAGMENTS_V4,
    DEVICES_V4,
    SCRATCH_V4,
    WORK_V4,
    RANGES_V4,
    AFFINITY_V4,
    BACKENDS_V4,
    FILTER_V4,
    flow_find_v4,
    flow_insert_v4,
    flow_place_v4,
    flow_claim_v4,
    flow_take_v4,
    flow_worth_v4,
    tell_loss_v4,
    tell_flow_v4,
    tell_call_v4
);
family_maps!(
    V6,
    Ip<8>,
    ADDRESSES_V6,
    FRONTENDS_V6,
    SLOTS_V6,
    FLOWS_V6,
    FLOW_INDEX_V6,
    SOCKETS_V6,
    FRAGMENTS_V6,
    DEVICES_V6,
    SCRATCH_V6,
    WORK_V6,
    RANGES_V6,
    AFFINITY_V6,
    BACKENDS_V6,
    FILTER_V6,
    flow_find_v6,
    flow_insert_v6,
    flow_place_v6,
    flow_claim_v6,
    flow_take_v6,
    flow_worth_v6,
    tell_loss_v6,
    tell_flow_v6,
    tell_call_v6
);

/// Whose turn it is in the round-robin run that starts at a slot.
#[map]
static TURNS: Array<u64> = Array::with_max_entries(MAX_SLOTS, 0);
/// How FLOWS is laid out. Of no buckets and no records, until the agent says.
#[map]
pub(crate) static FLOW_TABLE: Array<Shape> = Array::with_max_entries(1, 0);
/// Where this CPU looks first for room for a new flow.
#[map]
pub(crate) static FLOW_HAND: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static EPOCH: Array<u32> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static CONFIG: Array<NodeConfig> = Array::with_max_entries(1, 0);
/// Names for people: no program reads it, the pinned map is where the agent keeps them.
#[map]
static SERVICES: HashMap<u32, ServiceLabel> = HashMap::with_max_entries(MAX_SERVICES, NO_PREALLOC);
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::ALL.len() as u32, 0);
/// The devices that XDP may redirect to.
#[map]
static XDP_DEVICES: DevMapHash = DevMapHash::with_max_entries(MAX_DEVICES, 0);

/// The devices of pods that packets may be handed to past the stack.
#[map]
static PEERS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_DEVICES, NO_PREALLOC);

/// Room for the packet at hand, as the last one left it. Not on the stack, which it would half fill, and whose every known byte would make the
/// verifier walk all that follows once more.
///
/// For tc and XDP only: these run with softirqs off, and what they redirect meets the next program once they have ended,
/// so nothing comes between them and their room. A cgroup hook runs in a process, which packets and other processes
/// interrupt: it must not come here, nor to [`Tables::scratch`].
#[inline(always)]
pub fn work<F: Mapped>() -> Option<&'static mut Work<F>> {
    let work = F::maps().work.get_ptr_mut(0)?;
    // SAFETY: a per-CPU slot, and nothing comes between (see above).
    Some(unsafe { &mut *work })
}

/// Whether an address may be in ADDRESSES: what most packets that are not ours are told by.
#[inline(always)]
fn may_be_ours<F: Mapped>(addr: &F::Addr) -> bool {
    let bit = Bit::of(addr);
    let line = F::maps().filter.get(bit.line());
    line.is_some_and(|line| bit.is_set_in(line))
}

/// Counts one packet or call that did not go through.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: a per-CPU slot. Atomic, because a packet may interrupt a cgroup hook.
        unsafe { hook::fetch_add(counter, 1) };
    }
}

/// Whether XDP may redirect to this device.
#[inline(always)]
pub fn xdp_reaches(ifindex: u32) -> bool {
    XDP_DEVICES.get(ifindex).is_some()
}

/// Redirects to a device of XDP_DEVICES.
#[inline(always)]
pub fn xdp_redirect(ifindex: u32) -> u32 {
    XDP_DEVICES
        .redirect(ifindex, 0)
        .unwrap_or(aya_ebpf::bindings::xdp_action::XDP_ABORTED)
}

/// The maps and the helpers, as seen from one hook.
pub struct World<'a, C: Context>(pub &'a C);

impl<F: Mapped, C: Context> Tables<F> for World<'_, C> {
    #[inline(always)]
    fn address(&self, addr: &F::Addr) -> u32 {
        if !may_be_ours::<F>(addr) {
            return 0;
        }
        // SAFETY: copied at once; a recycled entry is another address's flags, whose frontend is then not found.
        unsafe { F::maps().addresses.get(addr) }
            .copied()
            .unwrap_or(0)
    }

    #[inline(always)]
    fn may_have_address(&self, addr: &F::Addr) -> bool {
        may_be_ours::<F>(addr)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        // SAFETY: copied at once; a stale mix of runs is caught by the bounds of SLOTS.
        unsafe { F::maps().frontends.get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Backend<F>> {
        F::maps().slots.get(index).copied()
    }

    #[inline(always)]
    fn flow<R>(&self, key: &FlowKey<F>, f: impl FnOnce(&mut Flow<F>, bool) -> R) -> Option<R> {
        flow::with(key, &Flows::<F>::HERE, f)
    }

    #[inline(always)]
    fn insert_flow(&self, _: &Flow<F>, limit: u32) -> Insert {
        // It is the one in SCRATCH, where every flow is made.
        Insert::of(F::insert_scratch(limit))
    }

    #[inline(always)]
    fn place_flow(&self, flow: &mut Flow<F>, _: &NodeConfig) -> Insert {
        // As above.
        let placed = F::place_scratch();
        flow.reply.dport = Port((placed >> 32) as u16);
        Insert::of(placed as u32)
    }

    #[inline(always)]
    fn scratch<R>(&self, f: impl FnOnce(&mut Flow<F>) -> R) -> Option<R> {
        let flow = F::maps().scratch.get_ptr_mut(0)?;
        // SAFETY: as in `work`; no two calls are nested.
        Some(f(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<F>) -> Option<Ports> {
        // SAFETY: copied at once.
        unsafe { F::maps().fragments.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey<F>, ports: Ports) {
        // A full LRU makes room by itself; a fragment without its entry is a counted drop.
        let _ = F::maps().fragments.insert(key, ports, 0);
    }

    #[inline(always)]
    fn socket(&self, key: &SocketKey<F>) -> Option<SocketPeer<F>> {
        // SAFETY: copied at once; a recycled entry is another socket's peer for the same backend at worst.
        unsafe { F::maps().sockets.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_socket(&self, key: &SocketKey<F>, peer: &SocketPeer<F>) {
        // A full LRU makes room by itself; without the entry only `getpeername` is less pretty.
        let _ = F::maps().sockets.insert(key, peer, 0);
    }

    #[inline(always)]
    fn in_range(&self, source: &Source<F>) -> bool {
        let bits = size_of::<Source<F>>() as u32 * 8;
        F::maps().ranges.get(Key::new(bits, *source)).is_some()
    }

    #[inline(always)]
    fn affinity(&self, client: &Source<F>) -> Option<Affinity<F>> {
        // SAFETY: copied at once; what it says is held against BACKENDS.
        unsafe { F::maps().affinities.get(client) }.copied()
    }

    #[inline(always)]
    fn remember_affinity(&self, client: &Source<F>, affinity: &Affinity<F>) {
        // A full LRU makes room by itself.
        let _ = F::maps().affinities.insert(client, affinity, 0);
    }

    #[inline(always)]
    fn backend(&self, key: &BackendKey<F>) -> Option<BackendState> {
        // SAFETY: copied at once; a recycled entry says at worst that another endpoint is there.
        unsafe { F::maps().backends.get(key) }.copied()
    }

    #[inline(always)]
    fn opened(&self, flow: &Flow<F>) {
        tally::opened(flow.service);
        // It is the one in SCRATCH, where every flow is made.
        if events::flows_are_watched() {
            F::tell_flow(C::PLACE as u32, self.0.ifindex());
        }
    }

    #[inline(always)]
    fn count_connection(&self, key: &BackendKey<F>, difference: i64) {
        if let Some(state) = F::maps().backends.get_ptr_mut(key) {
            // SAFETY: map values live as long as the program runs.
            unsafe { hook::fetch_add(&raw mut (*state).connections, difference as u64) };
        }
    }

    #[inline(always)]
    fn turn(&self, first: u32) -> u32 {
        let Some(turn) = TURNS.get_ptr_mut(first) else {
            return 0;
        };
        // SAFETY: as above.
        (unsafe { hook::fetch_add(turn, 1) }) as u32
    }

    #[inline(always)]
    fn epoch(&self) -> u16 {
        EPOCH.get(0).copied().unwrap_or(0) as u16
    }

    #[inline(always)]
    fn config(&self) -> Option<NodeConfig> {
        CONFIG.get(0).copied()
    }

    #[inline(always)]
    fn source_towards(&self, dst: &F::Addr) -> Option<F::Addr> {
        let next = hook::next_hop::<F>(self.0, dst, dst, 0);
        let ifindex = next.ifindex_or_none()?;
        // SAFETY: copied at once.
        unsafe { F::maps().devices.get(ifindex) }.copied()
    }

    #[inline(always)]
    fn peer(&self, src: &F::Addr, dst: &F::Addr, headers: usize, hop: &mut Hop) -> bool {
        let next = hook::next_hop::<F>(self.0, src, dst, self.0.wire_len(headers));
        // Whoever speaks to itself through its gateway is to be told by the stack.
        if !next.is_complete()
            || next.ifindex == self.0.ifindex()
            || PEERS.get_ptr(next.ifindex).is_none()
        {
            return false;
        }
        *hop = Hop {
            ifindex: next.ifindex,
            dmac: next.dmac,
            smac: next.smac,
        };
        true
    }

    #[inline(always)]
    fn node_address(&self) -> Option<F::Addr> {
        // SAFETY: copied at once.
        unsafe { F::maps().devices.get(0) }.copied()
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        hook::seconds()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        hook::random()
    }
}
