//! The maps of a loaded object as the agent would keep them: only what changed is written.

use std::collections::BTreeMap;

use aya::maps::Array;
use aya::maps::lpm_trie::{Key, LpmTrie};
use svc_common::family::Family;
use svc_common::memory::Memory;
use svc_common::table::{BackendState, Source};
use svc_tests::random::world;

use crate::kernel::{Kernel, Keyed, replace};
use crate::network::Network;

/// Bits of a [`Source`] before the address.
const SERVICE_BITS: u32 = 32;

impl Kernel {
    /// Makes the maps of `old` those of `new`. What the programs keep in them (flows, affinity, counts) stays.
    pub(crate) fn refill<F: Keyed>(&mut self, old: &Memory<F>, new: &Memory<F>) {
        self.swap::<F, _, _>("ADDRESSES", &old.addresses, &new.addresses);
        if old.addresses != new.addresses {
            self.filter(new);
        }
        self.swap::<F, _, _>("FRONTENDS", &old.frontends, &new.frontends);
        self.refill_backends(old, new);
        self.refill_ranges(old, new);
        let version = F::VERSION;
        let slots = self
            .ebpf
            .map_mut(&format!("SLOTS_V{version}"))
            .expect("in the object");
        let mut slots = Array::try_from(slots).expect("typed");
        for (index, backend) in &new.slots {
            slots.set(*index, *backend, 0).expect("in range");
        }
        let mut config =
            Array::try_from(self.ebpf.map_mut("CONFIG").expect("in the object")).expect("typed");
        let settings = new.config.unwrap_or_default();
        config.set(0, settings, 0).expect("in range");
        // One epoch for both families; that it changes is all that matters.
        if old.epoch.get() != new.epoch.get() {
            let epoch = self.ebpf.map_mut("EPOCH").expect("in the object");
            let mut epoch = Array::<_, u32>::try_from(epoch).expect("typed");
            let now = epoch.get(&0, 0).expect("in range");
            epoch.set(0, now.wrapping_add(1), 0).expect("in range");
        }
    }

    /// Tells the programs with which address the node leaves by each device.
    pub(crate) fn set_devices<F: Keyed>(&mut self, network: &Network) {
        let mut devices = self.map::<u32, F::Addr>(&format!("DEVICES_V{}", F::VERSION));
        let [nic, second, pods] = [network.nic, network.second_nic, network.pods];
        for (index, (net, host)) in [
            (0, world::NODE),
            (nic.index, world::NODE),
            (second.index, world::NODE_SECOND),
            (pods.index, world::NODE),
        ] {
            let addr = world::addr::<F>(net, host);
            devices.insert(index, addr, 0).expect("room");
        }
    }

    fn swap<F: Family, K: aya::Pod + Ord, V: aya::Pod + PartialEq>(
        &mut self,
        name: &str,
        old: &BTreeMap<K, V>,
        new: &BTreeMap<K, V>,
    ) {
        let mut map = self.map::<K, V>(&format!("{name}_V{}", F::VERSION));
        for key in old.keys().filter(|key| !new.contains_key(key)) {
            map.remove(key).expect("was written");
        }
        for (key, value) in new
            .iter()
            .filter(|(key, value)| old.get(key) != Some(value))
        {
            map.insert(*key, *value, 0).expect("room");
        }
    }

    fn refill_backends<F: Keyed>(&mut self, old: &Memory<F>, new: &Memory<F>) {
        let (old, new) = (old.backends.borrow(), new.backends.borrow());
        let mut map = self.map(&format!("BACKENDS_V{}", F::VERSION));
        for key in old.keys().filter(|key| !new.contains_key(key)) {
            map.remove(key).expect("was written");
        }
        for (key, state) in new
            .iter()
            .filter(|(key, state)| old.get(key) != Some(state))
        {
            let known: Option<BackendState> = map.get(key, 0).ok();
            let connections = known.map_or(0, |known| known.connections);
            let state = BackendState {
                connections,
                ..*state
            };
            map.insert(*key, state, 0).expect("room");
        }
    }

    fn refill_ranges<F: Keyed>(&mut self, old: &Memory<F>, new: &Memory<F>) {
        let map = self
            .ebpf
            .map_mut(&format!("RANGES_V{}", F::VERSION))
            .expect("in the object");
        let mut map = LpmTrie::<_, Source<F>, u32>::try_from(map).expect("typed");
        for (source, prefix) in old.ranges.difference(&new.ranges) {
            let key = Key::new(SERVICE_BITS + prefix, *source);
            map.remove(&key).expect("was written");
        }
        for (source, prefix) in new.ranges.difference(&old.ranges) {
            let key = Key::new(SERVICE_BITS + prefix, *source);
            map.insert(&key, 0, 0).expect("room");
        }
    }

    /// Forgets what the programs know of clients.
    pub(crate) fn forget<F: Keyed>(&mut self) {
        let flows = self.flows::<F>();
        for flow in flows.all() {
            flows.remove(flow.own_key());
        }
        replace(self.affinities::<F>(), &BTreeMap::new());
    }

    /// Moves what the programs know of clients into the past.
    pub(crate) fn age<F: Keyed>(&mut self, seconds: u32) {
        let mut affinities = self.affinities::<F>();
        let known: Vec<_> = affinities
            .iter()
            .collect::<Result<_, _>>()
            .expect("readable");
        for (client, mut affinity) in known {
            affinity.seen = affinity.seen.saturating_sub(seconds);
            affinities.insert(client, affinity, 0).expect("room");
        }
    }
}
