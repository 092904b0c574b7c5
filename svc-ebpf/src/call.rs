//! The context of the cgroup hooks, with what the verifier wants of its reader.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated as bpf;
use aya_ebpf::programs::SockAddrContext;
use svc_common::event::Place;
use svc_common::family::{Ip, Port};

use crate::hook::Context;

/// A `connect()`, `bind()`, `sendmsg()`, `recvmsg()` or `getpeername()` call.
pub struct Call {
    ctx: *mut bpf_sock_addr,
}

impl Context for Call {
    const PLACE: Place = Place::Socket;

    #[inline(always)]
    fn raw(&self) -> *mut c_void {
        self.ctx.cast()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        0
    }
}

impl Call {
    #[inline(always)]
    pub fn new(ctx: &SockAddrContext) -> Self {
        Self { ctx: ctx.sock_addr }
    }

    #[inline(always)]
    pub fn proto(&self) -> u8 {
        // SAFETY: the context is valid while the program runs. Volatile: "dereference of modified ctx ptr" otherwise,
        // because LLVM would fold field offsets into the pointer.
        unsafe { (&raw const (*self.ctx).protocol).read_volatile() as u8 }
    }

    #[inline(always)]
    pub fn port(&self) -> Port {
        // SAFETY: as above. The low half holds the port in network order.
        Port(unsafe { (&raw const (*self.ctx).user_port).read_volatile() as u16 })
    }

    #[inline(always)]
    pub fn set_port(&self, port: Port) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.ctx).user_port).write_volatile(port.0 as u32) }
    }

    #[inline(always)]
    pub fn addr4(&self) -> Ip<2> {
        // SAFETY: as above.
        let word = unsafe { (&raw const (*self.ctx).user_ip4).read_volatile() };
        Ip([word as u16, (word >> 16) as u16])
    }

    #[inline(always)]
    pub fn set_addr4(&self, addr: Ip<2>) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.ctx).user_ip4).write_volatile(word(addr.0[0], addr.0[1])) }
    }

    #[inline(always)]
    pub fn addr6(&self) -> Ip<8> {
        // SAFETY: as above; word by word with constant offsets, as the verifier allows no other way.
        let [a, b, c, d] = unsafe {
            [
                (&raw const (*self.ctx).user_ip6[0]).read_volatile(),
                (&raw const (*self.ctx).user_ip6[1]).read_volatile(),
                (&raw const (*self.ctx).user_ip6[2]).read_volatile(),
                (&raw const (*self.ctx).user_ip6[3]).read_volatile(),
            ]
        };
        Ip([
            a as u16,
            (a >> 16) as u16,
            b as u16,
            (b >> 16) as u16,
            c as u16,
            (c >> 16) as u16,
            d as u16,
            (d >> 16) as u16,
        ])
    }

    #[inline(always)]
    pub fn set_addr6(&self, addr: Ip<8>) {
        let w = addr.0;
        // SAFETY: as above.
        unsafe {
            (&raw mut (*self.ctx).user_ip6[0]).write_volatile(word(w[0], w[1]));
            (&raw mut (*self.ctx).user_ip6[1]).write_volatile(word(w[2], w[3]));
            (&raw mut (*self.ctx).user_ip6[2]).write_volatile(word(w[4], w[5]));
            (&raw mut (*self.ctx).user_ip6[3]).write_volatile(word(w[6], w[7]));
        }
    }

    #[inline(always)]
    pub fn caller(&self) -> svc_common::socket::Caller {
        // SAFETY: helpers on our context (Linux 4.12 and 5.7).
        let (cookie, netns_cookie) = unsafe {
            (
                bpf::bpf_get_socket_cookie(self.raw()),
                bpf::bpf_get_netns_cookie(self.raw()),
            )
        };
        svc_common::socket::Caller {
            cookie,
            netns_cookie,
        }
    }

    /// Makes the call fail with this error instead of EPERM (Linux 6.1).
    #[inline(always)]
    pub fn fail(&self, errno: i32) {
        // SAFETY: takes a number.
        unsafe { bpf::bpf_set_retval(-errno) };
    }
}

/// Two words in memory order as one.
#[inline(always)]
const fn word(first: u16, second: u16) -> u32 {
    first as u32 | (second as u32) << 16
}
