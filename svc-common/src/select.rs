//! Frontend → backend: the one selection rule, shared by the packet path and the socket hooks.
//!
//! A service port owns a run of slots; the pick is `first + n % count`. Random and Maglev differ only in how the agent
//! filled the run and in which `n` is passed.

use crate::family::{Addr, Family, Port};
use crate::reason::Reason;
use crate::table::{Backend, FlowKey, Frontend, Tables, frontend_flags};

/// The backend for a new connection of `frontend`.
#[inline(always)]
pub fn select<F: Family>(
    frontend: &Frontend,
    n: impl FnOnce(bool) -> u32,
    tables: &impl Tables<F>,
) -> Result<Backend<F>, Reason> {
    if frontend.count == 0 {
        return Err(if frontend.flags & frontend_flags::DROP_WHEN_EMPTY != 0 {
            Reason::NoLocalEndpoints
        } else {
            Reason::NoEndpoints
        });
    }
    let n = n(frontend.flags & frontend_flags::MAGLEV != 0);
    let slot = frontend.first.wrapping_add(n % frontend.count);
    tables.slot(slot).ok_or(Reason::BadSlot)
}

/// The hash of a 5-tuple that indexes a Maglev run. The same on every node, so that a connection that reaches another
/// node, or whose flow entry was lost, finds the same backend.
#[inline(always)]
pub fn flow_hash<F: Family>(key: &FlowKey<F>) -> u32 {
    tuple_hash(&key.src, &key.dst, ports(key.sport, key.dport), key.proto)
}

/// Both ports in one argument.
#[inline(always)]
pub const fn ports(sport: Port, dport: Port) -> u32 {
    (sport.0 as u32) << 16 | dport.0 as u32
}

/// [`flow_hash`] of a tuple that is no key. A function of its own, for the sake of the stack.
#[inline(never)]
pub fn tuple_hash<A: Addr>(src: &A, dst: &A, ports: u32, proto: u16) -> u32 {
    let mut hash = mix(proto as u32, ports);
    let mut i = 0;
    while i < A::WORDS {
        hash = mix(hash, (src.word(i) as u32) << 16 | dst.word(i) as u32);
        i += 1;
    }
    hash ^ (hash >> 16)
}

/// One round of MurmurHash3's 32-bit finaliser over an accumulator.
#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    let mut h = hash ^ word;
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests;
