//! The pinned maps, typed: `Actual` ← maps, `Changes` → maps.

mod foreign;
mod sockets;

pub use sockets::Deserted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use svc_common::family::{Addr, Family, V4, V6};
use svc_common::reason::Reason;
use svc_common::table::{
    Affinity, Backend, BackendKey, BackendState, Flow, FlowKey, Frontend, FrontendKey, NodeConfig,
    ServiceLabel, SocketKey, SocketPeer, Source,
};

use super::Error;
use crate::connections::Connections;
use crate::inspect::{Affinities, Flows, Snapshot};
use crate::plan::{Actual, Changes, FamilyChanges, Range, Write, label};

/// The names of one family's maps in the object.
#[derive(Clone, Copy)]
struct Names {
    addresses: &'static str,
    frontends: &'static str,
    slots: &'static str,
    flows: &'static str,
    sockets: &'static str,
    devices: &'static str,
    backends: &'static str,
    ranges: &'static str,
    affinities: &'static str,
}

const V4_NAMES: Names = Names {
    addresses: "ADDRESSES_V4",
    frontends: "FRONTENDS_V4",
    slots: "SLOTS_V4",
    flows: "FLOWS_V4",
    sockets: "SOCKETS_V4",
    devices: "DEVICES_V4",
    backends: "BACKENDS_V4",
    ranges: "RANGES_V4",
    affinities: "AFFINITY_V4",
};
const V6_NAMES: Names = Names {
    addresses: "ADDRESSES_V6",
    frontends: "FRONTENDS_V6",
    slots: "SLOTS_V6",
    flows: "FLOWS_V6",
    sockets: "SOCKETS_V6",
    devices: "DEVICES_V6",
    backends: "BACKENDS_V6",
    ranges: "RANGES_V6",
    affinities: "AFFINITY_V6",
};

/// Every map that outlives the agent.
pub(super) const PINNED: [&str; 26] = [
    "ADDRESSES_V4",
    "ADDRESSES_V6",
    "FRONTENDS_V4",
    "FRONTENDS_V6",
    "SLOTS_V4",
    "SLOTS_V6",
    "FLOWS_V4",
    "FLOWS_V6",
    "SOCKETS_V4",
    "SOCKETS_V6",
    "FRAGMENTS_V4",
    "FRAGMENTS_V6",
    "DEVICES_V4",
    "DEVICES_V6",
    "RANGES_V4",
    "RANGES_V6",
    "AFFINITY_V4",
    "AFFINITY_V6",
    "BACKENDS_V4",
    "BACKENDS_V6",
    "TURNS",
    "EPOCH",
    "CONFIG",
    "SERVICES",
    "REASONS",
    "XDP_DEVICES",
];

/// Where maps come from: the object that was just loaded, or their pins.
pub(super) trait Supply {
    fn take(&mut self, name: &'static str) -> Result<Map, Error>;
}

impl Supply for Ebpf {
    fn take(&mut self, name: &'static str) -> Result<Map, Error> {
        self.take_map(name).ok_or(Error::Missing(name))
    }
}

impl Supply for &Path {
    fn take(&mut self, name: &'static str) -> Result<Map, Error> {
        let failed = |cause| Error::Map {
            what: "open pinned",
            name,
            cause,
        };
        let data = MapData::from_pin(self.join(name)).map_err(failed)?;
        Map::from_map_data(data).map_err(failed)
    }
}

type FlowEntries<F> = Vec<(FlowKey<F>, Flow<F>)>;

/// The clock that the programs stamp flows with.
fn seconds_since_boot() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.ok()
        .and_then(|now| u32::try_from(now.tv_sec()).ok())
        .unwrap_or(0)
}

pub(super) struct FamilyMaps<F: Family>
where
    F::Addr: aya::Pod,
{
    names: Names,
    addresses: HashMap<MapData, F::Addr, u32>,
    frontends: HashMap<MapData, FrontendKey<F>, Frontend>,
    slots: Array<MapData, Backend<F>>,
    flows: HashMap<MapData, FlowKey<F>, Flow<F>>,
    sockets: HashMap<MapData, SocketKey<F>, SocketPeer<F>>,
    devices: HashMap<MapData, u32, F::Addr>,
    backends: HashMap<MapData, BackendKey<F>, BackendState>,
    ranges: LpmTrie<MapData, Source<F>, u32>,
    affinities: HashMap<MapData, Source<F>, Affinity<F>>,
}

/// All maps that the agent reads or writes.
pub(super) struct Maps {
    v4: FamilyMaps<V4>,
    v6: FamilyMaps<V6>,
    services: HashMap<MapData, u32, ServiceLabel>,
    config: Array<MapData, NodeConfig>,
    epoch: Array<MapData, u32>,
    reasons: PerCpuArray<MapData, u64>,
}

fn typed<T: TryFrom<Map, Error = MapError>>(
    supply: &mut impl Supply,
    name: &'static str,
) -> Result<T, Error> {
    T::try_from(supply.take(name)?).map_err(failing("use", name))
}

fn failing(what: &'static str, name: &'static str) -> impl Fn(MapError) -> Error {
    move |cause| Error::Map { what, name, cause }
}

/// Removing what is not there is no error.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

/// The service id in front of the address counts too.
const SERVICE_BITS: u32 = 32;

fn trie_key<F: Family>((source, prefix): Range<F>) -> Key<Source<F>> {
    Key::new(SERVICE_BITS + prefix, source)
}

/// What flows know of their backends is to be asked again.
fn end_epoch(epoch: &mut Array<MapData, u32>) -> Result<(), Error> {
    let now = epoch.get(&0, 0).map_err(failing("read", "EPOCH"))?;
    epoch
        .set(0, now.wrapping_add(1), 0)
        .map_err(failing("write", "EPOCH"))
}

impl<F: Family> FamilyMaps<F>
where
    F::Addr: aya::Pod,
{
    fn take(supply: &mut impl Supply, names: Names) -> Result<Self, Error> {
        Ok(Self {
            names,
            addresses: typed(supply, names.addresses)?,
            frontends: typed(supply, names.frontends)?,
            slots: typed(supply, names.slots)?,
            flows: typed(supply, names.flows)?,
            sockets: typed(supply, names.sockets)?,
            devices: typed(supply, names.devices)?,
            backends: typed(supply, names.backends)?,
            ranges: typed(supply, names.ranges)?,
            affinities: typed(supply, names.affinities)?,
        })
    }

    fn read(&self) -> Result<Actual<F>, Error> {
        let frontends: BTreeMap<_, _> = self
            .frontends
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failing("read", self.names.frontends))?;
        let addresses: BTreeMap<_, _> = self
            .addresses
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failing("read", self.names.addresses))?;
        let slot = |index: u32| match self.slots.get(&index, 0) {
            Ok(backend) => Ok(Some(backend)),
            Err(MapError::OutOfBounds { .. }) => Ok(None),
            Err(cause) => Err(failing("read", self.names.slots)(cause)),
        };
        let backends = self
            .backends
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failing("read", self.names.backends))?;
        let ranges: BTreeSet<Range<F>> = self
            .ranges
            .keys()
            .map(|key| key.map(|key| (key.data(), key.prefix_len().saturating_sub(SERVICE_BITS))))
            .collect::<Result<_, _>>()
            .map_err(failing("read", self.names.ranges))?;
        Actual::read(frontends, addresses, backends, ranges, slot)
    }

    fn flows(&self) -> Result<FlowEntries<F>, Error> {
        self.flows
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failing("read", self.names.flows))
    }

    fn affinities(&self) -> Result<Vec<(Source<F>, Affinity<F>)>, Error> {
        self.affinities
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failing("read", self.names.affinities))
    }

    fn set_connections(&mut self, counts: &BTreeMap<BackendKey<F>, u64>) -> Result<(), Error> {
        for (key, &connections) in counts {
            match self.backends.get(key, 0) {
                Ok(state) if state.connections != connections => {
                    let state = BackendState {
                        connections,
                        ..state
                    };
                    self.backends
                        .insert(key, state, 0)
                        .map_err(failing("write", self.names.backends))?;
                }
                Ok(_) | Err(MapError::KeyNotFound) => (),
                Err(cause) => return Err(failing("read", self.names.backends)(cause)),
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        changes: &FamilyChanges<F>,
        epoch: &mut Array<MapData, u32>,
    ) -> Result<(), Error> {
        let names = self.names;
        for write in changes.writes() {
            match write {
                Write::Backend { key, state } => self.set_backend(key, state)?,
                Write::RemoveBackend { key } => {
                    gone(self.backends.remove(&key)).map_err(failing("write", names.backends))?;
                }
                Write::Range(range) => {
                    self.ranges
                        .insert(&trie_key(range), 1, 0)
                        .map_err(failing("write", names.ranges))?;
                }
                Write::RemoveRange(range) => {
                    gone(self.ranges.remove(&trie_key(range)))
                        .map_err(failing("write", names.ranges))?;
                }
                Write::Epoch => end_epoch(epoch)?,
                Write::Slots { first, backends } => {
                    for (index, backend) in (first..).zip(backends) {
                        self.slots
                            .set(index, backend, 0)
                            .map_err(failing("write", names.slots))?;
                    }
                }
                Write::Address { addr, flags } => {
                    self.addresses
                        .insert(addr, flags, 0)
                        .map_err(failing("write", names.addresses))?;
                }
                Write::RemoveAddress { addr } => {
                    gone(self.addresses.remove(&addr))
                        .map_err(failing("write", names.addresses))?;
                }
                Write::Frontend { key, value } => {
                    self.frontends
                        .insert(key, value, 0)
                        .map_err(failing("write", names.frontends))?;
                }
                Write::RemoveFrontend { key } => {
                    gone(self.frontends.remove(&key)).map_err(failing("write", names.frontends))?;
                }
            }
        }
        Ok(())
    }

    /// The programs count connections meanwhile: what they add between the two calls is lost, until the next recount.
    fn set_backend(&mut self, key: BackendKey<F>, state: BackendState) -> Result<(), Error> {
        let connections = match self.backends.get(&key, 0) {
            Ok(before) => before.connections,
            Err(MapError::KeyNotFound) => 0,
            Err(cause) => return Err(failing("read", self.names.backends)(cause)),
        };
        let state = BackendState {
            connections,
            ..state
        };
        self.backends
            .insert(key, state, 0)
            .map_err(failing("write", self.names.backends))
    }

    /// Makes DEVICES say exactly this.
    fn set_devices(&mut self, wanted: &BTreeMap<u32, F::Addr>) -> Result<(), Error> {
        let name = self.names.devices;
        let actual: BTreeMap<u32, F::Addr> = self
            .devices
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failing("read", name))?;
        for (ifindex, addr) in wanted {
            if actual.get(ifindex) != Some(addr) {
                self.devices
                    .insert(ifindex, addr, 0)
                    .map_err(failing("write", name))?;
            }
        }
        for ifindex in actual
            .keys()
            .filter(|ifindex| !wanted.contains_key(ifindex))
        {
            gone(self.devices.remove(ifindex)).map_err(failing("write", name))?;
        }
        Ok(())
    }
}

impl Maps {
    pub(super) fn take(supply: &mut impl Supply) -> Result<Self, Error> {
        Ok(Self {
            v4: FamilyMaps::take(supply, V4_NAMES)?,
            v6: FamilyMaps::take(supply, V6_NAMES)?,
            services: typed(supply, "SERVICES")?,
            config: typed(supply, "CONFIG")?,
            epoch: typed(supply, "EPOCH")?,
            reasons: typed(supply, "REASONS")?,
        })
    }

    pub(super) fn read(&self) -> Result<Snapshot, Error> {
        let labels: BTreeMap<u32, ServiceLabel> = self
            .services
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failing("read", "SERVICES"))?;
        let services = labels
            .iter()
            .map(|(id, value)| (*id, label::decode(value)))
            .collect();
        Ok(Snapshot {
            v4: self.v4.read()?,
            v6: self.v6.read()?,
            services,
        })
    }

    pub(super) fn flows(&self) -> Result<Flows, Error> {
        Ok(Flows {
            v4: self.v4.flows()?,
            v6: self.v6.flows()?,
            now: seconds_since_boot(),
        })
    }

    pub(super) fn affinities(&self) -> Result<Affinities, Error> {
        Ok(Affinities {
            v4: self.v4.affinities()?,
            v6: self.v6.affinities()?,
            now: seconds_since_boot(),
        })
    }

    pub(super) fn set_connections(&mut self, connections: &Connections) -> Result<(), Error> {
        self.v4.set_connections(&connections.v4)?;
        self.v6.set_connections(&connections.v6)
    }

    pub(super) fn config(&self) -> Result<NodeConfig, Error> {
        self.config.get(&0, 0).map_err(failing("read", "CONFIG"))
    }

    pub(super) fn apply(&mut self, changes: &Changes) -> Result<(), Error> {
        for (id, text) in &changes.services_in {
            let Some(value) = label::encode(text) else {
                continue;
            };
            self.services
                .insert(id, value, 0)
                .map_err(failing("write", "SERVICES"))?;
        }
        self.v4.apply(&changes.v4, &mut self.epoch)?;
        self.v6.apply(&changes.v6, &mut self.epoch)?;
        for id in &changes.services_out {
            gone(self.services.remove(id)).map_err(failing("write", "SERVICES"))?;
        }
        Ok(())
    }

    pub(super) fn end_epoch(&mut self) -> Result<(), Error> {
        end_epoch(&mut self.epoch)
    }

    pub(super) fn configure(&mut self, config: &NodeConfig) -> Result<(), Error> {
        self.config
            .set(0, config, 0)
            .map_err(failing("write", "CONFIG"))
    }

    pub(super) fn set_devices(&mut self, addresses: &super::DeviceAddresses) -> Result<(), Error> {
        fn of<F: Family>(addresses: &super::DeviceAddresses) -> BTreeMap<u32, F::Addr> {
            let own = addresses
                .iter()
                .filter_map(|((ifindex, _), ip)| Some((*ifindex, F::addr_from_std(*ip)?)));
            own.filter(|(_, addr)| *addr != F::Addr::UNSPECIFIED)
                .collect()
        }
        self.v4.set_devices(&of::<V4>(addresses))?;
        self.v6.set_devices(&of::<V6>(addresses))
    }

    /// Packets and calls that did not go through, by reason.
    pub(super) fn reasons(&self) -> Result<Vec<(Reason, u64)>, Error> {
        let total = |reason: Reason| {
            let per_cpu = self
                .reasons
                .get(&(reason as u32), 0)
                .map_err(failing("read", "REASONS"))?;
            Ok((reason, per_cpu.iter().sum()))
        };
        Reason::ALL.into_iter().map(total).collect()
    }
}
