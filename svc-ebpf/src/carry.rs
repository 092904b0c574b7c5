//! Carries a verdict out: the one place where a decision or a [`Reason`] becomes an action on a packet.

use core::marker::PhantomData;

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::programs::XdpContext;
use svc_common::echo;
use svc_common::event::Place;
use svc_common::onward;
use svc_common::parse::{Segment, remember_fragment};
use svc_common::reason::{Aside, Reason};
use svc_common::refuse::{Checksum, IcmpError, Reset, swap_ethernet};
use svc_common::rewrite::{Bytes, Rewrite, apply, apply_transport};
use svc_common::steer::{self, Decision, Route, Work};
use svc_common::table::{BOUNCE, Scope, TCP, Tables, address_flags};
use svc_common::tunnel::is_tunnelled;
use svc_common::wire::{ETH_LEN, Part, Unreachable, dst, tcp};

use crate::NEXT;
use crate::events;
use crate::hook::{Context, Skb, SkbEdit, frame, next_hop};
use crate::maps::{Mapped, World, work, xdp_reaches, xdp_redirect};
use crate::tally;
use crate::tunnel;

/// `TC_ACT_SHOT`.
const SHOT: i32 = 2;

/// Of [`send`]: the packet has got another destination, and is the stack's to route.
const TRANSLATED: i32 = NOTHING + 1;

/// Of [`hasten`]: the rest is to be done with the packet in WORK, by whoever called it: with the stack that it has given
/// back, and only there, for the verifier walks all that follows once for every caller.
const REST: i32 = NOTHING + 2;

/// Of [`crate::tunnel::leave`]: the packet is to be met like any other.
pub const NOTHING: i32 = i32::MIN;

/// Which way a packet was going when it met us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

// Each phase is a function of its own: inlined into one, they would need more than the 512 bytes of stack that BPF
// gives to the deepest chain of calls.

/// A packet from outside, which may be in a tunnel.
#[inline(always)]
pub fn node_ingress<F: Mapped>(skb: &Skb) -> i32 {
    if is_tunnelled::<F>(&skb.packet(), ETH_LEN) {
        let action = tunnel::leave::<F>(skb);
        if action != NOTHING {
            return action;
        }
    }
    meet::<F>(skb, Scope::External)
}

/// A packet that comes in with an Ethernet header: translated, then past the stack if it may. Most are not ours, and are
/// told by their destination alone.
#[inline(always)]
pub fn meet<F: Mapped>(skb: &Skb, scope: Scope) -> i32 {
    let action = if steer::is_foreign::<F>(&skb.packet(), ETH_LEN, &World(skb)) {
        NEXT
    } else {
        ingress::<F>(skb, scope)
    };
    match action {
        NEXT | TRANSLATED if onward::is_wanted::<F>(scope, &World(skb)) => {
            onward::<F>(skb, scope, action == TRANSLATED)
        }
        TRANSLATED => NEXT,
        action => action,
    }
}

/// What the stack would only route to a pod of this node is handed to it.
#[inline(never)]
fn onward<F: Mapped>(skb: &Skb, scope: Scope, translated: bool) -> i32 {
    let Some(work) = work::<F>() else {
        return NEXT;
    };
    let world = World(skb);
    match onward::onward::<F>(scope, translated, &skb.packet(), ETH_LEN, &world, work) {
        Ok(()) => hand_over(skb, work),
        Err(_) => NEXT,
    }
}

/// A packet at the end of its life is the stack's to answer.
#[inline(never)]
fn hand_over<F: Mapped>(skb: &Skb, work: &Work<F>) -> i32 {
    let Work {
        segment,
        decision,
        hop,
        ..
    } = work;
    if skb.age::<F>().is_none() {
        return NEXT;
    }
    if decision.reply {
        // Errors, which would need more, do not come here.
        let mut edit = SkbEdit::<F>(skb, PhantomData);
        if apply_transport(&mut edit, ETH_LEN, segment, &decision.to).is_none() {
            return shoot::<F>(skb, Reason::RewriteFailed);
        }
        tally::carried(skb, ETH_LEN, decision);
    }
    let packet = skb.packet();
    match packet
        .set(0, hop.dmac)
        .and_then(|()| packet.set(6, hop.smac))
    {
        Some(()) => skb.hand_over(hop.ifindex),
        None => shoot::<F>(skb, Reason::RewriteFailed),
    }
}

#[inline(always)]
fn ingress<F: Mapped>(skb: &Skb, scope: Scope) -> i32 {
    match arriving::<F>(skb) {
        REST => admit::<F>(skb, scope),
        action => action,
    }
}

#[inline(never)]
fn arriving<F: Mapped>(skb: &Skb) -> i32 {
    let Some(work) = work::<F>() else {
        return NEXT;
    };
    work.known = steer::arriving(&skb.packet(), ETH_LEN, &World(skb), work);
    hasten::<F>(skb, Way::In, work)
}

#[inline(never)]
fn admit<F: Mapped>(skb: &Skb, scope: Scope) -> i32 {
    let Some(work) = work::<F>() else {
        return NEXT;
    };
    let result = match work.known {
        Ok(true) => Ok(()),
        Ok(false) => steer::admit(scope, &World(skb), work),
        Err(aside) => Err(aside),
    };
    carry::<F>(skb, Way::In, scope, work, result)
}

#[inline(always)]
pub fn egress<F: Mapped>(skb: &Skb, local: bool) -> i32 {
    match leaving::<F>(skb, local) {
        REST => depart::<F>(skb, local),
        action => action,
    }
}

#[inline(never)]
fn leaving<F: Mapped>(skb: &Skb, local: bool) -> i32 {
    let Some(work) = work::<F>() else {
        return NEXT;
    };
    work.known = steer::leaving(local, &skb.packet(), ETH_LEN, &World(skb), work);
    hasten::<F>(skb, Way::Out, work)
}

#[inline(never)]
fn depart<F: Mapped>(skb: &Skb, local: bool) -> i32 {
    let Some(work) = work::<F>() else {
        return NEXT;
    };
    let result = match work.known {
        Ok(false) if local => steer::depart(&World(skb), work),
        Ok(_) => Ok(()),
        Err(aside) => Err(aside),
    };
    carry::<F>(skb, Way::Out, Scope::Internal, work, result)
}

/// All that most packets need: those of known flows that the stack routes, and those that are not ours.
#[inline(always)]
fn hasten<F: Mapped>(skb: &Skb, way: Way, work: &Work<F>) -> i32 {
    let Work {
        segment, decision, ..
    } = work;
    match work.known {
        Ok(true)
            if decision.route == Route::Stack
                && segment.part == Part::Whole
                && !segment.is_error() =>
        {
            let mut edit = SkbEdit::<F>(skb, PhantomData);
            match apply_transport(&mut edit, ETH_LEN, segment, &decision.to) {
                Some(()) => {
                    tally::carried(skb, ETH_LEN, decision);
                    if way == Way::In { TRANSLATED } else { NEXT }
                }
                None => shoot::<F>(skb, Reason::RewriteFailed),
            }
        }
        Err(Aside::NotOurs) => NEXT,
        _ => REST,
    }
}

/// From outside, by a device without Ethernet headers (WireGuard, IPIP, TUN): what may be ours gets room for such a
/// header, and is met like any other.
#[inline(always)]
pub fn ingress_l3<F: Mapped>(skb: &Skb) -> i32 {
    if !concerns_us::<F>(skb) {
        return NEXT;
    }
    match skb.raise() {
        Some(()) => match ingress::<F>(skb, Scope::External) {
            TRANSLATED => NEXT,
            action => action,
        },
        None => shoot::<F>(skb, Reason::RewriteFailed),
    }
}

#[inline(always)]
fn concerns_us<F: Mapped>(skb: &Skb) -> bool {
    dst::<F>(&skb.packet(), 0)
        .is_some_and(|dst| Tables::<F>::address(&World(skb), &dst) & !address_flags::PEER != 0)
}

/// To outside, by a device without Ethernet headers: answers get the frontend's address. The header could not be taken
/// off a packet that only passes, so what would have to be sent elsewhere from here stays as it is: UDP and SCTP of the
/// node's own processes, where such a device is the way to a Service's address.
#[inline(never)]
pub fn egress_l3<F: Mapped>(skb: &Skb) -> i32 {
    let Some(work) = work::<F>() else {
        return NEXT;
    };
    let result = steer::egress(false, &skb.packet(), 0, &World(skb), work);
    let Work {
        segment, decision, ..
    } = work;
    if result.is_err() || decision.route == Route::Forward {
        return NEXT;
    }
    remember_fragment(segment, &World(skb));
    match apply(
        &mut SkbEdit::<F>(skb, PhantomData),
        0,
        segment,
        &decision.to,
    ) {
        Err(reason) => shoot::<F>(skb, reason),
        Ok(()) => {
            tally::carried(skb, 0, decision);
            match decision.route {
                Route::Inject => skb.inject(skb.ifindex()),
                _ => NEXT,
            }
        }
    }
}

#[inline(always)]
fn carry<F: Mapped>(
    skb: &Skb,
    way: Way,
    scope: Scope,
    work: &Work<F>,
    result: Result<(), Aside>,
) -> i32 {
    match result {
        Ok(()) => send(skb, way, work),
        Err(Aside::NotOurs) => NEXT,
        Err(Aside::Echo) => echo(skb, way, scope, &work.segment),
        Err(Aside::Because(reason)) if reason.refuses() => {
            events::lose::<F>(skb, reason, Place::Tc);
            refuse(skb, way, &work.segment)
        }
        Err(Aside::Because(reason)) => shoot::<F>(skb, reason),
    }
}

/// Drops the packet at hand, counted.
#[inline(always)]
pub fn shoot<F: Mapped>(skb: &Skb, reason: Reason) -> i32 {
    events::lose::<F>(skb, reason, Place::Tc);
    SHOT
}

#[inline(never)]
fn send<F: Mapped>(skb: &Skb, way: Way, work: &Work<F>) -> i32 {
    let Work {
        segment, decision, ..
    } = work;
    remember_fragment(segment, &World(skb));
    if decision.route == Route::Forward {
        return forward(skb, way, segment, decision);
    }
    if decision.route == Route::Tunnel {
        return tunnel::enter(skb, segment, decision);
    }
    if let Err(reason) = change(skb, segment, &decision.to) {
        return shoot::<F>(skb, reason);
    }
    tally::carried(skb, ETH_LEN, decision);
    if decision.route == Route::Stack {
        return if way == Way::In { TRANSLATED } else { NEXT };
    }
    match swap_ethernet(&skb.packet()) {
        Some(()) => skb.inject(skb.ifindex()),
        None => shoot::<F>(skb, Reason::RewriteFailed),
    }
}

#[inline(always)]
fn forward<F: Mapped>(skb: &Skb, way: Way, segment: &Segment<F>, decision: &Decision<F>) -> i32 {
    let to = &decision.to;
    let next = next_hop::<F>(
        skb,
        &to.src,
        &to.dst,
        skb.wire_len(segment.headers(&skb.packet())),
    );
    if next.is_too_big() {
        return report(skb, way, segment, Unreachable::TooBig, next.mtu);
    }
    let Some(ifindex) = next.ifindex_or_none() else {
        return shoot::<F>(skb, Reason::NoRoute);
    };
    if way == Way::In && F::decrement_ttl(&skb.packet(), ETH_LEN).is_none() {
        return report(skb, way, segment, Unreachable::TimeExceeded, 0);
    }
    match change(skb, segment, to) {
        Ok(()) => {
            tally::carried(skb, ETH_LEN, decision);
            skb.forward(ifindex)
        }
        Err(reason) => shoot::<F>(skb, reason),
    }
}

/// Changes a packet on a way that few take.
#[inline(never)]
pub fn change<F: Mapped>(skb: &Skb, segment: &Segment<F>, to: &Rewrite<F>) -> Result<(), Reason> {
    apply(&mut SkbEdit::<F>(skb, PhantomData), ETH_LEN, segment, to)
}

/// Tells the sender that its packet was refused.
#[inline(always)]
fn refuse<F: Mapped>(skb: &Skb, way: Way, segment: &Segment<F>) -> i32 {
    if segment.key.proto == TCP as u16 {
        reset(skb, way, segment)
    } else {
        report(skb, way, segment, Unreachable::Port, 0)
    }
}

/// Turns the packet into a TCP reset. What must not be answered is dropped.
#[inline(never)]
fn reset<F: Mapped>(skb: &Skb, way: Way, segment: &Segment<F>) -> i32 {
    let Some(reset) = Reset::to(&skb.packet(), ETH_LEN, segment) else {
        return SHOT;
    };
    let checksum = skb.checksum_state(segment.l4() + tcp::CHECKSUM);
    // The device would finish the checksum where the old TCP header was.
    if checksum == Checksum::Partial && segment.l4() != ETH_LEN + F::LEN {
        return SHOT;
    }
    let written = skb
        .resize(ETH_LEN + F::LEN + Reset::LEN)
        .and_then(|()| reset.write(&skb.packet(), ETH_LEN, &segment.key, checksum));
    answer::<F>(skb, way, written)
}

/// Turns the packet into an ICMP error. What must not be answered is dropped.
///
/// A UDP packet whose checksum a device is to finish stays so marked: that device then adds to the error's unused word
/// what keeps an ICMP checksum right. With ICMPv6 it does not, where a virtual NIC hands such packets in.
#[inline(never)]
pub fn report<F: Mapped>(
    skb: &Skb,
    way: Way,
    segment: &Segment<F>,
    what: Unreachable,
    mtu: u16,
) -> i32 {
    let Some(error) = IcmpError::to(ETH_LEN, segment) else {
        return SHOT;
    };
    let written = skb
        .resize(ETH_LEN + F::LEN + error.size::<F>())
        .and_then(|()| error.write(&skb.packet(), ETH_LEN, &segment.key, what, mtu));
    answer::<F>(skb, way, written)
}

/// Turns a ping into its answer, where it gets one.
#[inline(never)]
fn echo<F: Mapped>(skb: &Skb, way: Way, scope: Scope, segment: &Segment<F>) -> i32 {
    match echo::answer(scope, &skb.packet(), ETH_LEN, segment, &World(skb)) {
        Ok(()) => answer::<F>(skb, way, Some(())),
        Err(Aside::NotOurs | Aside::Echo) => NEXT,
        Err(Aside::Because(reason)) => shoot::<F>(skb, reason),
    }
}

/// Sends what was written back to where the packet came from.
#[inline(always)]
fn answer<F: Mapped>(skb: &Skb, way: Way, written: Option<()>) -> i32 {
    match (written, way) {
        (None, _) => shoot::<F>(skb, Reason::RewriteFailed),
        (Some(()), Way::In) => skb.send(skb.ifindex()),
        (Some(()), Way::Out) => skb.inject(skb.ifindex()),
    }
}

#[inline(always)]
pub fn xdp<F: Mapped>(ctx: &XdpContext) -> u32 {
    if steer::is_foreign::<F>(&frame(ctx), ETH_LEN, &World(ctx)) {
        return XDP_PASS;
    }
    xdp_arriving::<F>(ctx);
    xdp_ours::<F>(ctx)
}

/// A function of its own for the sake of the stack, as with tc.
#[inline(never)]
fn xdp_arriving<F: Mapped>(ctx: &XdpContext) {
    if let Some(work) = work::<F>() {
        work.known = steer::arriving(&frame(ctx), ETH_LEN, &World(ctx), work);
    }
}

#[inline(never)]
fn xdp_ours<F: Mapped>(ctx: &XdpContext) -> u32 {
    let Some(work) = work::<F>() else {
        return XDP_PASS;
    };
    let result = match work.known {
        Ok(true) => Ok(()),
        Ok(false) => steer::admit(Scope::External, &World(ctx), work),
        Err(aside) => Err(aside),
    };
    // Whatever is not simply forwarded, tc finishes: it sees the same tables and finds the flow made.
    let Work {
        segment, decision, ..
    } = work;
    if result.is_err()
        || decision.route != Route::Forward
        || segment.is_error()
        || !segment.has_ports()
    {
        return XDP_PASS;
    }
    xdp_forward(ctx, segment, decision).unwrap_or(XDP_PASS)
}

/// None: nothing was changed yet, the stack shall see the packet as it came. A function of its own: what the verifier
/// knows of the stack above ends with it.
#[inline(never)]
fn xdp_forward<F: Mapped>(
    ctx: &XdpContext,
    segment: &Segment<F>,
    decision: &Decision<F>,
) -> Option<u32> {
    let (packet, to) = (frame(ctx), &decision.to);
    let len = F::total_len(&packet, ETH_LEN)?;
    let next = next_hop::<F>(ctx, &to.src, &to.dst, len);
    let back = next.ifindex == ctx.ifindex();
    if !next.is_complete() || !(back || xdp_reaches(next.ifindex)) {
        return None;
    }
    F::decrement_ttl(&packet, ETH_LEN)?;
    remember_fragment(segment, &World(ctx));
    // An ICMP error never comes here.
    if apply_transport(&mut Bytes(packet), ETH_LEN, segment, to).is_none()
        || packet.set(0, next.dmac).is_none()
        || packet.set(6, next.smac).is_none()
    {
        events::lose::<F>(ctx, Reason::RewriteFailed, Place::Xdp);
        return Some(aya_ebpf::bindings::xdp_action::XDP_DROP);
    }
    tally::count(decision, 1, len as u64);
    Some(if !back {
        xdp_redirect(next.ifindex)
    } else if xdp_reaches(next.ifindex | BOUNCE) {
        xdp_redirect(next.ifindex | BOUNCE)
    } else {
        XDP_TX
    })
}
