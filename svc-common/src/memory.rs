//! [`Tables`] in ordinary memory: what the packet line asks of when there is no kernel under it, in tests and tools.
//! Routes, clock and random numbers are whatever the owner sets.

extern crate std;

use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::family::{Addr, Family};
use crate::table::{
    Backend, Flow, FlowKey, FragmentKey, Frontend, FrontendKey, NodeConfig, Ports, Tables,
};

/// One family's tables.
#[derive(Clone, Debug)]
pub struct Memory<F: Family> {
    pub addresses: BTreeMap<F::Addr, u32>,
    pub frontends: BTreeMap<FrontendKey<F>, Frontend>,
    pub slots: BTreeMap<u32, Backend<F>>,
    pub flows: RefCell<BTreeMap<FlowKey<F>, Flow<F>>>,
    pub fragments: RefCell<HashMap<FragmentKey<F>, Ports>>,
    pub config: Option<NodeConfig>,
    /// The answers of [`Tables::source_towards`], by destination.
    pub routes: BTreeMap<F::Addr, F::Addr>,
    pub node_address: Option<F::Addr>,
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
            frontends: BTreeMap::new(),
            slots: BTreeMap::new(),
            flows: RefCell::default(),
            fragments: RefCell::default(),
            config: None,
            routes: BTreeMap::new(),
            node_address: None,
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

    fn frontend(&self, key: &FrontendKey<F>) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn slot(&self, index: u32) -> Option<Backend<F>> {
        self.slots.get(&index).copied()
    }

    fn flow<R>(&self, key: &FlowKey<F>, f: impl FnOnce(&mut Flow<F>) -> R) -> Option<R> {
        self.flows.borrow_mut().get_mut(key).map(f)
    }

    fn insert_flow(&self, key: &FlowKey<F>, flow: &Flow<F>, only_new: bool) -> bool {
        let mut flows = self.flows.borrow_mut();
        if only_new && flows.contains_key(key) {
            return false;
        }
        flows.insert(*key, *flow);
        true
    }

    /// The room is full of rubbish, as it may be in the kernel.
    fn scratch<R>(&self, f: impl FnOnce(&mut Flow<F>) -> R) -> Option<R> {
        let mut flow = Flow {
            seen: 0xa5a5_a5a5,
            service: 0xa5a5_a5a5,
            client: F::Addr::UNSPECIFIED,
            frontend: F::Addr::UNSPECIFIED,
            backend: F::Addr::UNSPECIFIED,
            nat: F::Addr::UNSPECIFIED,
            client_port: crate::family::Port(0xa5a5),
            frontend_port: crate::family::Port(0xa5a5),
            backend_port: crate::family::Port(0xa5a5),
            nat_port: crate::family::Port(0xa5a5),
            flags: 0xa5,
            state: 0xa5,
            _pad: 0xa5a5,
        };
        Some(f(&mut flow))
    }

    fn fragment(&self, key: &FragmentKey<F>) -> Option<Ports> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey<F>, ports: Ports) {
        self.fragments.borrow_mut().insert(*key, ports);
    }

    fn config(&self) -> Option<NodeConfig> {
        self.config
    }

    fn source_towards(&self, dst: &F::Addr) -> Option<F::Addr> {
        self.routes.get(dst).copied()
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
