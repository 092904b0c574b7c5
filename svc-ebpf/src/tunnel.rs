//! Carries a packet into a tunnel to its backend's node, and out of it there (DSR).

use svc_common::parse::{Segment, remember_fragment};
use svc_common::reason::{Aside, Reason};
use svc_common::rewrite::Rewrite;
use svc_common::select::flow_hash;
use svc_common::steer::{Decision, Work};
use svc_common::table::Tables;
use svc_common::tunnel::{self, Format};
use svc_common::wire::{ETH_LEN, Unreachable};

use crate::NEXT;
use crate::carry::{self, NOTHING, Way};
use crate::hook::{Context, Skb, next_hop};
use crate::maps::{Mapped, World, work};
use crate::tally;

/// Sends the packet as it is to the backend that `to` names.
#[inline(never)]
pub fn enter<F: Mapped>(skb: &Skb, segment: &Segment<F>, decision: &Decision<F>) -> i32 {
    let to = &decision.to;
    let format = format::<F>(skb);
    let overhead = format.overhead::<F>();
    let len = skb.wire_len(segment.headers(&skb.packet())) + overhead as u16;
    let next = next_hop::<F>(skb, &to.dst, &to.dst, len);
    if next.is_too_big() {
        let mtu = next.mtu.saturating_sub(overhead as u16);
        return carry::report(skb, Way::In, segment, Unreachable::TooBig, mtu);
    }
    let Some(ifindex) = next.ifindex_or_none() else {
        return carry::shoot::<F>(skb, Reason::NoRoute);
    };
    if F::decrement_ttl(&skb.packet(), ETH_LEN).is_none() {
        return carry::report(skb, Way::In, segment, Unreachable::TimeExceeded, 0);
    }
    tally::carried(skb, ETH_LEN, decision);
    match wrap(skb, format, segment, to) {
        Ok(()) => skb.forward(ifindex),
        Err(reason) => carry::shoot::<F>(skb, reason),
    }
}

/// As the settings say. A flow from before they were changed goes on by IP in IP. A function of its own, for the sake of
/// the stack.
#[inline(never)]
fn format<F: Mapped>(skb: &Skb) -> Format {
    Tables::<F>::config(&World(skb))
        .and_then(|config| Format::of(config.flags))
        .unwrap_or(Format::Ipip)
}

/// Puts the headers in front. They come from the address that the other nodes know this one by.
#[inline(never)]
fn wrap<F: Mapped>(
    skb: &Skb,
    format: Format,
    segment: &Segment<F>,
    to: &Rewrite<F>,
) -> Result<(), Reason> {
    let src = Tables::<F>::node_address(&World(skb)).ok_or(Reason::NoRoute)?;
    let len = (skb.len() as usize - ETH_LEN) as u16;
    skb.push(format.overhead::<F>(), F::VERSION, format)
        .and_then(|()| {
            let ends = (&src, &to.dst);
            format.write::<F>(
                &skb.packet(),
                ETH_LEN,
                len,
                ends,
                to.dport,
                flow_hash(&segment.key),
            )
        })
        .ok_or(Reason::RewriteFailed)
}

/// Takes a packet from outside that looks tunnelled to its backend; [`NOTHING`] if it is not one of ours.
#[inline(never)]
pub fn leave<F: Mapped>(skb: &Skb) -> i32 {
    skb.pull_more();
    let Some(work) = work::<F>() else {
        return NOTHING;
    };
    let mut overhead = 0;
    let arrived = tunnel::arrive(&skb.packet(), ETH_LEN, &World(skb), work, &mut overhead);
    match arrived {
        Ok(()) => match unwrap(skb, overhead, work) {
            Ok(()) => NEXT,
            Err(reason) => carry::shoot::<F>(skb, reason),
        },
        Err(Aside::NotOurs | Aside::Echo) => NOTHING,
        // Its client is not told: this node may only know less than the first one, for a moment.
        Err(Aside::Because(reason)) => carry::shoot::<F>(skb, reason),
    }
}

/// Takes the headers off, and lets the packet go on to its backend.
#[inline(always)]
fn unwrap<F: Mapped>(skb: &Skb, overhead: usize, work: &Work<F>) -> Result<(), Reason> {
    let Work {
        segment, decision, ..
    } = work;
    remember_fragment(segment, &World(skb));
    skb.pop(overhead).ok_or(Reason::RewriteFailed)?;
    carry::change(skb, segment, &decision.to)
}
