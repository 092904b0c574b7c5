//! What the backend's node makes of a packet that arrives in a tunnel: the first node has chosen the backend, here the
//! flow is opened with it.

use super::{Format, Outer, port};
use crate::decision::{Decision, Route};
use crate::family::Family;
use crate::flow::{self, Known};
use crate::packet::Packet;
use crate::parse::{self, Segment};
use crate::reason::{Aside, Reason};
use crate::steer::Work;
use crate::table::{
    BackendKey, FrontendKey, Scope, Tables, address_flags, backend_state, frontend_flags,
};
use crate::wire;

/// A packet from outside that looks like one in a tunnel. Ok: `work` says what to do with what is in it, once `overhead`
/// bytes have been taken off. Not ours is all that other tunnels carry, whatever they are of.
#[inline(always)]
pub fn arrive<F: Outer>(
    packet: &Packet,
    l3: usize,
    tables: &impl Tables<F>,
    work: &mut Work<F>,
    overhead: &mut usize,
) -> Result<(), Aside> {
    let config = tables.config();
    if config.is_none_or(|config| Format::of(config.flags).is_none()) {
        return Err(Aside::NotOurs);
    }
    let mut backend = BackendKey {
        service: 0,
        addr: wire::dst::<F>(packet, l3).ok_or(Aside::NotOurs)?,
        port: port::<F>(packet, l3).ok_or(Aside::NotOurs)?,
        _pad: 0,
    };
    // Others may speak IP in IP to this node, and carry what is for a Service: a load balancer in front of the cluster.
    let src = wire::src::<F>(packet, l3).ok_or(Aside::NotOurs)?;
    if tables.address(&src) & (address_flags::PEER | address_flags::NODE) == 0 {
        return Err(Aside::NotOurs);
    }
    *overhead = super::overhead::<F>(packet, l3).ok_or(Aside::NotOurs)?;
    let inner = l3 + *overhead;
    let dst = wire::dst::<F>(packet, inner).ok_or(Aside::NotOurs)?;
    let address = tables.address(&dst);
    if address == 0 {
        return Err(Aside::NotOurs);
    }
    if let Err(aside) = parse::segment(packet, inner, tables, &mut work.segment) {
        // What is for a node may be another tunnel's.
        let nodes = address_flags::NODE | address_flags::PEER;
        return Err(if address & nodes != 0 {
            Aside::NotOurs
        } else {
            aside
        });
    }
    if !follow(&work.segment, &backend.addr, tables, &mut work.decision) {
        open(
            address,
            &work.segment,
            &mut backend,
            tables,
            &mut work.decision,
        )?;
    }
    work.segment.move_up(*overhead);
    Ok(())
}

/// Whether the flow is known and leads there. Its own record says to which port: segments that a device has cut out of
/// one packet may have IPv4 identifications that count up from that port.
#[inline(always)]
fn follow<F: Family>(
    segment: &Segment<F>,
    backend: &F::Addr,
    tables: &impl Tables<F>,
    decision: &mut Decision<F>,
) -> bool {
    flow::follow_apart(segment, tables, decision) == Known::Yes
        && !decision.reply
        && decision.route == Route::Stack
        && decision.to.dst == *backend
}

/// Opens the flow with the backend that the first node has chosen. The client's range was looked at there (C11).
#[inline(always)]
fn open<F: Family>(
    address: u32,
    segment: &Segment<F>,
    backend: &mut BackendKey<F>,
    tables: &impl Tables<F>,
    decision: &mut Decision<F>,
) -> Result<(), Aside> {
    backend.service = service(address, segment, tables).ok_or(Aside::NotOurs)?;
    let listed = tables.backend(backend).ok_or(Reason::BadTunnel)?;
    // Its node is further on.
    if listed.flags & backend_state::LOCAL == 0 {
        return Err(Aside::NotOurs);
    }
    // An error about a flow that is not known cannot be translated.
    if segment.is_error() {
        return Err(Reason::BadTunnel.into());
    }
    let key = &segment.key;
    let opened = tables.scratch(|flow| {
        flow.epoch = tables.epoch();
        flow.begin(key, backend, tables.now());
        flow.reply.dst = key.src;
        flow.flags = 0;
        flow::open(flow, tables)?;
        flow.decide(false, decision);
        Ok(())
    });
    opened
        .unwrap_or(Err(Reason::BadSlot))
        .map_err(Aside::Because)
}

/// The service port that the client has asked for. The node port of another node is one of this node, too.
#[inline(always)]
fn service<F: Family>(address: u32, segment: &Segment<F>, tables: &impl Tables<F>) -> Option<u32> {
    let mut key = FrontendKey {
        addr: segment.key.dst,
        port: segment.key.dport,
        proto: segment.key.proto as u8,
        scope: Scope::External as u8,
    };
    if let Some(frontend) = tables.frontend(&key) {
        return Some(frontend.service);
    }
    if address & address_flags::PEER == 0 {
        return None;
    }
    key.addr = tables.node_address()?;
    tables
        .frontend(&key)
        .filter(|frontend| frontend.flags & frontend_flags::NODE_PORT != 0)
        .map(|frontend| frontend.service)
}
