//! What `cargo xtask bench packet` wraps around the programs: it puts the frame back that the last run has changed, as a
//! packet of the next flow, and jumps to the program under test, or to a floor to hold it against.
//!
//! An object of its own: nothing of it is in the agent.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::helpers::generated::bpf_skb_change_tail;
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use svc_common::packet::Packet;

/// Which packets to make. The bench writes it before every burst, from the same definition.
#[path = "bench/plan.rs"]
mod plan;
use plan::Plan;

#[map]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);
#[map]
static XDP_SLOTS: ProgramArray = ProgramArray::with_max_entries(plan::SLOTS, 0);
#[map]
static TC_SLOTS: ProgramArray = ProgramArray::with_max_entries(plan::SLOTS, 0);

/// What the floors look up: as much as a flow of IPv4 has.
type Key = [u16; 8];
type Value = [u32; 9];

#[map]
static FLOOR_ARRAY: Array<Value> = Array::with_max_entries(1, 0);
#[map]
static FLOOR_HASH: HashMap<Key, Value> = HashMap::with_max_entries(1, 0);
#[map]
static FLOOR_LRU: LruHashMap<Key, Value> = LruHashMap::with_max_entries(1, 0);

/// Bytes up to the end of a TCP header behind IPv4, and behind IPv6.
const SHORT: usize = 54;
const LONG: usize = 74;

#[xdp]
pub fn wrap_xdp(ctx: XdpContext) -> u32 {
    if let Some(slot) = next(ctx.data(), ctx.data_end()) {
        // SAFETY: nothing here is left to be dropped.
        unsafe { XDP_SLOTS.tail_call(&ctx, slot) };
    }
    plan::FAILED
}

#[classifier]
pub fn wrap_tc(ctx: TcContext) -> i32 {
    if let Some(plan) = PLAN.get(0)
        && plan.len != ctx.len()
    {
        // SAFETY: a helper on our context.
        unsafe { bpf_skb_change_tail(ctx.skb.skb, plan.len, 0) };
    }
    if let Some(slot) = next(ctx.data(), ctx.data_end()) {
        // SAFETY: nothing here is left to be dropped.
        unsafe { TC_SLOTS.tail_call(&ctx, slot) };
    }
    plan::FAILED as i32
}

/// Makes the next packet; where to jump to.
#[inline(always)]
fn next(start: usize, end: usize) -> Option<u32> {
    let plan = PLAN.get_ptr_mut(0)?;
    // SAFETY: the bench runs one burst at a time, on one CPU.
    let plan = unsafe { &mut *plan };
    let frame = plan.frame.as_ptr().cast::<u8>();
    if start + SHORT > end {
        return None;
    }
    // SAFETY: 54 bytes on both sides; test frames start at multiples of eight.
    unsafe {
        copy::<u64>(frame, start, 0);
        copy::<u64>(frame, start, 8);
        copy::<u64>(frame, start, 16);
        copy::<u64>(frame, start, 24);
        copy::<u64>(frame, start, 32);
        copy::<u64>(frame, start, 40);
        copy::<u32>(frame, start, 48);
        copy::<u16>(frame, start, 52);
    }
    if start + LONG <= end {
        // SAFETY: 74 bytes on both sides.
        unsafe {
            copy::<u16>(frame, start, 54);
            copy::<u64>(frame, start, 56);
            copy::<u64>(frame, start, 64);
            copy::<u16>(frame, start, 72);
        }
    }
    let flow = plan.counter.wrapping_mul(plan.stride) & plan.mask;
    plan.counter = plan.counter.wrapping_add(1);
    // SAFETY: the kernel's own bounds of the frame.
    let packet = unsafe { Packet::new(start, end) };
    let port = plan.port.wrapping_add(flow & plan::PORT_MASK) as u16;
    packet.set(small(plan.port_at), port.to_be())?;
    let addr = plan.addr.wrapping_add(flow >> plan::PORT_BITS);
    packet.set(small(plan.addr_at), words(addr))?;
    if plan.vip_mask != 0 {
        let vip = plan.vip.wrapping_add(flow & plan.vip_mask);
        packet.set(small(plan.vip_at), words(vip))?;
    }
    Some(plan.slot)
}

/// # Safety
/// There is a `T` at `at` behind both pointers, and `at` is a multiple of its size.
#[inline(always)]
unsafe fn copy<T: Copy>(frame: *const u8, start: usize, at: usize) {
    // SAFETY: as the caller says. Volatile: LLVM would make a call to memcpy of it.
    unsafe {
        let value = frame.add(at).cast::<T>().read_volatile();
        (start as *mut u8).add(at).cast::<T>().write_volatile(value);
    }
}

/// An offset that the verifier knows to be small.
#[inline(always)]
fn small(at: u32) -> usize {
    (at & 0x3f) as usize
}

/// The last 32 bits of an address, in network order.
#[inline(always)]
fn words(number: u32) -> [u16; 2] {
    [((number >> 16) as u16).to_be(), (number as u16).to_be()]
}

#[classifier]
pub fn floor_empty_tc(_: TcContext) -> i32 {
    -1
}

#[xdp]
pub fn floor_empty(_: XdpContext) -> u32 {
    XDP_PASS
}

/// The flow's entry of an array.
#[xdp]
pub fn floor_array(ctx: XdpContext) -> u32 {
    let Some(key) = key(&ctx) else {
        return plan::FAILED;
    };
    let port = u16::from_be(key[4]) as u32 & plan::PORT_MASK;
    seen(FLOOR_ARRAY.get((u16::from_be(key[1]) as u32) << plan::PORT_BITS | port))
}

/// The flow's entry of a hash table, made on its first packet.
#[xdp]
pub fn floor_hash(ctx: XdpContext) -> u32 {
    let Some(key) = key(&ctx) else {
        return plan::FAILED;
    };
    // SAFETY: nobody removes entries.
    let value = unsafe { FLOOR_HASH.get(&key) };
    if value.is_none() {
        let _ = FLOOR_HASH.insert(&key, &[1; 9], 0);
    }
    seen(value)
}

/// The flow's entry of an LRU hash table, made on its first packet.
#[xdp]
pub fn floor_lru(ctx: XdpContext) -> u32 {
    let Some(key) = key(&ctx) else {
        return plan::FAILED;
    };
    // SAFETY: copied at once.
    let value = unsafe { FLOOR_LRU.get(&key) };
    if value.is_none() {
        let _ = FLOOR_LRU.insert(&key, &[1; 9], 0);
    }
    seen(value)
}

/// Every packet writes its entry.
#[xdp]
pub fn floor_lru_insert(ctx: XdpContext) -> u32 {
    let Some(key) = key(&ctx) else {
        return plan::FAILED;
    };
    let _ = FLOOR_LRU.insert(&key, &[1; 9], 0);
    XDP_PASS
}

/// Reads the value, so that the lookup is not for nothing.
#[inline(always)]
fn seen(value: Option<&Value>) -> u32 {
    match value {
        Some(value) if value[8] == u32::MAX => plan::FAILED,
        _ => XDP_PASS,
    }
}

/// Addresses and ports where they lie in an IPv4 packet.
#[inline(always)]
fn key(ctx: &XdpContext) -> Option<Key> {
    // SAFETY: the kernel's own bounds of the frame.
    let packet = unsafe { Packet::new(ctx.data(), ctx.data_end()) };
    let [a, b, c, d, e, f] = packet.get::<[u16; 6]>(26)?;
    Some([a, b, c, d, e, f, 6, 0])
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
