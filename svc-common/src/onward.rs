//! Past the stack (`--host-routing`): what would only be routed to a pod of this node is handed to it at once.
//!
//! The pod's own hook ([`crate::steer::egress`] at its device) is passed by too, so its work on answers is done here.

use crate::decision::Route;
use crate::family::Family;
use crate::flow::{self, Known};
use crate::packet::Packet;
use crate::parse;
use crate::reason::{Aside, Reason};
use crate::steer::Work;
use crate::table::{Scope, Tables, node_flags};
use crate::wire::{self, Part};

/// The next hop of a packet: a device, and the hardware addresses of its two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hop {
    pub ifindex: u32,
    pub dmac: [u8; 6],
    pub smac: [u8; 6],
}

/// Whether any packet may go past the stack.
#[inline(always)]
pub fn is_wanted<F: Family>(scope: Scope, tables: &impl Tables<F>) -> bool {
    let wanted = match scope {
        Scope::Internal => node_flags::PEER_FROM_PODS,
        Scope::External => node_flags::PEER_FROM_OUTSIDE,
    };
    tables.config().is_some_and(|c| c.flags & wanted != 0)
}

/// For a packet that [`crate::steer::ingress`] leaves to the stack, as it is or `translated`. Ok: `work.hop` is the pod
/// that it is for, and an answer (`work.decision.reply`) is still to be rewritten.
#[inline(always)]
pub fn onward<F: Family>(
    scope: Scope,
    translated: bool,
    packet: &Packet,
    l3: usize,
    tables: &impl Tables<F>,
    work: &mut Work<F>,
) -> Result<(), Aside> {
    if !is_wanted(scope, tables) {
        return Err(Aside::NotOurs);
    }
    let src = wire::src::<F>(packet, l3).ok_or(Aside::NotOurs)?;
    let dst = wire::dst::<F>(packet, l3).ok_or(Aside::NotOurs)?;
    if !translated {
        parse::segment(packet, l3, tables, &mut work.segment).map_err(|_| Aside::NotOurs)?;
    }
    // The parts of a datagram must all go one way, or the stack would wait for the rest; errors are its business.
    if work.segment.part != Part::Whole || work.segment.is_error() {
        return Err(Aside::NotOurs);
    }
    if !tables.peer(&src, &dst, work.segment.headers(packet), &mut work.hop) {
        return Err(Aside::NotOurs);
    }
    work.decision.reply = false;
    if !translated {
        match flow::follow_apart(&work.segment, tables, &mut work.decision) {
            Known::Foreign => return Err(Aside::NotOurs),
            Known::Held => return Err(Reason::HandedOver.into()),
            Known::Yes if work.decision.reply => (),
            Known::Yes | Known::Gone | Known::No => work.decision.reply = false,
        }
        if work.decision.reply && work.decision.route != Route::Stack {
            return Err(Aside::NotOurs);
        }
    }
    work.decision.route = Route::Peer;
    Ok(())
}

#[cfg(test)]
mod tests;
