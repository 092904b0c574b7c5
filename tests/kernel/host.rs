//! What svc-ebpf's shell does around the packet line, done on the host. Route lookups are answered from what
//! [`crate::network`] has set up.

use svc_common::echo;
use svc_common::family::Family;
use svc_common::memory::Memory;
use svc_common::onward;
use svc_common::packet::Packet;
use svc_common::parse::{Segment, remember_fragment};
use svc_common::reason::{Aside, Reason};
use svc_common::refuse::{Checksum, IcmpError, Reset, swap_ethernet};
use svc_common::rewrite::{Bytes, apply};
use svc_common::select::flow_hash;
use svc_common::steer::{self, Route, Work};
use svc_common::table::{Scope, TCP};
use svc_common::tunnel::{self, Format, Outer, is_tunnelled};
use svc_common::wire::{ETH_LEN, Unreachable};

use crate::network::{Device, MTU, NEIGHBOUR, Network};
use crate::world::addr;

/// The programs that see packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    PodIngress,
    PodEgress,
    NodeIngress,
    /// The node's own packet.
    NodeEgress,
    /// A packet that came in by a device and goes out by the NIC.
    NodeEgressForwarded,
    NodeXdp,
}

impl Program {
    pub(crate) const ALL: [Self; 6] = [
        Self::PodIngress,
        Self::PodEgress,
        Self::NodeIngress,
        Self::NodeEgress,
        Self::NodeEgressForwarded,
        Self::NodeXdp,
    ];

    /// Its name in the object.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::PodIngress => "pod_ingress",
            Self::PodEgress => "pod_egress",
            Self::NodeIngress => "node_ingress",
            Self::NodeEgress | Self::NodeEgressForwarded => "node_egress",
            Self::NodeXdp => "node_xdp",
        }
    }

    fn is_egress(self) -> bool {
        matches!(
            self,
            Self::PodEgress | Self::NodeEgress | Self::NodeEgressForwarded
        )
    }
}

/// What a program returns.
pub(crate) mod action {
    pub(crate) const NEXT: u32 = u32::MAX;
    pub(crate) const SHOT: u32 = 2;
    pub(crate) const REDIRECT: u32 = 7;
    pub(crate) const XDP_DROP: u32 = 1;
    pub(crate) const XDP_PASS: u32 = 2;
    pub(crate) const XDP_TX: u32 = 3;
    pub(crate) const XDP_REDIRECT: u32 = 4;
}
use action::*;

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) action: u32,
    pub(crate) frame: Vec<u8>,
    pub(crate) reason: Option<Reason>,
}

enum Hop {
    Complete(Device),
    NoNeighbour,
    Nowhere,
}

fn next_hop<F: Family>(network: &Network, dst: &F::Addr) -> Hop {
    let is = |net| (0..=255).any(|host| addr::<F>(net, host) == *dst);
    let own = *dst == addr::<F>(0, 1) || *dst == addr::<F>(3, 1);
    if own {
        Hop::Nowhere
    } else if is(2) || is(9) || *dst == addr::<F>(0, 2) {
        Hop::Complete(network.nic)
    } else if is(4) || *dst == addr::<F>(3, 2) {
        Hop::Complete(network.second_nic)
    } else if (1..10).any(|host| addr::<F>(1, host) == *dst) {
        Hop::Complete(network.pods)
    } else if is(5) || is(0) || is(1) || is(3) {
        Hop::NoNeighbour
    } else {
        Hop::Nowhere
    }
}

/// Runs `program` on a frame.
pub(crate) fn run<F: Outer>(
    program: Program,
    network: &Network,
    tables: &Memory<F>,
    frame: &[u8],
) -> Verdict {
    let mut verdict = Verdict {
        action: NEXT,
        frame: frame.to_vec(),
        reason: None,
    };
    if program == Program::NodeXdp {
        verdict.action = XDP_PASS;
        if frame.get(12..14) == Some(&F::ETHERTYPE.to_ne_bytes()) {
            xdp(network, tables, &mut verdict);
        }
        return verdict;
    }
    if frame.get(12..14) != Some(&F::ETHERTYPE.to_ne_bytes()) {
        return verdict;
    }
    if program == Program::NodeIngress
        && is_tunnelled::<F>(&Packet::of(&mut verdict.frame), ETH_LEN)
        && leave(tables, &mut verdict)
    {
        return verdict;
    }
    let mut work = Work::<F>::EMPTY;
    let packet = Packet::of(&mut verdict.frame);
    let steered = match program {
        Program::PodIngress => steer::ingress(Scope::Internal, &packet, ETH_LEN, tables, &mut work),
        Program::NodeIngress => {
            steer::ingress(Scope::External, &packet, ETH_LEN, tables, &mut work)
        }
        Program::NodeEgress => steer::egress(true, &packet, ETH_LEN, tables, &mut work),
        Program::PodEgress | Program::NodeEgressForwarded => {
            steer::egress(false, &packet, ETH_LEN, tables, &mut work)
        }
        Program::NodeXdp => unreachable!("handled above"),
    };
    let scope = match program {
        Program::PodIngress => Some(Scope::Internal),
        Program::NodeIngress => Some(Scope::External),
        _ => None,
    };
    match steered {
        Ok(()) => {
            send(program, network, tables, &work, &mut verdict);
            if let (NEXT, Some(scope)) = (verdict.action, scope) {
                onward(scope, true, tables, &mut work, &mut verdict);
            }
        }
        Err(Aside::NotOurs) => {
            if let Some(scope) = scope {
                onward(scope, false, tables, &mut work, &mut verdict);
            }
        }
        Err(Aside::Echo) => {
            let scope = if program == Program::NodeIngress {
                Scope::External
            } else {
                Scope::Internal
            };
            let packet = Packet::of(&mut verdict.frame);
            match echo::answer(scope, &packet, ETH_LEN, &work.segment, tables) {
                Ok(()) => verdict.action = REDIRECT,
                Err(Aside::NotOurs | Aside::Echo) => (),
                Err(Aside::Because(reason)) => {
                    verdict.reason = Some(reason);
                    verdict.action = SHOT;
                }
            }
        }
        Err(Aside::Because(reason)) => {
            verdict.reason = Some(reason);
            verdict.action = SHOT;
            if reason.refuses() && work.segment.key.proto == u16::from(TCP) {
                reset(&work.segment, &mut verdict);
            } else if reason.refuses() {
                report(&work.segment, Unreachable::Port, 0, &mut verdict);
            }
        }
    }
    verdict
}

/// Past the stack.
fn onward<F: Outer>(
    scope: Scope,
    translated: bool,
    tables: &Memory<F>,
    work: &mut Work<F>,
    verdict: &mut Verdict,
) {
    let packet = Packet::of(&mut verdict.frame);
    let past = onward::onward(scope, translated, &packet, ETH_LEN, tables, work);
    if past.is_err() || F::decrement_ttl(&packet, ETH_LEN).is_none() {
        return;
    }
    if work.decision.reply {
        let applied = apply(
            &mut Bytes(packet),
            ETH_LEN,
            &work.segment,
            &work.decision.to,
        );
        if let Err(reason) = applied {
            verdict.reason = Some(reason);
            verdict.action = SHOT;
            return;
        }
    }
    verdict.frame[..6].copy_from_slice(&work.hop.dmac);
    verdict.frame[6..12].copy_from_slice(&work.hop.smac);
    verdict.action = REDIRECT;
}

fn send<F: Outer>(
    program: Program,
    network: &Network,
    tables: &Memory<F>,
    work: &Work<F>,
    verdict: &mut Verdict,
) {
    let Work {
        segment, decision, ..
    } = work;
    remember_fragment(segment, tables);
    let len = verdict.frame.len();
    let packet = Packet::of(&mut verdict.frame);
    verdict.action = SHOT;
    if decision.route == Route::Tunnel {
        return enter(network, tables, work, verdict);
    }
    if decision.route == Route::Forward {
        match next_hop::<F>(network, &decision.to.dst) {
            Hop::Nowhere => return verdict.reason = Some(Reason::NoRoute),
            _ if len > ETH_LEN + usize::from(MTU) => {
                return report(segment, Unreachable::TooBig, MTU, verdict);
            }
            Hop::Complete(_) | Hop::NoNeighbour => (),
        }
        if !program.is_egress() && F::decrement_ttl(&packet, ETH_LEN).is_none() {
            return report(segment, Unreachable::TimeExceeded, 0, verdict);
        }
    }
    if let Err(reason) = apply(&mut Bytes(packet), ETH_LEN, segment, &decision.to) {
        return verdict.reason = Some(reason);
    }
    verdict.action = match decision.route {
        Route::Stack => NEXT,
        Route::Forward | Route::Tunnel | Route::Peer => REDIRECT,
        Route::Inject => {
            swap_ethernet(&packet).expect("it has one");
            REDIRECT
        }
    };
}

/// Into a tunnel.
fn enter<F: Outer>(network: &Network, tables: &Memory<F>, work: &Work<F>, verdict: &mut Verdict) {
    let Work {
        segment, decision, ..
    } = work;
    let config = tables.config.expect("configured");
    let format = Format::of(config.flags).expect("a tunnel's format is configured");
    let overhead = format.overhead::<F>();
    let len = verdict.frame.len() - ETH_LEN;
    if matches!(next_hop::<F>(network, &decision.to.dst), Hop::Nowhere) {
        return verdict.reason = Some(Reason::NoRoute);
    }
    if len + overhead > usize::from(MTU) {
        let mtu = MTU - overhead as u16;
        return report(segment, Unreachable::TooBig, mtu, verdict);
    }
    if F::decrement_ttl(&Packet::of(&mut verdict.frame), ETH_LEN).is_none() {
        return report(segment, Unreachable::TimeExceeded, 0, verdict);
    }
    verdict
        .frame
        .splice(ETH_LEN..ETH_LEN, std::iter::repeat_n(0, overhead));
    let ends = (&tables.node_address.expect("known"), &decision.to.dst);
    let (port, hash) = (decision.to.dport, flow_hash(&segment.key));
    let packet = Packet::of(&mut verdict.frame);
    format
        .write::<F>(&packet, ETH_LEN, len as u16, ends, port, hash)
        .expect("it has room");
    verdict.action = REDIRECT;
}

/// Out of a tunnel. False: it is not one of ours.
fn leave<F: Outer>(tables: &Memory<F>, verdict: &mut Verdict) -> bool {
    let (mut work, mut overhead) = (Work::<F>::EMPTY, 0);
    let packet = Packet::of(&mut verdict.frame);
    let arrived = tunnel::arrive(&packet, ETH_LEN, tables, &mut work, &mut overhead);
    verdict.reason = match arrived {
        Err(Aside::NotOurs | Aside::Echo) => return false,
        Err(Aside::Because(reason)) => Some(reason),
        Ok(()) => {
            remember_fragment(&work.segment, tables);
            verdict.frame.drain(ETH_LEN..ETH_LEN + overhead);
            let packet = Packet::of(&mut verdict.frame);
            apply(
                &mut Bytes(packet),
                ETH_LEN,
                &work.segment,
                &work.decision.to,
            )
            .err()
        }
    };
    verdict.action = if verdict.reason.is_some() { SHOT } else { NEXT };
    true
}

fn reset<F: Family>(segment: &Segment<F>, verdict: &mut Verdict) {
    let Some(reset) = Reset::to(&Packet::of(&mut verdict.frame), ETH_LEN, segment) else {
        return;
    };
    verdict.frame.resize(ETH_LEN + F::LEN + Reset::LEN, 0);
    let packet = Packet::of(&mut verdict.frame);
    reset
        .write::<F>(&packet, ETH_LEN, &segment.key, Checksum::Complete)
        .expect("it has room");
    verdict.action = REDIRECT;
}

fn report<F: Family>(segment: &Segment<F>, what: Unreachable, mtu: u16, verdict: &mut Verdict) {
    let Some(error) = IcmpError::to(ETH_LEN, segment) else {
        return;
    };
    verdict
        .frame
        .resize(ETH_LEN + F::LEN + error.size::<F>(), 0);
    let packet = Packet::of(&mut verdict.frame);
    error
        .write::<F>(&packet, ETH_LEN, &segment.key, what, mtu)
        .expect("it has room");
    verdict.action = REDIRECT;
}

fn xdp<F: Family>(network: &Network, tables: &Memory<F>, verdict: &mut Verdict) {
    let packet = Packet::of(&mut verdict.frame);
    let mut work = Work::<F>::EMPTY;
    let steered = steer::ingress(Scope::External, &packet, ETH_LEN, tables, &mut work);
    let Work {
        segment, decision, ..
    } = &work;
    if steered.is_err()
        || decision.route != Route::Forward
        || segment.is_error()
        || !segment.has_ports()
    {
        return;
    }
    let Hop::Complete(device) = next_hop::<F>(network, &decision.to.dst) else {
        return;
    };
    let too_big = F::total_len(&packet, ETH_LEN).expect("parsed") > MTU;
    if too_big || device == network.pods || F::decrement_ttl(&packet, ETH_LEN).is_none() {
        return;
    }
    remember_fragment(segment, tables);
    if apply(&mut Bytes(packet), ETH_LEN, segment, &decision.to).is_err() {
        verdict.action = XDP_DROP;
        verdict.reason = Some(Reason::RewriteFailed);
        return;
    }
    verdict.frame[..6].copy_from_slice(&NEIGHBOUR);
    verdict.frame[6..12].copy_from_slice(&device.mac);
    verdict.action = if device == network.nic {
        XDP_TX
    } else {
        XDP_REDIRECT
    };
}
