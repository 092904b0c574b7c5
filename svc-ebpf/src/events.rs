//! Tells whoever watches (`svc-agent monitor`). A packet whose flow is known never comes here; what is lost, and what opens
//! a flow, asks one array entry whether anybody does.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::helpers::generated as bpf;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use svc_common::event::{Event, MAX_EVENTS, Place, Watch};
use svc_common::family::{V4, V6};
use svc_common::reason::Reason;
use svc_common::socket::Target;
use svc_common::table::Backend;

use crate::hook::{self, Context};
use crate::maps::{MMAPABLE, Mapped, count, work};

#[map]
static WATCH: Array<Watch> = Array::with_max_entries(1, 0);
#[map]
static EVENTS: Array<Event> = Array::with_max_entries(MAX_EVENTS, MMAPABLE);
/// How many events there were.
#[map]
static EVENT_HEAD: Array<u64> = Array::with_max_entries(1, 0);

/// Whether anybody watches what `until` reads of [`Watch`].
#[inline(always)]
fn is_watched(until: impl FnOnce(&Watch) -> u32) -> bool {
    let until = WATCH.get(0).map_or(0, until);
    until != 0 && until > hook::seconds()
}

#[inline(always)]
pub fn flows_are_watched() -> bool {
    is_watched(|watch| watch.flows)
}

/// Counts a packet that was lost; a record of it is made of the packet at hand ([`work`]).
#[inline(always)]
pub fn lose<F: Mapped>(context: &impl Context, reason: Reason, place: Place) {
    count(reason);
    if is_watched(|watch| watch.losses) {
        F::tell_loss(reason as u32 | (place as u32) << 8, context.ifindex());
    }
}

/// Tells of a `connect()` or `sendmsg()` that has got a backend.
#[inline(always)]
pub fn connect<F: Mapped>(target: &Target<F>, backend: &Backend<F>) {
    if flows_are_watched() {
        F::tell_call(target, backend, 0);
    }
}

/// Counts one that has got none.
#[inline(always)]
pub fn refuse<F: Mapped>(target: &Target<F>, backend: &Backend<F>, reason: Reason) {
    count(reason);
    if is_watched(|watch| watch.losses) {
        F::tell_call(target, backend, reason as u32 + 1);
    }
}

/// Takes the next place in the ring, has it filled, and shows it to the readers. A writer that is overtaken by a whole
/// round of others leaves a record with another number, which readers count as lost.
#[inline(always)]
fn write(fill: impl FnOnce(&mut Event)) -> u32 {
    let Some(head) = EVENT_HEAD.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a map's value.
    let place = unsafe { hook::fetch_add(head, 1) } as u32;
    let Some(event) = EVENTS.get_ptr_mut(place & (MAX_EVENTS - 1)) else {
        return 0;
    };
    // SAFETY: as above; the numbers are changed by full barriers, and only read by who minds them.
    unsafe {
        let number = &raw mut (*event).number;
        let old = number.read_volatile();
        hook::compare_exchange(number, old, 0);
        compiler_fence(Ordering::SeqCst);
        let event = &mut *event;
        event.time = bpf::bpf_ktime_get_ns();
        fill(event);
        compiler_fence(Ordering::SeqCst);
        hook::compare_exchange(number, 0, place.wrapping_add(1));
    }
    1
}

#[inline(always)]
fn tell_loss<F: Mapped>(what: u32, ifindex: u32) -> u32 {
    match work::<F>() {
        Some(work) => {
            write(|event| event.lose(&work.segment.key, what as u8, (what >> 8) as u8, ifindex))
        }
        None => 0,
    }
}

#[inline(always)]
fn tell_flow<F: Mapped>(place: u32, ifindex: u32) -> u32 {
    match F::maps().scratch.get_ptr(0) {
        // SAFETY: a per-CPU slot, lent to who calls us and only read meanwhile.
        Some(flow) => write(|event| event.open(unsafe { &*flow }, place as u8, ifindex)),
        None => 0,
    }
}

#[inline(always)]
fn tell_call<F: Mapped>(target: &Target<F>, backend: &Backend<F>, refused: u32) -> u32 {
    // SAFETY: takes nothing, returns a number. These hooks run in the process that calls.
    let pid = (unsafe { bpf::bpf_get_current_pid_tgid() } >> 32) as u32;
    let to = (refused == 0).then_some((&backend.addr, backend.port));
    write(|event| {
        let asked = (&target.addr, target.port, target.proto);
        event.connect::<F>(asked, to, refused.wrapping_sub(1) as u8, pid);
        let name = &raw mut event.client;
        // SAFETY: room of a map's value, of the stated size, which the helper fills.
        unsafe { bpf::bpf_get_current_comm(name.cast(), size_of_val(&event.client) as u32) };
    })
}

macro_rules! verified_once {
    ($family:ident, $loss:ident, $flow:ident, $call:ident) => {
        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $loss(what: u32, ifindex: u32) -> u32 {
            tell_loss::<$family>(what, ifindex)
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $flow(place: u32, ifindex: u32) -> u32 {
            tell_flow::<$family>(place, ifindex)
        }

        /// # Safety
        /// They are what they are called, or null: as such the verifier walks it.
        #[inline(never)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $call(
            target: *const Target<$family>,
            backend: *const Backend<$family>,
            refused: u32,
        ) -> u32 {
            // SAFETY: as the caller vouches.
            match unsafe { (target.as_ref(), backend.as_ref()) } {
                (Some(target), Some(backend)) => tell_call(target, backend, refused),
                _ => 0,
            }
        }
    };
}

verified_once!(V4, tell_loss_v4, tell_flow_v4, tell_call_v4);
verified_once!(V6, tell_loss_v6, tell_flow_v6, tell_call_v6);
