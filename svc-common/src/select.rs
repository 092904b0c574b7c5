//! Frontend → backend: the one selection rule, shared by the packet path and the socket hooks.
//!
//! A service port owns a run of slots; the pick is `first + n % count`. Random, round-robin and Maglev differ only in how
//! the agent filled the run and in which `n` is passed; least-connections picks two and takes the better. A client with
//! session affinity gets its last backend instead, as long as that is in the frontend's set.

use crate::affinity::{self, Last};
use crate::family::{Addr, Family, Port};
use crate::reason::Reason;
use crate::table::{Backend, FlowKey, Frontend, Source, Tables, frontend_flags};

/// The backend for a new connection of `client` to `frontend`; the algorithm's number is asked for only if needed.
#[inline(always)]
pub fn choose<F: Family>(
    frontend: &Frontend,
    client: &F::Addr,
    n: impl FnOnce() -> u32,
    tables: &impl Tables<F>,
    backend: &mut Backend<F>,
) -> Result<(), Reason> {
    // Before all else, as a firewall would.
    if frontend.flags & frontend_flags::SOURCE_RANGES != 0
        && !in_range(frontend.service, client, tables)
    {
        return Err(Reason::SourceRange);
    }
    if frontend.count == 0 {
        return Err(if frontend.flags & frontend_flags::DROP_WHEN_EMPTY != 0 {
            Reason::NoLocalEndpoints
        } else {
            Reason::NoEndpoints
        });
    }
    if frontend.affinity != 0 && affinity::last(frontend, client, tables, backend) == Last::Valid {
        return Ok(());
    }
    select(frontend, n(), tables, backend)
}

/// The number that a frontend's algorithm picks by, Maglev's aside.
#[inline(always)]
pub fn number<F: Family>(frontend: &Frontend, tables: &impl Tables<F>) -> u32 {
    if frontend.flags & frontend_flags::ROUND_ROBIN != 0 {
        tables.turn(frontend.first)
    } else {
        tables.random()
    }
}

/// Whether a range of a service port (of the cluster's pods, for 0) holds an address.
#[inline(never)]
pub fn in_range<F: Family>(service: u32, addr: &F::Addr, tables: &impl Tables<F>) -> bool {
    tables.in_range(&Source {
        service,
        addr: *addr,
    })
}

/// The backend that number `n` leads to.
#[inline(never)]
pub fn select<F: Family>(
    frontend: &Frontend,
    n: u32,
    tables: &impl Tables<F>,
    backend: &mut Backend<F>,
) -> Result<(), Reason> {
    let count = frontend.count;
    // Two numbers of 16 bits, where two are needed.
    let two = frontend.flags & frontend_flags::LEAST_CONNECTIONS != 0 && count > 1;
    let pick = remainder(if two { n & 0xffff } else { n }, count);
    *backend = slot(frontend, pick, tables)?;
    if two {
        let ahead = 1 + remainder(n >> 16, count - 1);
        let other = remainder(pick + ahead, count);
        prefer_less_loaded(frontend, other, tables, backend)?;
    }
    Ok(())
}

/// `n % count`, without the panic at 0 that a function which is not told of its caller's check would have.
#[inline(always)]
const fn remainder(n: u32, count: u32) -> u32 {
    match n.checked_rem(count) {
        Some(rest) => rest,
        None => 0,
    }
}

#[inline(always)]
fn slot<F: Family>(
    frontend: &Frontend,
    pick: u32,
    tables: &impl Tables<F>,
) -> Result<Backend<F>, Reason> {
    tables
        .slot(frontend.first.wrapping_add(pick))
        .ok_or(Reason::BadSlot)
}

/// Replaces `backend` by the frontend's slot `other` if that has fewer connections for its weight.
#[inline(never)]
fn prefer_less_loaded<F: Family>(
    frontend: &Frontend,
    other: u32,
    tables: &impl Tables<F>,
    backend: &mut Backend<F>,
) -> Result<(), Reason> {
    let other = slot(frontend, other, tables)?;
    let (current, candidate) = (
        load(frontend.service, backend, tables),
        load(frontend.service, &other, tables),
    );
    if current.exceeds(candidate) {
        *backend = other;
    }
    Ok(())
}

/// A backend's open connections and weight, in one register: (connections << 16) | weight.
#[derive(Clone, Copy)]
struct Load(u64);

impl Load {
    /// Whether one more connection would weigh more here than there. Without a weight, any weighs too much.
    #[inline(always)]
    const fn exceeds(self, other: Self) -> bool {
        let connections = [(self.0 >> 16) + 1, (other.0 >> 16) + 1];
        let weights = [self.0 & 0xffff, other.0 & 0xffff];
        connections[0] * weights[1] > connections[1] * weights[0]
    }
}

/// The load of a backend; one that is not listed any more has no weight.
#[inline(never)]
fn load<F: Family>(service: u32, backend: &Backend<F>, tables: &impl Tables<F>) -> Load {
    let Some(state) = tables.backend(&backend.key(service)) else {
        return Load(0);
    };
    // The end of a connection may be counted where its start was not: below zero, until the agent has counted anew.
    let connections = if state.connections > u32::MAX as u64 {
        0
    } else {
        state.connections
    };
    Load(connections << 16 | state.weight as u64)
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
