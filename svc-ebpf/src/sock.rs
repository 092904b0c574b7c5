//! The cgroup hooks: addresses in and out of `bpf_sock_addr`. IPv4 behind an IPv6 socket (`::ffff:a.b.c.d`) is IPv4.

use aya_ebpf::programs::SockAddrContext;
use svc_common::family::{Ip, Port, V4, V6};
use svc_common::reason::Reason;
use svc_common::socket::{self, Target};
use svc_common::table::{Backend, Tables, node_flags};

use crate::call::Call;
use crate::events;
use crate::maps::{Mapped, World, count};
use crate::tally;

/// Results of a cgroup program.
const ALLOW: i32 = 1;
const DENY: i32 = 0;

// include/uapi/asm-generic/errno.h
const EADDRINUSE: i32 = 98;
const ECONNREFUSED: i32 = 111;

/// `connect()` and `sendmsg()`: towards the backend.
#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> i32 {
    let call = Call::new(ctx);
    connect::<V4>(&call, call.addr4(), |addr| call.set_addr4(addr))
}

#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> i32 {
    let call = Call::new(ctx);
    let addr = call.addr6();
    match unmap(addr) {
        Some(addr) => connect::<V4>(&call, addr, |addr| call.set_addr6(map(addr))),
        None => connect::<V6>(&call, addr, |addr| call.set_addr6(addr)),
    }
}

/// `recvmsg()` and `getpeername()`: the frontend instead of the backend.
#[inline(always)]
pub fn peer4(ctx: &SockAddrContext) -> i32 {
    let call = Call::new(ctx);
    peer::<V4>(&call, call.addr4(), |addr| call.set_addr4(addr))
}

#[inline(always)]
pub fn peer6(ctx: &SockAddrContext) -> i32 {
    let call = Call::new(ctx);
    let addr = call.addr6();
    match unmap(addr) {
        Some(addr) => peer::<V4>(&call, addr, |addr| call.set_addr6(map(addr))),
        None => peer::<V6>(&call, addr, |addr| call.set_addr6(addr)),
    }
}

/// `bind()`: whether a node port is in the way.
#[inline(always)]
pub fn bind4(ctx: &SockAddrContext) -> i32 {
    let call = Call::new(ctx);
    bind(&call, binds_node_port::<V4>(&call, call.addr4()))
}

#[inline(always)]
pub fn bind6(ctx: &SockAddrContext) -> i32 {
    let call = Call::new(ctx);
    let addr = call.addr6();
    let taken = match unmap(addr) {
        Some(addr) => binds_node_port::<V4>(&call, addr),
        // The IPv6 "any address" is IPv4's too, unless the socket says otherwise, which is not to be seen here.
        None => {
            binds_node_port::<V6>(&call, addr)
                || (socket::is_unspecified(&addr) && binds_node_port::<V4>(&call, Ip([0; 2])))
        }
    };
    bind(&call, taken)
}

#[inline(never)]
fn binds_node_port<F: Mapped>(call: &Call, addr: F::Addr) -> bool {
    let target = Target::<F> {
        addr,
        port: call.port(),
        proto: call.proto(),
    };
    socket::binds_node_port(&call.caller(), &target, &World(call))
}

#[inline(always)]
fn bind(call: &Call, taken: bool) -> i32 {
    if !taken {
        return ALLOW;
    }
    count(Reason::NodePortBound);
    let config = Tables::<V4>::config(&World(call));
    if config.is_some_and(|config| config.flags & node_flags::PROTECT_NODE_PORTS != 0) {
        call.fail(EADDRINUSE);
        return DENY;
    }
    ALLOW
}

#[inline(always)]
fn connect<F: Mapped>(call: &Call, addr: F::Addr, set: impl FnOnce(F::Addr)) -> i32 {
    let target = Target::<F> {
        addr,
        port: call.port(),
        proto: call.proto(),
    };
    let caller = call.caller();
    let world = World(call);
    let (mut backend, mut service) = (Backend::EMPTY, 0);
    match socket::connect(&caller, &target, &world, &mut backend, &mut service) {
        Ok(false) => ALLOW,
        Ok(true) => {
            let key = caller.key::<F>(backend.addr, backend.port);
            let peer = socket::peer(&target);
            if world.socket(&key) != Some(peer) {
                world.remember_socket(&key, &peer);
                tally::opened(service);
                events::connect(&target, &backend);
            }
            set(backend.addr);
            call.set_port(backend.port);
            ALLOW
        }
        Err(reason) => {
            events::refuse(&target, &backend, reason);
            if reason.refuses() {
                call.fail(ECONNREFUSED);
            }
            DENY
        }
    }
}

#[inline(always)]
fn peer<F: Mapped>(call: &Call, addr: F::Addr, set: impl FnOnce(F::Addr)) -> i32 {
    let key = call.caller().key::<F>(addr, call.port());
    if let Some(peer) = World(call).socket(&key) {
        set(peer.addr);
        call.set_port(Port(peer.port.0));
    }
    ALLOW
}

/// The IPv4 address behind an IPv4-mapped one (RFC 4291 §2.5.5.2).
#[inline(always)]
fn unmap(addr: Ip<8>) -> Option<Ip<2>> {
    let w = addr.0;
    (w[0] == 0 && w[1] == 0 && w[2] == 0 && w[3] == 0 && w[4] == 0 && w[5] == 0xffff)
        .then_some(Ip([w[6], w[7]]))
}

#[inline(always)]
const fn map(addr: Ip<2>) -> Ip<8> {
    Ip([0, 0, 0, 0, 0, 0xffff, addr.0[0], addr.0[1]])
}
