//! Counts by service port: connections where a flow is made, packets and bytes where they are carried, each if the agent
//! asks for it. Of what it does not ask for, nothing is in the loaded program: the verifier knows [`SERVICE_METRICS`].

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use svc_common::decision::Decision;
use svc_common::table::{MAX_SERVICES, Traffic, counted, counter};

use crate::hook::{self, Skb};
use crate::maps::Mapped;

/// Bits of [`counted`]. The agent writes them into the object before it loads it.
#[unsafe(no_mangle)]
static SERVICE_METRICS: u32 = counted::CONNECTIONS;

/// New connections by [`counter`]. One number for all CPUs: it costs 512 KiB, whatever the machine, and is written once in
/// a connection.
#[map]
static CONNECTIONS: Array<u64> = Array::with_max_entries(MAX_SERVICES, 0);
/// What was carried by [`counter`]. As large as CONNECTIONS where it is asked for.
#[map]
static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn is_counted(what: u32) -> bool {
    // SAFETY: our own; volatile, because the agent puts another value there than the compiler sees.
    (unsafe { (&raw const SERVICE_METRICS).read_volatile() }) & what != 0
}

/// Counts a connection.
#[inline(always)]
pub fn opened(service: u32) {
    if is_counted(counted::CONNECTIONS)
        && let Some(count) = CONNECTIONS.get_ptr_mut(counter(service))
    {
        // SAFETY: a map's value, which programs write only so.
        unsafe { hook::fetch_add(count, 1) };
    }
}

/// Counts what tc has translated: one that is to be cut into segments as so many packets. `l3`: where its IP header is.
#[inline(always)]
pub fn carried<F: Mapped>(skb: &Skb, l3: usize, decision: &Decision<F>) {
    if is_counted(counted::TRAFFIC) {
        count(
            decision,
            skb.segments() as u64,
            skb.len() as u64 - l3 as u64,
        );
    }
}

/// Counts packets and bytes, towards the backend or back.
#[inline(always)]
pub fn count<F: Mapped>(decision: &Decision<F>, packets: u64, bytes: u64) {
    if !is_counted(counted::TRAFFIC) {
        return;
    }
    let Some(traffic) = TRAFFIC.get_ptr_mut(counter(decision.service)) else {
        return;
    };
    // SAFETY: a per-CPU slot. tc and XDP run with softirqs off, so nothing comes between reading and writing.
    let traffic = unsafe { &mut *traffic };
    let (n, len) = if decision.reply {
        (&mut traffic.packets_out, &mut traffic.bytes_out)
    } else {
        (&mut traffic.packets_in, &mut traffic.bytes_in)
    };
    *n = n.wrapping_add(packets);
    *len = len.wrapping_add(bytes);
}
