//! FLOWS in array maps, and the functions of it that the verifier walks once: exported, BTF calls them global.

use core::marker::PhantomData;
use core::sync::atomic::{Ordering, compiler_fence};

use svc_common::family::{V4, V6};
use svc_common::flow;
use svc_common::flow::table::{self, Hit, Record, Shape, Store};
use svc_common::table::{Flow, FlowKey, Insert, NodeConfig};

use crate::hook;
use crate::maps::{CONFIG, FLOW_HAND, FLOW_TABLE, Mapped};

/// One family's FLOWS.
pub struct Flows<F>(PhantomData<F>);

impl<F> Flows<F> {
    pub const HERE: Self = Self(PhantomData);
}

/// The CPUs' hands begin at different places.
#[inline(always)]
fn apart() -> u32 {
    hook::cpu().wrapping_mul(0x9e37_79b1)
}

impl<F: Mapped> Store<F> for Flows<F> {
    #[inline(always)]
    fn shape(&self) -> Option<&Shape> {
        FLOW_TABLE.get(0)
    }

    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<*mut u32> {
        Some(F::maps().flow_index.get_ptr_mut(number)?.cast())
    }

    #[inline(always)]
    fn record(&self, number: u32) -> Option<*mut Record<F>> {
        F::maps().flows.get_ptr_mut(number)
    }

    #[inline(always)]
    unsafe fn swap(&self, at: *mut u32, old: u32, new: u32) -> bool {
        // SAFETY: the caller's word is a word of a map.
        unsafe { hook::compare_exchange(at, old, new) == old }
    }

    /// x86 reads in order. Elsewhere an atomic instruction on memory of this CPU's makes do, for BPF has no barriers.
    #[inline(always)]
    fn fence(&self) {
        compiler_fence(Ordering::Acquire);
        if cfg!(not(bpf_target_arch = "x86_64"))
            && let Some(hand) = FLOW_HAND.get_ptr_mut(0)
        {
            // SAFETY: a per-CPU slot.
            unsafe { hook::fetch_add(hand, 0) };
        }
    }

    #[inline(always)]
    fn hand(&self) -> u32 {
        let hand = FLOW_HAND.get(0).copied().unwrap_or(0);
        (hand as u32).wrapping_add(apart())
    }

    #[inline(always)]
    fn set_hand(&self, number: u32) {
        if let Some(hand) = FLOW_HAND.get_ptr_mut(0) {
            // SAFETY: a per-CPU slot.
            unsafe { *hand = number.wrapping_sub(apart()) as u64 };
        }
    }

    #[inline(always)]
    fn find(&self, key: &FlowKey<F>, except: u32) -> Hit {
        F::find_record(key, except)
    }

    #[inline(always)]
    fn lifetimes(&self) -> NodeConfig {
        CONFIG.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn take(&self, number: u32, version: u32) -> bool {
        F::take_record(number, version)
    }

    #[inline(always)]
    fn claim(&self, now: u32) -> u32 {
        F::claim_record(now)
    }

    #[inline(always)]
    fn worth(&self, number: u32, now: u32) -> u64 {
        F::worth_of_record(number, now)
    }
}

/// Adds the flow in SCRATCH.
#[inline(always)]
fn insert<F: Mapped>(limit: u32) -> u32 {
    let Some(flow) = F::maps().scratch.get_ptr(0) else {
        return Insert::Full.number();
    };
    // SAFETY: a per-CPU slot, lent to who calls us and only read meanwhile.
    table::insert(unsafe { &*flow }, limit, &Flows::<F>::HERE).number()
}

/// Finds a port for the flow in SCRATCH, and adds it. In the upper half: the port.
#[inline(always)]
fn place<F: Mapped>() -> u64 {
    let Some((flow, config)) = F::maps().scratch.get_ptr_mut(0).zip(CONFIG.get(0)) else {
        return Insert::Full.number() as u64;
    };
    // SAFETY: a per-CPU slot, lent to who calls us and written only here meanwhile.
    let flow = unsafe { &mut *flow };
    let insert = |flow: &Flow<F>, limit| {
        hook::written(flow);
        Insert::of(F::insert_scratch(limit))
    };
    let outcome = flow::place(flow, config, insert);
    (flow.reply.dport.0 as u64) << 32 | outcome.number() as u64
}

macro_rules! verified_once {
    ($family:ident, $find:ident, $insert:ident, $place:ident, $claim:ident, $take:ident, $worth:ident) => {
        /// # Safety
        /// `key` is one, or null: as such the verifier walks it.
        #[inline(never)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $find(key: *const FlowKey<$family>, except: u32) -> u64 {
            // SAFETY: as the caller vouches.
            match unsafe { key.as_ref() } {
                Some(key) => table::find(key, except, &Flows::<$family>::HERE),
                None => 0,
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $insert(limit: u32) -> u32 {
            insert::<$family>(limit)
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $place() -> u64 {
            place::<$family>()
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $claim(now: u32) -> u32 {
            table::claim(now, &Flows::<$family>::HERE)
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $take(number: u32, version: u32) -> u32 {
            table::take(number, version, &Flows::<$family>::HERE) as u32
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $worth(number: u32, now: u32) -> u64 {
            table::worth(number, now, &Flows::<$family>::HERE)
        }
    };
}

verified_once!(
    V4,
    flow_find_v4,
    flow_insert_v4,
    flow_place_v4,
    flow_claim_v4,
    flow_take_v4,
    flow_worth_v4
);
verified_once!(
    V6,
    flow_find_v6,
    flow_insert_v6,
    flow_place_v6,
    flow_claim_v6,
    flow_take_v6,
    flow_worth_v6
);
