//! Loaded objects that one test after the other uses: to have them verified anew each time took most of the layer's time,
//! and under emulation (`cargo xtask kernels`) all of it.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use svc_common::event::{Event, MAX_EVENTS};
use svc_common::family::{V4, V6};
use svc_common::memory::Memory;
use svc_common::table::{
    Backend, BackendKey, BackendState, FragmentKey, Frontend, FrontendKey, NodeConfig, Ports,
};

use crate::kernel::{Kernel, Keyed};

static IDLE: Mutex<Vec<Ebpf>> = Mutex::new(Vec::new());

/// Slots, turns and counters that tests use are below it.
const USED: u32 = 4_096;

/// One that no test uses, with its maps as the last one left them.
pub(crate) fn idle() -> Option<Lent> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    idle.pop().map(Lent::to_return)
}

/// An object that is given back when its test has passed.
pub(crate) struct Lent {
    object: Option<Ebpf>,
    returns: bool,
}

impl Lent {
    pub(crate) fn to_return(object: Ebpf) -> Self {
        Self {
            object: Some(object),
            returns: true,
        }
    }

    pub(crate) fn to_drop(object: Ebpf) -> Self {
        Self {
            object: Some(object),
            returns: false,
        }
    }
}

impl Deref for Lent {
    type Target = Ebpf;

    fn deref(&self) -> &Ebpf {
        self.object.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Ebpf {
        self.object.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.object.take()
            && self.returns
            && !std::thread::panicking()
        {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(object);
        }
    }
}

impl Kernel {
    /// Empties the maps that programs and tests write.
    pub(crate) fn clear(&mut self) {
        self.clear_family::<V4>();
        self.clear_family::<V6>();
        self.empty::<u32, u32>("PEERS");
        self.watch(0, 0);
        self.zero::<NodeConfig>("CONFIG", 1);
        self.zero::<u32>("EPOCH", 1);
        self.zero::<u64>("TURNS", USED);
        self.zero::<u64>("CONNECTIONS", USED);
        if self.event_count() > 0 {
            self.zero::<u64>("EVENT_HEAD", 1);
            self.zero::<Event>("EVENTS", MAX_EVENTS);
        }
    }

    fn clear_family<F: Keyed>(&mut self) {
        let name = |map: &str| format!("{map}_V{}", F::VERSION);
        self.empty::<F::Addr, u32>(&name("ADDRESSES"));
        self.empty::<FrontendKey<F>, Frontend>(&name("FRONTENDS"));
        self.empty::<BackendKey<F>, BackendState>(&name("BACKENDS"));
        self.empty::<FragmentKey<F>, Ports>(&name("FRAGMENTS"));
        self.empty::<u32, F::Addr>(&name("DEVICES"));
        self.clear_ranges::<F>();
        self.forget::<F>();
        self.zero::<Backend<F>>(&name("SLOTS"), USED);
        self.filter(&Memory::<F>::default());
    }

    fn empty<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) {
        let mut map = self.map::<K, V>(name);
        let keys: Vec<K> = map.keys().collect::<Result<_, _>>().expect("readable");
        for key in keys {
            map.remove(&key).expect("there");
        }
    }

    fn zero<V: aya::Pod>(&mut self, name: &str, entries: u32) {
        let mut array = self.array::<V>(name);
        // SAFETY: aya's Pod are types of which every pattern of bits is a value.
        let nothing = unsafe { std::mem::zeroed::<V>() };
        for index in 0..entries {
            array.set(index, nothing, 0).expect("in range");
        }
    }
}
