//! What `svc-agent monitor` shows: records that the programs write while somebody watches. Any number of readers follow
//! the same ring, each at its own pace; who is too slow sees by the numbers how many it has lost.

use bytemuck::{Pod, Zeroable};

use crate::family::{Addr, Family, Port};
use crate::reason::Reason;
use crate::table::{Flow, FlowKey};

/// Records in the ring; a power of two.
pub const MAX_EVENTS: u32 = 8_192;

/// How long, in seconds, programs write records after a watcher has last said that it is there. One that was killed costs
/// nothing for longer.
pub const LEASE: u32 = 5;

/// What sort of record it is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A packet or a `connect()` that a [`Reason`] has kept from going on.
    Lost = 1,
    /// The first packet of a flow.
    Opened = 2,
    /// A socket that was connected to its backend directly.
    Connected = 3,
}

/// Where it was met.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Tc = 1,
    Xdp = 2,
    Socket = 3,
}

/// The one entry of WATCH: until when, in seconds of the monotonic clock, what is watched; 0: nobody does.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Watch {
    pub losses: u32,
    pub flows: u32,
}

/// One record. An IPv4 address is in the first word of its field; ports and addresses are in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Event {
    /// One more than its place in the order of all events, modulo 2³²; another number while it is being written.
    pub number: u32,
    /// The device; 0 for sockets.
    pub ifindex: u32,
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// Of sockets, which have no address yet: the name of the process.
    pub client: [u32; 4],
    pub frontend: [u32; 4],
    pub backend: [u32; 4],
    pub client_port: Port,
    pub frontend_port: Port,
    /// 0: there is no backend.
    pub backend_port: Port,
    /// [`Kind`] as a number.
    pub kind: u8,
    /// [`Reason`] as a number, of what was lost.
    pub reason: u8,
    /// Key of SERVICES, where it is known.
    pub service: u32,
    /// The process, of sockets.
    pub pid: u32,
    /// 4 or 6.
    pub version: u8,
    /// [`Place`] as a number.
    pub place: u8,
    pub proto: u8,
    pub _pad: [u8; 5],
}

const _: () = assert!(size_of::<Event>() == 88);

impl Event {
    /// Fills in all but number and time: a packet that was lost, by what was read of it.
    #[inline(always)]
    pub fn lose<F: Family>(&mut self, key: &FlowKey<F>, reason: u8, place: u8, ifindex: u32) {
        // Of a packet whose headers could not be read, the rest is an earlier packet's.
        let unread = reason == Reason::Truncated as u8 || reason == Reason::ExtensionHeader as u8;
        let no_ports = unread || reason == Reason::FragmentUnknown as u8;
        set(&mut self.client, &key.src);
        set(&mut self.frontend, &key.dst);
        self.backend = [0; 4];
        self.client_port = if no_ports { Port(0) } else { key.sport };
        self.frontend_port = if no_ports { Port(0) } else { key.dport };
        self.backend_port = Port(0);
        self.service = 0;
        self.proto = if unread { 0 } else { key.proto as u8 };
        self.common::<F>(Kind::Lost, reason, place, ifindex);
    }

    /// The same of a flow that has just been made.
    #[inline(always)]
    pub fn open<F: Family>(&mut self, flow: &Flow<F>, place: u8, ifindex: u32) {
        set(&mut self.client, &flow.forward.src);
        set(&mut self.frontend, &flow.forward.dst);
        set(&mut self.backend, &flow.reply.src);
        self.client_port = flow.forward.sport;
        self.frontend_port = flow.forward.dport;
        self.backend_port = flow.reply.sport;
        self.service = flow.service;
        self.proto = flow.forward.proto as u8;
        self.common::<F>(Kind::Opened, 0, place, ifindex);
    }

    /// The same of a socket, but for the name of its process; of one that was refused with `reason`, there is no backend.
    #[inline(always)]
    pub fn connect<F: Family>(
        &mut self,
        (addr, port, proto): (&F::Addr, Port, u8),
        backend: Option<(&F::Addr, Port)>,
        reason: u8,
        pid: u32,
    ) {
        self.client_port = Port(0);
        set(&mut self.frontend, addr);
        self.frontend_port = port;
        self.proto = proto;
        self.service = 0;
        match backend {
            Some((addr, port)) => {
                set(&mut self.backend, addr);
                self.backend_port = port;
                self.common::<F>(Kind::Connected, 0, Place::Socket as u8, 0);
            }
            None => {
                self.backend = [0; 4];
                self.backend_port = Port(0);
                self.common::<F>(Kind::Lost, reason, Place::Socket as u8, 0);
            }
        }
        self.pid = pid;
    }

    #[inline(always)]
    fn common<F: Family>(&mut self, kind: Kind, reason: u8, place: u8, ifindex: u32) {
        self.kind = kind as u8;
        self.reason = reason;
        self.place = place;
        self.ifindex = ifindex;
        self.version = F::VERSION;
        self.pid = 0;
    }
}

#[inline(always)]
fn set<A: Addr>(field: &mut [u32; 4], addr: &A) {
    let mut i = 0;
    while i < 4 {
        field[i] = if i < A::WORDS / 2 { addr.double(i) } else { 0 };
        i += 1;
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: these derive bytemuck::Pod, which asks for the same.
    unsafe impl aya::Pod for super::Watch {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Event {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Ip, V4, V6};

    fn key<F: Family>(src: F::Addr, dst: F::Addr) -> FlowKey<F> {
        FlowKey {
            src,
            dst,
            sport: Port::new(1000),
            dport: Port::new(80),
            proto: 6,
            _pad: 0,
        }
    }

    #[test]
    fn a_record_is_filled_from_end_to_end_whatever_was_there() {
        let mut event: Event = bytemuck::cast([0xffu8; size_of::<Event>()]);
        event.lose::<V4>(&key(Ip([1, 2]), Ip([3, 4])), Reason::NoRoute as u8, 1, 7);
        assert_eq!(event.client, [u32::from_ne_bytes([1, 0, 2, 0]), 0, 0, 0]);
        assert_eq!((event.version, event.ifindex, event.pid), (4, 7, 0));
        assert_eq!((event.service, event.backend), (0, [0; 4]));
        event.lose::<V6>(&key(Ip([1; 8]), Ip([2; 8])), Reason::Truncated as u8, 1, 7);
        let words = |n: u16| [u32::from(n) * 0x1_0001; 4];
        assert_eq!((event.client, event.frontend), (words(1), words(2)));
        assert_eq!((event.proto, event.frontend_port), (0, Port(0)), "not read");
    }
}
