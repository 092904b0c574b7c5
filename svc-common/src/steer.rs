//! What happens to a packet: the Service rules, read aloud.
//!
//! A packet is translated at the client's edge. On its way in ([`ingress`]) a packet to a frontend gets a backend as its
//! destination, and an answer to an address of this node gets its client back. On its way out ([`egress`]) an answer
//! gets the frontend as its source, and a packet of the node's own processes gets its backend.

pub use crate::decision::{Decision, Route};
use crate::family::Family;
use crate::flow;
use crate::packet::Packet;
use crate::parse::{self, Segment};
use crate::reason::{Aside, Reason};
use crate::rewrite::Rewrite;
use crate::select::{flow_hash, select};
use crate::table::{
    Backend, FrontendKey, Scope, Tables, address_flags, backend_flags, flow_flags, node_flags,
};
use crate::wire::{self, tcp};

/// Who sends a packet that opens a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Client {
    Pod,
    Node,
    Outside,
}

impl Client {
    #[inline(always)]
    const fn scope(self) -> Scope {
        match self {
            Client::Pod | Client::Node => Scope::Internal,
            Client::Outside => Scope::External,
        }
    }
}

/// A packet on its way through: what was read of it, and what was decided. Filled in place, because the stack of a BPF
/// program has no room for copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work<F: Family> {
    pub segment: Segment<F>,
    pub decision: Decision<F>,
}

impl<F: Family> Work<F> {
    pub const EMPTY: Self = Self {
        segment: Segment::EMPTY,
        decision: Decision {
            to: Rewrite::EMPTY,
            route: Route::Stack,
            reply: false,
        },
    };
}

/// A packet that comes in, from a pod (scope Internal) or from outside (External). Ok: `work` says what to do.
#[inline(always)]
pub fn ingress<F: Family>(
    scope: Scope,
    packet: &Packet,
    l3: usize,
    tables: &impl Tables<F>,
    work: &mut Work<F>,
) -> Result<(), Aside> {
    let dst = wire::dst::<F>(packet, l3).ok_or(Aside::NotOurs)?;
    let address = tables.address(&dst);
    if address == 0 {
        return Err(Aside::NotOurs);
    }
    if let Err(aside) = parse::segment(packet, l3, tables, &mut work.segment) {
        // The node's own unreadable packets are for its stack to judge.
        return Err(if address & address_flags::NODE != 0 {
            Aside::NotOurs
        } else {
            aside
        });
    }
    // Also where the port turns out to be somebody else's (C8): the later fragments must pass like the first.
    parse::remember_fragment(&work.segment, tables);
    if flow::follow(&work.segment, tables, &mut work.decision) {
        return Ok(());
    }
    let client = match scope {
        Scope::Internal => Client::Pod,
        Scope::External => Client::Outside,
    };
    open(client, address, &work.segment, tables, &mut work.decision)
}

/// A packet that goes out. `local`: a process of this node sent it.
#[inline(always)]
pub fn egress<F: Family>(
    local: bool,
    packet: &Packet,
    l3: usize,
    tables: &impl Tables<F>,
    work: &mut Work<F>,
) -> Result<(), Aside> {
    // Nothing here is ours by its address alone, so what cannot be read passes.
    parse::segment(packet, l3, tables, &mut work.segment).map_err(|_| Aside::NotOurs)?;
    if flow::follow(&work.segment, tables, &mut work.decision) {
        return if work.decision.reply || local {
            Ok(())
        } else {
            Err(Aside::NotOurs)
        };
    }
    if !local {
        return Err(Aside::NotOurs);
    }
    let address = tables.address(&work.segment.key.dst);
    if address & (address_flags::CLUSTER_IP | address_flags::EXTERNAL) == 0 {
        return Err(Aside::NotOurs);
    }
    open(
        Client::Node,
        address,
        &work.segment,
        tables,
        &mut work.decision,
    )
}

/// A packet of no known flow to one of our addresses.
#[inline(never)]
fn open<F: Family>(
    client: Client,
    address: u32,
    segment: &Segment<F>,
    tables: &impl Tables<F>,
    decision: &mut Decision<F>,
) -> Result<(), Aside> {
    // An error about a flow that we do not know is for the stack, and a reset ends what is not there.
    if segment.is_error() || segment.tcp_flags & tcp::RST != 0 {
        return Err(Aside::NotOurs);
    }
    let key = &segment.key;
    let frontend = FrontendKey {
        addr: key.dst,
        port: key.dport,
        proto: key.proto as u8,
        scope: client.scope() as u8,
    };
    let Some(frontend) = tables.frontend(&frontend) else {
        return Err(unmatched(client.scope(), address, tables));
    };
    let n = |maglev: bool| {
        if maglev {
            flow_hash(key)
        } else {
            tables.random()
        }
    };
    let backend = select(&frontend, n, tables)?;
    let (nat, flags) = source(client, &backend, segment, tables)?;
    let opened = tables.scratch(|flow| {
        flow.seen = tables.now();
        flow.service = frontend.service;
        flow.client = key.src;
        flow.frontend = key.dst;
        flow.backend = backend.addr;
        flow.nat = nat;
        flow.client_port = key.sport;
        flow.frontend_port = key.dport;
        flow.backend_port = backend.port;
        flow.nat_port = key.sport;
        flow.flags = flags;
        flow.state = 0;
        flow.epoch = tables.epoch();
        flow::open(flow, key.proto, tables)?;
        flow.decide(decision);
        Ok(())
    });
    opened
        .unwrap_or(Err(Reason::BadSlot))
        .map_err(Aside::Because)
}

/// No frontend has this address and port.
#[inline(always)]
fn unmatched<F: Family>(scope: Scope, address: u32, tables: &impl Tables<F>) -> Aside {
    // The other ports of a node, LoadBalancer or external address are not ours (C8).
    if address & address_flags::CLUSTER_IP == 0 || address & address_flags::NODE != 0 {
        return Aside::NotOurs;
    }
    let answers_outside = || {
        tables
            .config()
            .is_some_and(|c| c.flags & node_flags::EXTERNAL_CLUSTER_IP != 0)
    };
    match scope {
        Scope::External if address & address_flags::EXTERNAL != 0 => Aside::NotOurs,
        Scope::External if !answers_outside() => Aside::Because(Reason::ClusterIpFromOutside),
        Scope::Internal | Scope::External => Aside::Because(Reason::UndefinedPort),
    }
}

/// Whose source address the backend of a new flow will see, and the flow's flags.
#[inline(always)]
fn source<F: Family>(
    client: Client,
    backend: &Backend<F>,
    segment: &Segment<F>,
    tables: &impl Tables<F>,
) -> Result<(F::Addr, u8), Reason> {
    let key = &segment.key;
    let local = backend.flags & backend_flags::LOCAL != 0;
    Ok(match client {
        // A pod that reaches itself must not see its own address (D1).
        Client::Pod if backend.addr == key.src => {
            (tables.node_address().ok_or(Reason::NoRoute)?, 0)
        }
        Client::Pod => (key.src, 0),
        // Both ends are this node: the frontend's address is the one that is nobody's and comes back to us.
        Client::Node if tables.address(&backend.addr) & address_flags::NODE != 0 => {
            (key.dst, flow_flags::NODE_CLIENT | flow_flags::LOOP)
        }
        Client::Node => (key.src, flow_flags::NODE_CLIENT),
        // A backend of this node sees its client; answers of another node's must come back through us (B8).
        Client::Outside if local => (key.src, 0),
        Client::Outside => (
            tables
                .source_towards(&backend.addr)
                .ok_or(Reason::NoRoute)?,
            0,
        ),
    })
}

#[cfg(test)]
mod tests;
