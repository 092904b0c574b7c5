//! Keys and values of every map, their sizes, and [`Tables`]: what the packet line may ask of them.
//!
//! One copy of these types serves the kernel and the agent. Fields are in the order that leaves no padding;
//! the sizes are asserted for both families below.

use bytemuck::{Pod, Zeroable};

use crate::family::{Addr, Family, Port, V4, V6};
pub use crate::flow::table::{Bucket, Insert, MAX_RECORDS, Record, Shape};
use crate::onward::Hop;

/// What the packet line asks of the maps and of the world. The kernel side answers from BPF maps and helpers, tests
/// from ordinary memory.
pub trait Tables<F: Family> {
    /// Bits of [`address_flags`]; 0 when the address is not in the table.
    fn address(&self, addr: &F::Addr) -> u32;
    /// Whether [`Self::address`] is worth asking.
    #[inline(always)]
    fn may_have_address(&self, addr: &F::Addr) -> bool {
        self.address(addr) != 0
    }
    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend>;
    fn slot(&self, index: u32) -> Option<Backend<F>>;
    /// Runs `f` on the flow of a packet's tuple, in place; says whether the packet is an answer.
    fn flow<R>(&self, key: &FlowKey<F>, f: impl FnOnce(&mut Flow<F>, bool) -> R) -> Option<R>;
    /// Adds a flow, the one in scratch, unless another one has its answers' tuple and is worth more than `limit`
    /// ([`crate::flow::worth`]). One with its client's tuple makes way in any case.
    fn insert_flow(&self, flow: &Flow<F>, limit: u32) -> Insert;
    /// [`crate::flow::place`], for BPF to make a function of that is verified once.
    #[inline(always)]
    fn place_flow(&self, flow: &mut Flow<F>, config: &NodeConfig) -> Insert {
        crate::flow::place(flow, config, |flow, limit| self.insert_flow(flow, limit))
    }
    /// Lends room for a record under construction: with it, the packet line would not fit the 512 bytes of BPF stack.
    fn scratch<R>(&self, f: impl FnOnce(&mut Flow<F>) -> R) -> Option<R>;
    fn fragment(&self, key: &FragmentKey<F>) -> Option<Ports>;
    fn remember_fragment(&self, key: &FragmentKey<F>, ports: Ports);
    /// The frontend that a socket believes it talks to, where it has a backend.
    fn socket(&self, key: &SocketKey<F>) -> Option<SocketPeer<F>>;
    fn remember_socket(&self, key: &SocketKey<F>, peer: &SocketPeer<F>);
    /// Whether a range of the service port (or of the cluster's pods, for service 0) holds the address.
    fn in_range(&self, source: &Source<F>) -> bool;
    fn affinity(&self, client: &Source<F>) -> Option<Affinity<F>>;
    fn remember_affinity(&self, client: &Source<F>, affinity: &Affinity<F>);
    /// None: the Service has no such endpoint any more.
    fn backend(&self, key: &BackendKey<F>) -> Option<BackendState>;
    /// Something to tell whoever watches: this flow, the one in scratch, has just been opened.
    fn opened(&self, _flow: &Flow<F>) {}
    /// Adds to the count of open connections, atomically. A backend that is not there is not counted.
    fn count_connection(&self, key: &BackendKey<F>, difference: i64);
    /// The turn of the run at slot `first`: 0, 1, 2, … over all CPUs.
    fn turn(&self, first: u32) -> u32;
    /// Changes whenever an endpoint leaves BACKENDS or stops serving: what a flow knew of its backend may be old.
    fn epoch(&self) -> u16;
    fn config(&self) -> Option<NodeConfig>;
    /// The address that a packet of this node's leaves with on its way to `dst`; None when there is no route.
    fn source_towards(&self, dst: &F::Addr) -> Option<F::Addr>;
    /// Fills in the device of the pod of this node that the packet at hand is for, now from `src` to `dst`, where packets may
    /// be handed to it past the stack and this one is not too big; false where not. `headers`: how many bytes precede the
    /// data.
    fn peer(&self, src: &F::Addr, dst: &F::Addr, headers: usize, hop: &mut Hop) -> bool;
    /// The node's primary address.
    fn node_address(&self) -> Option<F::Addr>;
    /// Seconds of the monotonic clock.
    fn now(&self) -> u32;
    fn random(&self) -> u32;
}

/// IP protocol numbers that a Service port can have.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// Default capacities. The agent may size a map differently when it loads the object.
pub const MAX_ADDRESSES: u32 = 65_536;
pub const MAX_FRONTENDS: u32 = 131_072;
pub const MAX_SLOTS: u32 = 655_360;
/// A power of two, as the number of the buckets that find them: a quarter of their slots is used when all flows are.
pub const MAX_FLOWS: u32 = 262_144;
pub const MAX_FLOW_BUCKETS: u32 = 131_072;
pub const MAX_SOCKETS: u32 = 65_536;
pub const MAX_FRAGMENTS: u32 = 8_192;
pub const MAX_SERVICES: u32 = 65_536;
pub const MAX_DEVICES: u32 = 1_024;
pub const MAX_RANGES: u32 = 65_536;
pub const MAX_AFFINITIES: u32 = 65_536;
pub const MAX_BACKENDS: u32 = 524_288;

/// Set in a key of XDP_DEVICES (else a device's index): frames go back out of this device by redirect, not by XDP_TX.
/// A veth flushes what XDP_TX queued only when its peer has an XDP program too (veth_xdp_flush, drivers/net/veth.c).
pub const BOUNCE: u32 = 1 << 31;

/// The service id that stands for the cluster itself: its RANGES are those of the pods (`--cluster-cidr`).
pub const CLUSTER: u32 = 0;

/// From where a frontend is asked.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// By pods and by the node's own processes.
    Internal = 0,
    /// By traffic that came in on one of the node's outside devices.
    External = 1,
}

/// What an address is. An address that is not in the table is nobody's business here.
pub mod address_flags {
    /// An address of this node: replies to flows from it, and NodePorts on it.
    pub const NODE: u32 = 1;
    /// A ClusterIP: all of its ports are ours.
    pub const CLUSTER_IP: u32 = 2;
    /// A LoadBalancer ingress or external IP: only its frontends are ours.
    pub const EXTERNAL: u32 = 4;
    /// Another node of the cluster: the only source of tunnelled packets that is believed (DSR).
    pub const PEER: u32 = 8;
}

/// Key of FRONTENDS: a virtual address, port (network order), protocol and [`Scope`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrontendKey<F: Family> {
    pub addr: F::Addr,
    pub port: Port,
    pub proto: u8,
    pub scope: u8,
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    /// The run is a Maglev table: pick by the hash of the 5-tuple instead of a random number.
    pub const MAGLEV: u32 = 1;
    /// With no slots, drop instead of refusing (policy Local, endpoints elsewhere).
    pub const DROP_WHEN_EMPTY: u32 = 2;
    /// A node port, which the node's own processes also reach on loopback (C5).
    pub const NODE_PORT: u32 = 4;
    /// Pick in turn, over all CPUs of the node.
    pub const ROUND_ROBIN: u32 = 8;
    /// Pick two at random, take the one with fewer open connections for its weight.
    pub const LEAST_CONNECTIONS: u32 = 16;
    /// The run is of the local set of endpoints (policy Local), otherwise of the cluster set.
    pub const LOCAL_SET: u32 = 32;
    /// Only clients in the service port's RANGES may open a flow (C11).
    pub const SOURCE_RANGES: u32 = 64;
    /// The address is a load balancer's ingress, otherwise perhaps an externalIP. For people.
    pub const LOAD_BALANCER: u32 = 128;
}

/// Value of FRONTENDS: the run of slots `first .. first + count` of one service port. `count == 0`: no endpoints.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Frontend {
    pub first: u32,
    pub count: u32,
    /// Key of SERVICES.
    pub service: u32,
    pub flags: u32,
    /// Session affinity in seconds; 0: none.
    pub affinity: u32,
}

/// Bits of [`Backend::flags`].
pub mod backend_flags {
    /// The endpoint runs on this node.
    pub const LOCAL: u16 = 1;
}

/// Value of SLOTS: where one slot sends.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Backend<F: Family> {
    pub addr: F::Addr,
    pub port: Port,
    pub flags: u16,
}

impl<F: Family> Backend<F> {
    /// Room for one.
    pub const EMPTY: Self = Self {
        addr: F::Addr::UNSPECIFIED,
        port: Port(0),
        flags: 0,
    };

    /// Its key in BACKENDS.
    #[inline(always)]
    pub fn key(&self, service: u32) -> BackendKey<F> {
        BackendKey {
            service,
            addr: self.addr,
            port: self.port,
            _pad: 0,
        }
    }
}

/// Key of RANGES (a longest-prefix trie, behind the prefix length in bits of this whole key) and of AFFINITY: a client
/// of a service port, or of the [`CLUSTER`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Source<F: Family> {
    pub service: u32,
    pub addr: F::Addr,
}

/// Value of AFFINITY: the backend that a client had last (B15).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Affinity<F: Family> {
    /// Seconds of the monotonic clock at the client's last new connection.
    pub seen: u32,
    pub addr: F::Addr,
    pub port: Port,
    pub _pad: u16,
}

/// Key of BACKENDS: an endpoint of a service port. The unspecified address with port 0 is there as long as at least one
/// endpoint of the service port serves.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackendKey<F: Family> {
    pub service: u32,
    pub addr: F::Addr,
    pub port: Port,
    pub _pad: u16,
}

/// Bits of [`BackendState::flags`].
pub mod backend_state {
    /// It serves, be it ready or on its way out. Endpoints that are listed but do not serve have an entry without.
    pub const SERVING: u16 = 1;
    /// Frontends of policy Cluster may send new connections to it.
    pub const IN_CLUSTER_SET: u16 = 2;
    /// Frontends of policy Local may send new connections to it.
    pub const IN_LOCAL_SET: u16 = 4;
    /// It runs on this node.
    pub const LOCAL: u16 = 8;
    /// It runs on another node of the cluster. Of one with neither bit nobody knows, it may be outside of the cluster.
    pub const REMOTE: u16 = 16;
}

/// Value of BACKENDS.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
pub struct BackendState {
    pub flags: u16,
    /// Share of new connections (B13); 0: none.
    pub weight: u16,
    pub _pad: u32,
    /// Open connections of the packet path. Kept by the programs for least-connections, counted anew by the agent.
    pub connections: u64,
}

/// A packet's addresses and ports as they are on the wire. Aligned, so that it is hashed and compared by words.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowKey<F: Family> {
    pub src: F::Addr,
    pub dst: F::Addr,
    pub sport: Port,
    pub dport: Port,
    pub proto: u16,
    pub _pad: u16,
}

impl<F: Family> FlowKey<F> {
    /// Writes ports and protocol at once: they are read together, and the processor waits for what was written in parts.
    #[inline(always)]
    pub fn set_tail(&mut self, sport: Port, dport: Port, proto: u16) {
        const { assert!(core::mem::offset_of!(Self, sport) == size_of::<Self>() - 8) };
        let tail: u64 = bytemuck::cast([sport.0, dport.0, proto, 0]);
        // SAFETY: the last eight bytes of a key that is aligned to as many; Pod has no invalid values.
        unsafe {
            (&raw mut *self)
                .cast::<u64>()
                .add(size_of::<Self>() / 8 - 1)
                .write(tail);
        }
    }
}

/// Bits of [`Flow::flags`].
pub mod flow_flags {
    /// A newer flow has its client's tuple: only answers belong to this one.
    pub const LATE: u8 = 1;
    /// The client is a process of this node on the packet path.
    pub const NODE_CLIENT: u8 = 2;
    /// The backend is this node itself (host network) and the client too: answers are injected back.
    pub const LOOP: u8 = 4;
    /// The backend's node gets the packet in a tunnel and answers the client itself (DSR).
    pub const TUNNEL: u8 = 8;
    /// Another proxy's connection, from before our time (`--takeover`): its packets pass untouched.
    pub const FOREIGN: u8 = 16;
    /// Counted among its backend's connections, until it closes (least-connections).
    pub const COUNTED: u8 = 32;
    /// With FOREIGN: it is becoming another proxy's this moment, and none of its packets may pass (`cleanup --hand-over`).
    pub const HELD: u8 = 64;
}

/// Bits of [`Flow::state`].
pub mod flow_state {
    /// Both sides have sent their FIN, or one a RST: the next SYN starts anew, the SNAT port may be taken over.
    pub const CLOSING: u8 = 1;
    /// A reply was seen.
    pub const ESTABLISHED: u8 = 2;
    /// The answers' tuple is now that of a connection which does not go through us.
    pub const GONE: u8 = 4;
    /// The client has sent its FIN: what the backend has to say still passes.
    pub const CLIENT_FIN: u8 = 8;
    /// The backend has sent its FIN.
    pub const BACKEND_FIN: u8 = 16;
    pub const BOTH_FIN: u8 = CLIENT_FIN | BACKEND_FIN;
    /// The client has spoken again after the answer: whoever makes up addresses cannot.
    pub const CONFIRMED: u8 = 32;
}

/// A flow of FLOWS, both directions in one record.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow<F: Family> {
    /// The client's packets: from the client to the frontend.
    pub forward: FlowKey<F>,
    /// The answers: from the backend to the client as the backend sees it, which is the client's own address where
    /// nothing is masqueraded.
    pub reply: FlowKey<F>,
    /// Seconds of the monotonic clock at the last refresh.
    pub seen: u32,
    pub service: u32,
    /// [`Tables::epoch`] at which the backend was last known to serve.
    pub epoch: u16,
    pub flags: u8,
    /// What each side's packets have said. A byte for each side, because they come in on different CPUs.
    pub client_state: u8,
    pub backend_state: u8,
    pub _pad: [u8; 3],
}

/// Key of SOCKETS: a socket (its cookie) and the backend it talks to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketKey<F: Family> {
    /// Low and high half of the socket cookie; two words, so that no family needs padding.
    pub cookie: [u32; 2],
    pub addr: F::Addr,
    pub port: Port,
    pub _pad: u16,
}

/// Value of SOCKETS: the frontend that the socket believes it talks to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketPeer<F: Family> {
    pub addr: F::Addr,
    pub port: Port,
    pub _pad: u16,
}

/// Key of FRAGMENTS: what the fragments of one datagram have in common (RFC 791 §3.2, RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentKey<F: Family> {
    pub src: F::Addr,
    pub dst: F::Addr,
    pub id: u32,
    pub proto: u32,
}

/// Value of FRAGMENTS: the ports that only the first fragment carries.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct Ports {
    pub sport: Port,
    pub dport: Port,
}

/// The node's facts and the agent's settings, in the one entry of CONFIG.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct NodeConfig {
    /// Cookie of the node's own network namespace.
    pub netns_cookie: u64,
    /// [`crate::socket::Mode`] as a number.
    pub socket_lb: u32,
    /// Bits of [`node_flags`].
    pub flags: u32,
    /// SNAT ports in host order, inclusive. Outside of what the node itself uses.
    pub snat_min: u16,
    pub snat_max: u16,
    /// After so many seconds of silence a TCP connection is over; one that only one side has closed after so many.
    pub tcp_established: u32,
    pub tcp_close_wait: u32,
    /// The same for UDP and SCTP: while nobody has answered, and from then on.
    pub udp: u32,
    pub udp_stream: u32,
    pub _pad: u32,
}

impl Default for NodeConfig {
    /// Nothing is known of the node; the lifetimes are the kernel's (net.netfilter.nf_conntrack_*).
    fn default() -> Self {
        Self {
            tcp_established: 432_000,
            tcp_close_wait: 60,
            udp: 30,
            udp_stream: 120,
            ..Self::zeroed()
        }
    }
}

/// Bits of [`NodeConfig::flags`].
pub mod node_flags {
    /// `--external-cluster-ip`: ClusterIPs are answered from outside too.
    pub const EXTERNAL_CLUSTER_IP: u32 = 1;
    /// `--masquerade-all`: backends of ClusterIPs see the node's address.
    pub const MASQUERADE_ALL: u32 = 2;
    /// `--cluster-cidr`: RANGES of service 0 say which clients are pods, wherever their packets come in.
    pub const CLUSTER_CIDR: u32 = 4;
    /// `--takeover`: TCP packets of unknown connections pass, they may be another proxy's.
    pub const TAKEOVER: u32 = 8;
    /// TCP clients of a backend that is gone get a reset (D6).
    pub const RESET_GONE: u32 = 16;
    /// Binding a socket to a port that is a NodePort is refused (C7), otherwise counted.
    pub const PROTECT_NODE_PORTS: u32 = 32;
    /// `--dsr`: remote backends from outside are reached through a tunnel and answer the client themselves.
    pub const DSR_IPIP: u32 = 64;
    pub const DSR_GENEVE: u32 = 128;
    /// `--host-routing`: what comes from pods for pods here skips the host's stack.
    pub const PEER_FROM_PODS: u32 = 256;
    /// The same for what comes in from outside.
    pub const PEER_FROM_OUTSIDE: u32 = 512;
    /// `--service-metrics`: what the loaded programs count by service port, for whoever reads it. They themselves have it
    /// as a constant, of the bits of [`super::counted`].
    pub const COUNTS_CONNECTIONS: u32 = 1024;
    pub const COUNTS_TRAFFIC: u32 = 2048;
}

/// What is counted by service port (`--service-metrics`).
pub mod counted {
    pub const CONNECTIONS: u32 = 1;
    /// Packets and bytes.
    pub const TRAFFIC: u32 = 2;
}

/// Where CONNECTIONS and TRAFFIC count for a service id. Ids rise without end; no two that are in use at a time may have
/// the same counter, which is for who makes ids to mind.
#[inline(always)]
pub const fn counter(service: u32) -> u32 {
    service % MAX_SERVICES
}

/// Value of TRAFFIC: what this CPU has carried for a service port, towards its backends and back.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Traffic {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
}

impl Traffic {
    /// This much more, by the counters' width.
    pub fn add(&mut self, more: &Self) {
        let sums = [
            (&mut self.packets_in, more.packets_in),
            (&mut self.bytes_in, more.bytes_in),
            (&mut self.packets_out, more.packets_out),
            (&mut self.bytes_out, more.bytes_out),
        ];
        for (sum, more) in sums {
            *sum = sum.wrapping_add(more);
        }
    }
}

/// Value of SERVICES: `namespace/name:port` in UTF-8, for people. A restart finds ids again by it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct ServiceLabel {
    pub len: u32,
    pub text: [u8; 196],
}

macro_rules! pod {
    ($($name:ident: $v4:literal, $v6:literal;)*) => {$(
        // SAFETY: all fields are Pod and the size assertions below leave no room for padding.
        unsafe impl<F: Family> Zeroable for $name<F> {}
        // SAFETY: as above; the type is Copy and 'static.
        unsafe impl<F: Family> Pod for $name<F> {}
        const _: () = assert!(size_of::<$name<V4>>() == $v4 && size_of::<$name<V6>>() == $v6);
        #[cfg(feature = "user")]
        // SAFETY: as above; aya asks for what bytemuck asks for.
        unsafe impl<F: Family> aya::Pod for $name<F> {}
    )*};
}

// The literal sizes are the sums of the fields' sizes: equality means no padding.
pod! {
    FrontendKey: 8, 20;
    Backend: 8, 20;
    Source: 8, 20;
    Affinity: 12, 24;
    BackendKey: 12, 24;
    FlowKey: 16, 40;
    Flow: 48, 96;
    SocketKey: 16, 28;
    SocketPeer: 8, 20;
    FragmentKey: 16, 40;
}

// One cache line, or two.
const _: () = assert!(size_of::<Record<V4>>() == 64 && size_of::<Record<V6>>() == 128);
const _: () = assert!(
    size_of::<Frontend>() == 20
        && size_of::<NodeConfig>() == 40
        && size_of::<BackendState>() == 16
        && size_of::<ServiceLabel>() == 200
);

#[cfg(feature = "user")]
mod user {
    // SAFETY: these derive bytemuck::Pod, which asks for the same.
    unsafe impl aya::Pod for super::Frontend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Ports {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Traffic {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::BackendState {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NodeConfig {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Shape {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ServiceLabel {}
    // SAFETY: no padding, as family.rs asserts.
    unsafe impl<const N: usize> aya::Pod for crate::family::Ip<N> {}
}
