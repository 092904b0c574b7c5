//! [`Tables`] in ordinary memory: what the packet line asks of when there is no kernel under it, in tests and tools.
//! Routes, clock and random numbers are whatever the owner sets.

extern crate std;

use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::family::{Addr, Family};
use crate::flow::table::may_take;
use crate::onward::Hop;
use crate::table::{
    Affinity, Backend, BackendKey, BackendState, Flow, FlowKey, FragmentKey, Frontend, FrontendKey,
    Insert, NodeConfig, Ports, SocketKey, SocketPeer, Source, Tables, flow_flags,
};

/// One family's tables.
#[derive(Clone, Debug)]
pub struct Memory<F: Family> {
    pub addresses: BTreeMap<F::Addr, u32>,
    /// Whether every address shares a bit with one of these, of the filter in front of them.
    pub crowded: bool,
    pub frontends: BTreeMap<FrontendKey<F>, Frontend>,
    pub slots: BTreeMap<u32, Backend<F>>,
    /// By [`Flow::own_key`].
    pub flows: RefCell<BTreeMap<FlowKey<F>, Flow<F>>>,
    pub fragments: RefCell<HashMap<FragmentKey<F>, Ports>>,
    pub sockets: RefCell<HashMap<SocketKey<F>, SocketPeer<F>>>,
    /// Source ranges with their prefix length, that of the address alone.
    pub ranges: BTreeSet<(Source<F>, u32)>,
    pub affinities: RefCell<BTreeMap<Source<F>, Affinity<F>>>,
    pub backends: RefCell<BTreeMap<BackendKey<F>, BackendState>>,
    pub turns: RefCell<BTreeMap<u32, u32>>,
    pub epoch: Cell<u16>,
    pub config: Option<NodeConfig>,
    /// The answers of [`Tables::source_towards`], by destination.
    pub routes: BTreeMap<F::Addr, F::Addr>,
    pub node_address: Option<F::Addr>,
    /// The answers of [`Tables::peer`], by destination.
    pub peers: BTreeMap<F::Addr, Hop>,
    /// Seconds of the monotonic clock.
    pub now: Cell<u32>,
    /// The next random numbers; when they have run out, `seed` makes more.
    pub dice: RefCell<VecDeque<u32>>,
    pub seed: Cell<u64>,
}

impl<F: Family> Default for Memory<F> {
    fn default() -> Self {
        Self {
            addresses: BTreeMap::new(),
            crowded: false,
            frontends: BTreeMap::new(),
            slots: BTreeMap::new(),
            flows: RefCell::default(),
            fragments: RefCell::default(),
            sockets: RefCell::default(),
            ranges: BTreeSet::new(),
            affinities: RefCell::default(),
            backends: RefCell::default(),
            turns: RefCell::default(),
            epoch: Cell::new(0),
            config: None,
            routes: BTreeMap::new(),
            node_address: None,
            peers: BTreeMap::new(),
            now: Cell::new(0),
            dice: RefCell::default(),
            seed: Cell::new(0x9e37_79b9_7f4a_7c15),
        }
    }
}

impl<F: Family> Tables<F> for Memory<F> {
    fn address(&self, addr: &F::Addr) -> u32 {
        self.addresses.get(addr).copied().unwrap_or(0)
    }

    fn may_have_address(&self, addr: &F::Addr) -> bool {
        self.crowded || self.address(addr) != 0
    }

    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn slot(&self, index: u32) -> Option<Backend<F>> {
        self.slots.get(&index).copied()
    }

    fn flow<R>(&self, key: &FlowKey<F>, f: impl FnOnce(&mut Flow<F>, bool) -> R) -> Option<R> {
        let mut flows = self.flows.borrow_mut();
        let (own, reply) = found(&flows, key)?;
        flows.get_mut(&own).map(|flow| f(flow, reply))
    }

    fn insert_flow(&self, flow: &Flow<F>, limit: u32) -> Insert {
        let mut flows = self.flows.borrow_mut();
        if let Some((own, reply)) = found(&flows, &flow.forward) {
            let mut old = flows.remove(&own).expect("it was found");
            if !reply && old.has_answers() && old.reply != flow.reply {
                old.flags |= flow_flags::LATE;
                flows.insert(own, old);
            }
        }
        if flow.has_answers()
            && let Some((owner, _)) = found(&flows, &flow.reply)
        {
            let config = self.config.unwrap_or_default();
            let old = &flows[&owner];
            let worth = old.worth(flow.seen, &config);
            if old.forward != flow.forward && !may_take(worth, limit) {
                return Insert::Taken(worth);
            }
            flows.remove(&owner);
        }
        flows.insert(*flow.own_key(), *flow);
        Insert::Done
    }

    fn scratch<R>(&self, f: impl FnOnce(&mut Flow<F>) -> R) -> Option<R> {
        let key = FlowKey {
            src: F::Addr::UNSPECIFIED,
            dst: F::Addr::UNSPECIFIED,
            sport: crate::family::Port(0xa5a5),
            dport: crate::family::Port(0xa5a5),
            proto: 0xa5,
            _pad: 0,
        };
        let mut flow = Flow {
            forward: key,
            reply: key,
            seen: 0xa5a5_a5a5,
            service: 0xa5a5_a5a5,
            epoch: 0xa5a5,
            flags: 0xa5,
            client_state: 0xa5,
            backend_state: 0xa5,
            _pad: [0; 3],
        };
        Some(f(&mut flow))
    }

    fn fragment(&self, key: &FragmentKey<F>) -> Option<Ports> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey<F>, ports: Ports) {
        self.fragments.borrow_mut().insert(*key, ports);
    }

    fn socket(&self, key: &SocketKey<F>) -> Option<SocketPeer<F>> {
        self.sockets.borrow().get(key).copied()
    }

    fn remember_socket(&self, key: &SocketKey<F>, peer: &SocketPeer<F>) {
        self.sockets.borrow_mut().insert(*key, *peer);
    }

    fn in_range(&self, source: &Source<F>) -> bool {
        self.ranges.iter().any(|(range, prefix)| {
            range.service == source.service && same_prefix(&range.addr, &source.addr, *prefix)
        })
    }

    fn affinity(&self, client: &Source<F>) -> Option<Affinity<F>> {
        self.affinities.borrow().get(client).copied()
    }

    fn remember_affinity(&self, client: &Source<F>, affinity: &Affinity<F>) {
        self.affinities.borrow_mut().insert(*client, *affinity);
    }

    fn backend(&self, key: &BackendKey<F>) -> Option<BackendState> {
        self.backends.borrow().get(key).copied()
    }

    fn count_connection(&self, key: &BackendKey<F>, difference: i64) {
        if let Some(state) = self.backends.borrow_mut().get_mut(key) {
            state.connections = state.connections.wrapping_add_signed(difference);
        }
    }

    fn turn(&self, first: u32) -> u32 {
        let mut turns = self.turns.borrow_mut();
        let turn = turns.entry(first).or_default();
        *turn = turn.wrapping_add(1);
        turn.wrapping_sub(1)
    }

    fn epoch(&self) -> u16 {
        self.epoch.get()
    }

    fn config(&self) -> Option<NodeConfig> {
        self.config
    }

    fn source_towards(&self, dst: &F::Addr) -> Option<F::Addr> {
        self.routes.get(dst).copied()
    }

    fn peer(&self, _: &F::Addr, dst: &F::Addr, _: usize, hop: &mut Hop) -> bool {
        self.peers.get(dst).map(|peer| *hop = *peer).is_some()
    }

    fn node_address(&self) -> Option<F::Addr> {
        self.node_address
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    /// Xorshift (Marsaglia 2003) once the dice have run out.
    fn random(&self) -> u32 {
        if let Some(number) = self.dice.borrow_mut().pop_front() {
            return number;
        }
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        (x >> 32) as u32
    }
}

/// The key of a packet's flow, and whether the packet is an answer.
fn found<F: Family>(
    flows: &BTreeMap<FlowKey<F>, Flow<F>>,
    key: &FlowKey<F>,
) -> Option<(FlowKey<F>, bool)> {
    if flows.get(key).is_some_and(Flow::has_answers) {
        return Some((*key, true));
    }
    flows
        .iter()
        .find(|(_, flow)| flow.flags & flow_flags::LATE == 0 && flow.forward == *key)
        .map(|(own, _)| (*own, false))
}

/// Whether two addresses have their first `prefix` bits in common.
fn same_prefix<A: Addr>(a: &A, b: &A, prefix: u32) -> bool {
    (0..A::WORDS).all(|i| {
        let kept = prefix.saturating_sub(16 * i as u32).min(16);
        let mask = (0xffff_u32 << (16 - kept)) as u16;
        u16::from_be(a.word(i) ^ b.word(i)) & mask == 0
    })
}
