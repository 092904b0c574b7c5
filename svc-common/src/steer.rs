//! What happens to a packet: the Service rules, read aloud.
//!
//! A packet is translated at the client's edge. On its way in ([`ingress`]) a packet to a frontend gets a backend as its
//! destination, and an answer to an address of this node gets its client back. On its way out ([`egress`]) an answer
//! gets the frontend as its source, and a packet of the node's own processes gets its backend.

use crate::affinity;
pub use crate::decision::{Decision, Route};
use crate::family::Family;
use crate::flow::{self, Known};
use crate::onward::Hop;
use crate::packet::Packet;
use crate::parse::{self, Segment};
use crate::reason::{Aside, Reason};
use crate::rewrite::Rewrite;
use crate::select::{choose, flow_hash, in_range, number};
use crate::table::{
    Backend, CLUSTER, Flow, FrontendKey, Scope, Tables, address_flags, backend_flags,
    backend_state, flow_flags, frontend_flags, node_flags,
};
use crate::wire::{self, tcp};

/// Who sends a packet that opens a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    Pod,
    Node,
    /// It came in by one of the node's outside devices.
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
    /// What its flow has said: whether there is one, or why not to look further.
    pub known: Result<bool, Aside>,
    /// Of [`Route::Peer`].
    pub hop: Hop,
}

impl<F: Family> Work<F> {
    pub const EMPTY: Self = Self {
        segment: Segment::EMPTY,
        decision: Decision {
            to: Rewrite::EMPTY,
            route: Route::Stack,
            reply: false,
            service: 0,
        },
        known: Ok(false),
        hop: Hop {
            ifindex: 0,
            dmac: [0; 6],
            smac: [0; 6],
        },
    };
}

/// Whether a packet that comes in is told to be none of ours by its destination alone. Most that are not, are.
#[inline(always)]
pub fn is_foreign<F: Family>(packet: &Packet, l3: usize, tables: &impl Tables<F>) -> bool {
    wire::dst::<F>(packet, l3).is_none_or(|dst| !tables.may_have_address(&dst))
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
    if is_foreign(packet, l3, tables) {
        return Err(Aside::NotOurs);
    }
    if arriving(packet, l3, tables, work)? {
        return Ok(());
    }
    admit(scope, tables, work)
}

/// The first half of that. The flow is asked before the address, because most packets have
/// one. Ok(false): this one has none.
#[inline(always)]
pub fn arriving<F: Family>(
    packet: &Packet,
    l3: usize,
    tables: &impl Tables<F>,
    work: &mut Work<F>,
) -> Result<bool, Aside> {
    if let Err(aside) = parse::segment(packet, l3, tables, &mut work.segment) {
        return unreadable(packet, l3, tables, aside).map(|()| false);
    }
    // Also where the port turns out to be somebody else's (C8): the later fragments must pass like the first.
    parse::remember_fragment(&work.segment, tables);
    match flow::follow(&work.segment, tables, &mut work.decision) {
        Known::No => Ok(false),
        Known::Yes if is_for_the_way_out(packet, l3, tables, &work.decision) => Err(Aside::NotOurs),
        Known::Yes => Ok(true),
        Known::Foreign => Err(Aside::NotOurs),
        Known::Held => Err(Reason::HandedOver.into()),
        Known::Gone => Err(Reason::BackendGone.into()),
    }
}

/// Whether an answer that came in is only on its way to where it goes out, where it gets the Service's address: before,
/// the stack would take it for a martian. It goes to the client's own address, which is in ADDRESSES only if the node is
/// the client, but may share a bit with one that is, or be a peer's.
#[inline(never)]
fn is_for_the_way_out<F: Family>(
    packet: &Packet,
    l3: usize,
    tables: &impl Tables<F>,
    decision: &Decision<F>,
) -> bool {
    decision.reply
        && decision.route == Route::Stack
        && wire::dst::<F>(packet, l3)
            .is_none_or(|dst| tables.address(&dst) & !address_flags::PEER == 0)
}

/// The other half: a flow for the packet in `work`, which has none.
#[inline(always)]
pub fn admit<F: Family>(
    scope: Scope,
    tables: &impl Tables<F>,
    work: &mut Work<F>,
) -> Result<(), Aside> {
    let client = match scope {
        Scope::Internal => Client::Pod,
        Scope::External => Client::Outside,
    };
    open(client, &work.segment, tables, &mut work.decision)
}

/// The node's own unreadable packets, and pings, are for its stack to judge.
#[inline(never)]
fn unreadable<F: Family>(
    packet: &Packet,
    l3: usize,
    tables: &impl Tables<F>,
    aside: Aside,
) -> Result<(), Aside> {
    let dst = wire::dst::<F>(packet, l3).ok_or(Aside::NotOurs)?;
    let address = tables.address(&dst) & !address_flags::PEER;
    if address == 0 || address & address_flags::NODE != 0 {
        return Err(Aside::NotOurs);
    }
    Err(aside)
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
    if leaving(local, packet, l3, tables, work)? {
        return Ok(());
    }
    depart(tables, work)
}

/// The first half of it. Ok(false): the packet is of a process of this node, and has no flow.
#[inline(always)]
pub fn leaving<F: Family>(
    local: bool,
    packet: &Packet,
    l3: usize,
    tables: &impl Tables<F>,
    work: &mut Work<F>,
) -> Result<bool, Aside> {
    // Nothing here is ours by its address alone, so what cannot be read passes.
    if let Err(aside) = parse::segment(packet, l3, tables, &mut work.segment) {
        return Err(if local && aside == Aside::Echo {
            aside
        } else {
            Aside::NotOurs
        });
    }
    match flow::follow(&work.segment, tables, &mut work.decision) {
        Known::Yes if work.decision.reply || local => Ok(true),
        Known::Gone if local => Err(Reason::BackendGone.into()),
        Known::No if local => Ok(false),
        Known::Held => Err(Reason::HandedOver.into()),
        Known::Yes | Known::Foreign | Known::Gone | Known::No => Err(Aside::NotOurs),
    }
}

/// The other half.
#[inline(always)]
pub fn depart<F: Family>(tables: &impl Tables<F>, work: &mut Work<F>) -> Result<(), Aside> {
    open(Client::Node, &work.segment, tables, &mut work.decision)
}

/// A packet of no known flow.
#[inline(never)]
fn open<F: Family>(
    client: Client,
    segment: &Segment<F>,
    tables: &impl Tables<F>,
    decision: &mut Decision<F>,
) -> Result<(), Aside> {
    let ours = match client {
        Client::Node => address_flags::CLUSTER_IP | address_flags::EXTERNAL,
        Client::Pod | Client::Outside => !address_flags::PEER,
    };
    let address = tables.address(&segment.key.dst);
    if address & ours == 0 {
        return Err(Aside::NotOurs);
    }
    // An error about a flow that we do not know is for the stack, and a reset ends what is not there.
    if segment.is_error() || segment.tcp_flags & tcp::RST != 0 {
        return Err(Aside::NotOurs);
    }
    if is_left_alone(segment, tables) {
        return Err(Aside::NotOurs);
    }
    let opened = tables.scratch(|flow| {
        assign(client, address, segment, tables, flow)?;
        flow::open(flow, tables)?;
        flow.decide(false, decision);
        // A connection whose entry was lost was counted when it began.
        if segment.opens() {
            tables.opened(flow);
            if flow.flags & flow_flags::COUNTED != 0 {
                flow::count(flow, 1, tables);
            }
        }
        Ok(())
    });
    opened.unwrap_or(Err(Reason::BadSlot.into()))
}

/// Fills in a new flow, up to the port that its backend will see: the frontend, its choice, and who the client will be.
#[inline(never)]
fn assign<F: Family>(
    client: Client,
    address: u32,
    segment: &Segment<F>,
    tables: &impl Tables<F>,
    flow: &mut Flow<F>,
) -> Result<(), Aside> {
    let key = &segment.key;
    let scope = scope(client, &key.src, tables);
    let frontend = FrontendKey {
        addr: key.dst,
        port: key.dport,
        proto: key.proto as u8,
        scope: scope as u8,
    };
    let Some(frontend) = tables.frontend(&frontend) else {
        return Err(unmatched(scope, address, tables));
    };
    if client == Client::Outside && is_forged(&key.src, tables) {
        return Err(Aside::NotOurs);
    }
    let n = || {
        if frontend.flags & frontend_flags::MAGLEV != 0 {
            flow_hash(key)
        } else {
            number(&frontend, tables)
        }
    };
    // Before the choice: a backend that stops serving from here on is noticed by the next packet.
    flow.epoch = tables.epoch();
    let mut backend = Backend::EMPTY;
    choose(&frontend, &key.src, n, tables, &mut backend)?;
    (flow.reply.dst, flow.flags) = source(client, address, &backend, segment, tables)?;
    if frontend.flags & frontend_flags::LEAST_CONNECTIONS != 0 {
        flow.flags |= flow_flags::COUNTED;
    }
    if frontend.affinity != 0 {
        affinity::remember(frontend.service, &key.src, &backend, tables);
    }
    flow.begin(key, &backend.key(frontend.service), tables.now());
    if client == Client::Outside {
        tunnel(address, flow, tables);
    }
    Ok(())
}

/// Which frontends a client is shown. A pod of another node asks as a pod of this one does, where `--cluster-cidr` tells
/// it from the rest of the world (B7).
#[inline(always)]
pub fn scope<F: Family>(client: Client, addr: &F::Addr, tables: &impl Tables<F>) -> Scope {
    if client == Client::Outside
        && has(tables, node_flags::CLUSTER_CIDR)
        && in_range(CLUSTER, addr, tables)
    {
        Scope::Internal
    } else {
        client.scope()
    }
}

/// Whether nobody outside can have such an address: it is this node's, or a ClusterIP. The stack takes it for a martian.
#[inline(never)]
fn is_forged<F: Family>(src: &F::Addr, tables: &impl Tables<F>) -> bool {
    tables.address(src) & (address_flags::NODE | address_flags::CLUSTER_IP) != 0
}

/// Whether the node is so configured.
#[inline(always)]
fn has<F: Family>(tables: &impl Tables<F>, flag: u32) -> bool {
    tables.config().is_some_and(|c| c.flags & flag != 0)
}

/// Whether this may be a packet of another proxy's connection (`--takeover`). A function of its own: its branches would
/// double what the verifier has to follow.
#[inline(never)]
fn is_left_alone<F: Family>(segment: &Segment<F>, tables: &impl Tables<F>) -> bool {
    !segment.opens() && has(tables, node_flags::TAKEOVER)
}

/// No frontend has this address and port.
#[inline(always)]
fn unmatched<F: Family>(scope: Scope, address: u32, tables: &impl Tables<F>) -> Aside {
    // The other ports of a node, LoadBalancer or external address are not ours (C8).
    if address & address_flags::CLUSTER_IP == 0 || address & address_flags::NODE != 0 {
        return Aside::NotOurs;
    }
    match scope {
        Scope::External if address & address_flags::EXTERNAL != 0 => Aside::NotOurs,
        Scope::External if !has(tables, node_flags::EXTERNAL_CLUSTER_IP) => {
            Aside::Because(Reason::ClusterIpFromOutside)
        }
        Scope::Internal | Scope::External => Aside::Because(Reason::UndefinedPort),
    }
}

/// Whose source address the backend of a new flow will see, and the flow's flags.
#[inline(always)]
fn source<F: Family>(
    client: Client,
    address: u32,
    backend: &Backend<F>,
    segment: &Segment<F>,
    tables: &impl Tables<F>,
) -> Result<(F::Addr, u8), Reason> {
    let key = &segment.key;
    let local = backend.flags & backend_flags::LOCAL != 0;
    let is_node = || tables.address(&backend.addr) & address_flags::NODE != 0;
    if client == Client::Node {
        // Both ends are this node: the frontend's address is the one that is nobody's and comes back to us.
        return Ok(if is_node() {
            (key.dst, flow_flags::NODE_CLIENT | flow_flags::LOOP)
        } else {
            (key.src, flow_flags::NODE_CLIENT)
        });
    }
    // A pod that reaches itself must not see its own address (D1).
    let itself = client == Client::Pod && backend.addr == key.src;
    // Answers of another node's backend must come back through us (B8, D2). An endpoint at an address of this node is
    // here, even where its slice does not name the node.
    let elsewhere = client == Client::Outside && !local && !is_node();
    // What the node itself serves does not leave it, and needs nobody else's address.
    let masquerade_all = || {
        address & address_flags::CLUSTER_IP != 0
            && has(tables, node_flags::MASQUERADE_ALL)
            && !is_node()
    };
    let nat = if !itself && !elsewhere && !masquerade_all() {
        Some(key.src)
    } else if itself || local {
        tables.node_address()
    } else {
        tables.source_towards(&backend.addr)
    };
    Ok((nat.ok_or(Reason::NoRoute)?, 0))
}

/// Lets a backend on another node see the client after all, if nodes take tunnels and answer by themselves (D12). Not
/// itself, and no other node: that may be the backend's own, which does not take packets from itself.
#[inline(never)]
fn tunnel<F: Family>(address: u32, flow: &mut Flow<F>, tables: &impl Tables<F>) {
    let node = address_flags::NODE | address_flags::PEER;
    if !has(tables, node_flags::DSR_IPIP | node_flags::DSR_GENEVE)
        || flow.reply.dst == flow.forward.src
        || (address & address_flags::CLUSTER_IP != 0 && has(tables, node_flags::MASQUERADE_ALL))
    {
        return;
    }
    let state = tables.backend(&flow.backend_key());
    if state.is_some_and(|state| state.flags & backend_state::REMOTE != 0)
        && flow.forward.src != flow.reply.src
        && tables.address(&flow.forward.src) & node == 0
        && scope(Client::Outside, &flow.forward.src, tables) == Scope::External
    {
        flow.reply.dst = flow.forward.src;
        flow.flags |= flow_flags::TUNNEL;
    }
}

#[cfg(test)]
mod tests;
