//! Packet contexts and helpers: every workaround for the verifier or a kernel helper, each with its reason.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, bpf_fib_lookup as FibParams, xdp_md};
use aya_ebpf::helpers::generated as bpf;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::{TcContext, XdpContext};
use svc_common::checksum::Delta;
use svc_common::event::Place;
use svc_common::family::{Family, V6};
use svc_common::packet::Packet;
use svc_common::refuse::Checksum;
use svc_common::rewrite::{Bytes, Edit, was_complete};
use svc_common::table::{TCP, UDP};
use svc_common::tunnel::Format;
use svc_common::wire::{ETH_LEN, ETH_P_IP, ETH_P_IPV6, IpHeader, tcp, udp};

/// A hook's context: what the helpers want as their first argument.
pub trait Context {
    /// For those who watch.
    const PLACE: Place;
    fn raw(&self) -> *mut c_void;
    /// The device that the packet is at; 0 for sockets.
    fn ifindex(&self) -> u32;
    /// The length that the IP packet has on the wire, if it is cut into segments with that many bytes of `headers` before
    /// the data; 0: for the kernel to find out.
    #[inline(always)]
    fn wire_len(&self, _headers: usize) -> u16 {
        0
    }
}

/// What the clock said, and at which tick: above 32 bits of the tick's number, the second. Ticks are told in twos, by the
/// odd one, so that what nobody has written yet is no answer.
#[map]
static CLOCK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Seconds since boot. The kernel's tick is one load, its cheapest clock (Linux 5.11) a few calls: asked
/// once in two ticks.
#[inline(always)]
pub fn seconds() -> u32 {
    // SAFETY: takes nothing, returns a number.
    let tick = unsafe { bpf::bpf_jiffies64() } as u32 | 1;
    match CLOCK.get(0) {
        Some(said) if *said as u32 == tick => (*said >> 32) as u32,
        _ => ask(tick),
    }
}

#[inline(never)]
fn ask(tick: u32) -> u32 {
    // SAFETY: takes nothing, returns a number.
    let ns = unsafe { bpf::bpf_ktime_get_coarse_ns() };
    let seconds = (ns / 1_000_000_000) as u32;
    if let Some(said) = CLOCK.get_ptr_mut(0) {
        // SAFETY: a per-CPU slot, written at once: what interrupts us finds a tick with its second.
        unsafe { said.write_volatile((seconds as u64) << 32 | tick as u64) };
    }
    seconds
}

#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf::bpf_get_prandom_u32() }
}

#[inline(always)]
pub fn cpu() -> u32 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf::bpf_get_smp_processor_id() as u32 }
}

/// What was written to `at` is in memory, for a function that finds it there by itself.
#[inline(always)]
pub fn written<T>(at: &T) {
    // SAFETY: a move to itself, because a line of the program must have an instruction.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) core::ptr::from_ref(at) => _, options(nostack));
    }
}

/// Adds atomically; returns what was there before. `core` has no atomic operations for a target without
/// compare-and-swap, which BPF has only since `-C target-cpu=v3`.
///
/// # Safety
/// `at` is aligned and stays valid and shared by such additions only.
#[inline(always)]
pub unsafe fn fetch_add(at: *mut u64, mut value: u64) -> u64 {
    // SAFETY: one instruction on what the caller vouches for.
    unsafe {
        core::arch::asm!(
            "{value} = atomic_fetch_add((u64 *) ({at} + 0), {value})",
            at = in(reg) at,
            value = inout(reg) value,
            options(nostack),
        );
    }
    value
}

/// Puts `new` where `old` is, atomically and with a full barrier; returns what was there.
///
/// # Safety
/// `at` is aligned, stays valid, and is shared by atomic accesses only.
#[inline(always)]
pub unsafe fn compare_exchange(at: *mut u32, old: u32, new: u32) -> u32 {
    let mut found = old;
    // SAFETY: one instruction on what the caller vouches for; it wants the old value in register 0.
    unsafe {
        core::arch::asm!(
            "w0 = cmpxchg32_32({at} + 0, w0, {new})",
            at = in(reg) at,
            new = in(wreg) new,
            inout("w0") found,
            options(nostack),
        );
    }
    found
}

/// The outcome of a route lookup (`bpf_fib_lookup`, include/uapi/linux/bpf.h).
pub struct NextHop {
    status: i64,
    pub ifindex: u32,
    pub mtu: u16,
    pub smac: [u8; 6],
    pub dmac: [u8; 6],
}

impl NextHop {
    /// The route and the neighbour's address are known.
    #[inline(always)]
    pub fn is_complete(&self) -> bool {
        self.status == 0
    }

    #[inline(always)]
    pub fn is_too_big(&self) -> bool {
        self.status == 8 // BPF_FIB_LKUP_RET_FRAG_NEEDED
    }

    /// The leaving device, also where only the neighbour's address is missing (BPF_FIB_LKUP_RET_NO_NEIGH) or the
    /// packet is too big.
    #[inline(always)]
    pub fn ifindex_or_none(&self) -> Option<u32> {
        matches!(self.status, 0 | 7 | 8).then_some(self.ifindex)
    }
}

/// Where a packet from `src` to `dst` goes. `len`: the IP length to hold against the MTU, 0 to use the skb's own.
#[inline(never)]
pub fn next_hop<F: Family>(ctx: &impl Context, src: &F::Addr, dst: &F::Addr, len: u16) -> NextHop {
    let mut params: MaybeUninit<FibParams> = MaybeUninit::uninit();
    let words: *mut u64 = params.as_mut_ptr().cast();
    let mut i = 0;
    while i < size_of::<FibParams>() / 8 {
        // SAFETY: within the struct, on the stack and so aligned. Volatile: a call of `memset` would be one more frame.
        unsafe { words.add(i).write_volatile(0) };
        i += 1;
    }
    // SAFETY: it is plain integers, all of them written, as the verifier wants it.
    let params = unsafe { params.assume_init_mut() };
    params.family = if F::VERSION == 4 { 2 } else { 10 };
    params.ifindex = ctx.ifindex();
    params.__bindgen_anon_1.tot_len = len;
    // SAFETY: the unions hold four words, and an address is at most that; the alignment of u32 covers that of u16.
    unsafe {
        (&raw mut params.__bindgen_anon_3)
            .cast::<F::Addr>()
            .write(*src);
        (&raw mut params.__bindgen_anon_4)
            .cast::<F::Addr>()
            .write(*dst);
    }
    // SAFETY: params is ours and of the stated size.
    let status = unsafe {
        bpf::bpf_fib_lookup(
            ctx.raw(),
            &raw mut *params,
            size_of::<FibParams>() as i32,
            0,
        )
    };
    NextHop {
        status,
        ifindex: params.ifindex,
        // SAFETY: after the call the union holds the MTU.
        mtu: unsafe { params.__bindgen_anon_1.mtu_result },
        smac: params.smac,
        dmac: params.dmac,
    }
}

impl Context for XdpContext {
    const PLACE: Place = Place::Xdp;

    #[inline(always)]
    fn raw(&self) -> *mut c_void {
        self.as_ptr()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.as_ptr().cast::<xdp_md>()).ingress_ifindex }
    }
}

/// The bytes of a frame at XDP.
#[inline(always)]
pub fn frame(ctx: &XdpContext) -> Packet<'_> {
    // SAFETY: the kernel's own bounds of the frame.
    unsafe { Packet::new(ctx.data(), ctx.data_end()) }
}

/// Which headers tc needs in the linear part: Ethernet, IPv6 with some extension headers, ICMPv6, and a quoted IPv6
/// packet with its ports and TCP checksum.
const HEADERS: u32 = 14 + 40 + 48 + 8 + 40 + 20;

/// The same behind the headers of a tunnel: IPv6, UDP, Geneve.
const TUNNEL_HEADERS: u32 = HEADERS + 40 + 8 + 16;

/// `BPF_F_ADJ_ROOM_…` (include/uapi/linux/bpf.h).
const FIXED_GSO: u64 = 1;
const ENCAP_L3_IPV4: u64 = 2;
const ENCAP_L3_IPV6: u64 = 4;
const ENCAP_L4_UDP: u64 = 16;

/// A packet at tc.
pub struct Skb {
    skb: *mut __sk_buff,
}

impl Context for Skb {
    const PLACE: Place = Place::Tc;

    #[inline(always)]
    fn raw(&self) -> *mut c_void {
        self.skb.cast()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn wire_len(&self, headers: usize) -> u16 {
        const GSO_BY_FRAGS: u32 = 0xffff;
        // SAFETY: as in `ifindex`.
        let segment = unsafe { (*self.skb).gso_size };
        // Several SCTP packets in one, each as long as their sender found right: the kernel knows.
        if segment == GSO_BY_FRAGS {
            return 0;
        }
        let len = if segment == 0 {
            self.len() as usize
        } else {
            headers + segment as usize
        };
        (len - ETH_LEN) as u16
    }
}

impl Skb {
    #[inline(always)]
    pub fn packet(&self) -> Packet<'_> {
        // SAFETY: the kernel's own bounds of the linear part. They are read anew at every call, because helpers that
        // change the packet invalidate earlier pointers; volatile, so that the compiler does not remember them.
        unsafe {
            let data = (&raw const (*self.skb).data).read_volatile();
            let end = (&raw const (*self.skb).data_end).read_volatile();
            Packet::new(data as usize, end as usize)
        }
    }

    /// Takes the context, with the headers in the linear part; `l3` is the offset of the IP header.
    #[inline(always)]
    pub fn new(ctx: &TcContext, l3: usize) -> Self {
        let skb = Self { skb: ctx.skb.skb };
        let (len, linear) = (skb.len(), skb.packet().len() as u32);
        if linear < len && linear < HEADERS && (linear as usize) < skb.needed(l3) {
            skb.pull(if len < HEADERS { len } else { HEADERS });
        }
        skb
    }

    /// How many bytes are read of most packets. To pull more, of a TCP segment whose data lies in pages (any that has
    /// just been sent), copies its headers too and costs more than all that is done with it here.
    #[inline(always)]
    fn needed(&self, l3: usize) -> usize {
        let packet = self.packet();
        let (headers, proto) = match self.protocol() {
            ETH_P_IP => {
                let ihl = packet.get::<u8>(l3).unwrap_or(0) & 0xf;
                (l3 + ihl as usize * 4, packet.get::<u8>(l3 + 9))
            }
            ETH_P_IPV6 => (l3 + V6::LEN, packet.get::<u8>(l3 + 6)),
            _ => return 0,
        };
        match proto {
            Some(TCP) => headers + tcp::LEN,
            Some(UDP) => headers + udp::LEN,
            _ => HEADERS as usize,
        }
    }

    #[inline(always)]
    fn pull(&self, bytes: u32) {
        // SAFETY: a helper on our context. When it fails, reading finds the packet too short.
        unsafe { bpf::bpf_skb_pull_data(self.skb, bytes) };
    }

    #[inline(always)]
    pub fn len(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).len }
    }

    /// How many packets it is on the wire.
    #[inline(always)]
    pub fn segments(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        let segments = unsafe { (*self.skb).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    /// Takes what precedes a tunnelled packet's headers into the linear part too.
    #[inline(always)]
    pub fn pull_more(&self) {
        let (len, linear) = (self.len(), self.packet().len() as u32);
        if linear < len && linear < TUNNEL_HEADERS {
            self.pull(if len < TUNNEL_HEADERS {
                len
            } else {
                TUNNEL_HEADERS
            });
        }
    }

    /// Makes room behind the Ethernet header for those of a tunnel, and tells the kernel what they will be, so that it
    /// can still cut the packet into segments. These stay as long as they are: their length was held against the MTU.
    #[inline(always)]
    pub fn push(&self, bytes: usize, version: u8, format: Format) -> Option<()> {
        let l3 = if version == 4 {
            ENCAP_L3_IPV4
        } else {
            ENCAP_L3_IPV6
        };
        let l4 = if format == Format::Geneve {
            ENCAP_L4_UDP
        } else {
            0
        };
        self.adjust_room(bytes as i32, l3 | l4)
    }

    /// Takes the bytes behind the Ethernet header away.
    #[inline(always)]
    pub fn pop(&self, bytes: usize) -> Option<()> {
        self.adjust_room(-(bytes as i32), 0)
    }

    #[inline(always)]
    fn adjust_room(&self, difference: i32, flags: u64) -> Option<()> {
        const BPF_ADJ_ROOM_MAC: u32 = 1;
        // SAFETY: a helper on our context.
        let status = unsafe {
            bpf::bpf_skb_adjust_room(self.skb, difference, BPF_ADJ_ROOM_MAC, flags | FIXED_GSO)
        };
        (status == 0).then_some(())
    }

    /// Decrements TTL or hop limit; None when it would reach zero. Of a whole packet's sum, as some NICs deliver it, only
    /// IPv4's header checksum keeps track by itself.
    #[inline(always)]
    pub fn age<F: Family>(&self) -> Option<()> {
        const ONE: u32 = u16::from_ne_bytes([0, 1]) as u32;
        F::decrement_ttl(&self.packet(), ETH_LEN)?;
        if F::VERSION == 6 {
            // SAFETY: a helper on our context. It refuses where there is no such sum.
            unsafe { bpf::bpf_csum_update(self.skb, !ONE) };
        }
        Some(())
    }

    /// EtherType, network order in the low half.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).protocol as u16 }
    }

    /// Whether it carries a VLAN tag, which the kernel keeps beside the packet.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    /// Whether a process of this node sent it, at egress.
    #[inline(always)]
    pub fn is_local(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).ingress_ifindex == 0 }
    }

    /// Cuts or grows the packet to `len` bytes.
    #[inline(always)]
    pub fn resize(&self, len: usize) -> Option<()> {
        // SAFETY: a helper on our context.
        (unsafe { bpf::bpf_skb_change_tail(self.skb, len as u32, 0) } == 0).then_some(())
    }

    /// Whether the checksum at `off` is still to be finished by a device. Nothing in `__sk_buff` says so, but
    /// `bpf_l4_csum_replace` leaves a partial checksum alone unless the change is in the pseudo-header.
    #[inline(always)]
    pub fn checksum_state(&self, off: usize) -> Checksum {
        let before = self.packet().get::<u16>(off);
        // SAFETY: a helper on our context; a change of 1 in a two-byte field. The packet is about to be overwritten.
        unsafe { bpf::bpf_l4_csum_replace(self.skb, off as u32, 0, 1, 2) };
        match (before, self.packet().get::<u16>(off)) {
            (Some(before), Some(after)) if before == after => Checksum::Partial,
            // A header that is cut before its checksum has none to be finished.
            _ => Checksum::Complete,
        }
    }

    /// Puts an empty Ethernet header in front of a packet that came without one. The kernel takes it off again where the
    /// packet goes on: before the stack, at `bpf_redirect` to such a device, and at `bpf_redirect_neigh`.
    #[inline(always)]
    pub fn raise(&self) -> Option<()> {
        // SAFETY: a helper on our context.
        (unsafe { bpf::bpf_skb_change_head(self.skb, ETH_LEN as u32, 0) } == 0).then_some(())
    }

    /// Sends it out of a device, as it is.
    #[inline(always)]
    pub fn send(&self, ifindex: u32) -> i32 {
        // SAFETY: takes numbers only.
        unsafe { bpf::bpf_redirect(ifindex, 0) as i32 }
    }

    /// Lets it come in by a device.
    #[inline(always)]
    pub fn inject(&self, ifindex: u32) -> i32 {
        // SAFETY: takes numbers only.
        unsafe { bpf::bpf_redirect(ifindex, BPF_F_INGRESS as u64) as i32 }
    }

    /// Lets it come in by the other end of a device, in the network namespace there.
    #[inline(always)]
    pub fn hand_over(&self, ifindex: u32) -> i32 {
        // SAFETY: takes numbers only.
        unsafe { bpf::bpf_redirect_peer(ifindex, 0) as i32 }
    }

    /// Sends it to the next hop on a device; the kernel resolves the neighbour.
    #[inline(always)]
    pub fn forward(&self, ifindex: u32) -> i32 {
        // SAFETY: takes numbers only; no parameters means "look the next hop up".
        unsafe { bpf::bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
    }
}

/// `BPF_F_PSEUDO_HDR`, `BPF_F_MARK_MANGLED_0`, `BPF_F_IPV6` (include/uapi/linux/bpf.h).
const PSEUDO_HDR: u64 = 1 << 4;
const MARK_MANGLED_0: u64 = 1 << 5;
const IPV6: u64 = 1 << 7;

/// A packet at tc being changed, of family `F`.
pub struct SkbEdit<'a, F: Family>(pub &'a Skb, pub core::marker::PhantomData<F>);

impl<F: Family> Edit for SkbEdit<'_, F> {
    #[inline(always)]
    fn packet(&self) -> Packet<'_> {
        self.0.packet()
    }

    #[inline(always)]
    fn fix_transport(
        &mut self,
        off: usize,
        addresses: Delta,
        ports: Delta,
        proto: u8,
    ) -> Option<()> {
        let udp = if proto == UDP { MARK_MANGLED_0 } else { 0 };
        let before = self.packet().get(off)?;
        let (skb, at) = (self.0.skb, off as u32);
        // Since 6.16 the kernel wants to know about IPv6, whose pseudo-header is covered by no header checksum, to keep
        // a CHECKSUM_COMPLETE right; older kernels refuse the flag.
        let mut status = -1;
        if F::VERSION == 6 {
            // SAFETY: a helper on our context; size 0 with `from` 0 means "to is a difference".
            status = unsafe {
                bpf::bpf_l4_csum_replace(skb, at, 0, addresses.0 as u64, PSEUDO_HDR | IPV6 | udp)
            };
        }
        if status != 0 {
            // SAFETY: as above.
            status = unsafe {
                bpf::bpf_l4_csum_replace(skb, at, 0, addresses.0 as u64, PSEUDO_HDR | udp)
            };
        }
        if status != 0 {
            return None;
        }
        if ports.is_none() {
            return Some(());
        }
        if addresses.is_none() {
            // SAFETY: as above.
            let status = unsafe { bpf::bpf_l4_csum_replace(skb, at, 0, ports.0 as u64, udp) };
            return (status == 0).then_some(());
        }
        // The ports, which no pseudo-header covers, are in a complete sum only. Asking the kernel once more is a call.
        let after = self.packet().get(off)?;
        if was_complete(addresses, before, after, proto) {
            Bytes(self.packet()).fix_transport(off, Delta::default(), ports, proto)?;
        }
        Some(())
    }
}
