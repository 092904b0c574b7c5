//! The programs. Each is a shell: take the context, ask `svc-common`, carry the verdict out.
#![no_std]
#![no_main]
// As in svc-common: some instructions have no other name.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod call;
mod carry;
mod events;
mod flows;
mod hook;
mod maps;
mod sock;
mod tally;
mod tunnel;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use svc_common::family::{V4, V6};
use svc_common::table::Scope;
use svc_common::wire::{ETH_LEN, ETH_P_IP, ETH_P_IPV6};

use crate::hook::Skb;

/// `TCX_NEXT`, which clsact knows as TC_ACT_UNSPEC: on to whoever comes next.
pub const NEXT: i32 = -1;

/// From a pod, at its host-side interface.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    ingress(&ctx, Scope::Internal)
}

/// To a pod, at its host-side interface.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    egress(&ctx, false)
}

/// From outside, at one of the node's devices.
#[classifier]
pub fn node_ingress(ctx: TcContext) -> i32 {
    ingress(&ctx, Scope::External)
}

/// To outside, at one of the node's devices.
#[classifier]
pub fn node_egress(ctx: TcContext) -> i32 {
    egress(&ctx, true)
}

#[inline(always)]
fn ingress(ctx: &TcContext, scope: Scope) -> i32 {
    let skb = Skb::new(ctx, ETH_LEN);
    // A tagged frame belongs to a VLAN device, whose own hook sees it next.
    if skb.is_tagged() {
        return NEXT;
    }
    match (skb.protocol(), scope) {
        (ETH_P_IP, Scope::Internal) => carry::meet::<V4>(&skb, scope),
        (ETH_P_IPV6, Scope::Internal) => carry::meet::<V6>(&skb, scope),
        (ETH_P_IP, Scope::External) => carry::node_ingress::<V4>(&skb),
        (ETH_P_IPV6, Scope::External) => carry::node_ingress::<V6>(&skb),
        _ => NEXT,
    }
}

#[inline(always)]
fn egress(ctx: &TcContext, node: bool) -> i32 {
    let skb = Skb::new(ctx, ETH_LEN);
    let local = node && skb.is_local();
    match skb.protocol() {
        ETH_P_IP => carry::egress::<V4>(&skb, local),
        ETH_P_IPV6 => carry::egress::<V6>(&skb, local),
        _ => NEXT,
    }
}

/// From outside, at a device without Ethernet headers.
#[classifier]
pub fn node_ingress_l3(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx, 0);
    match skb.protocol() {
        ETH_P_IP => carry::ingress_l3::<V4>(&skb),
        ETH_P_IPV6 => carry::ingress_l3::<V6>(&skb),
        _ => NEXT,
    }
}

/// To outside, at a device without Ethernet headers.
#[classifier]
pub fn node_egress_l3(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx, 0);
    match skb.protocol() {
        ETH_P_IP => carry::egress_l3::<V4>(&skb),
        ETH_P_IPV6 => carry::egress_l3::<V6>(&skb),
        _ => NEXT,
    }
}

/// From outside, before the stack: forwards what goes to other nodes and back; the rest passes untouched.
#[xdp]
pub fn node_xdp(ctx: XdpContext) -> u32 {
    match hook::frame(&ctx).get::<u16>(ETH_LEN - 2) {
        Some(ETH_P_IP) => carry::xdp::<V4>(&ctx),
        Some(ETH_P_IPV6) => carry::xdp::<V6>(&ctx),
        _ => XDP_PASS,
    }
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    sock::connect4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    sock::connect6(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::connect4(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::connect6(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::peer4(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::peer6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    sock::peer4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    sock::peer6(&ctx)
}

#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    sock::bind4(&ctx)
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    sock::bind6(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that only GPL programs may call are not used; the kernel still wants a licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
