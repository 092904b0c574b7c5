//! One family's maps.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};
use svc_common::family::{Family, Port};
use svc_common::table::{
    Affinity, Backend, BackendKey, BackendState, Frontend, FrontendKey, Scope, SocketKey,
    SocketPeer, Source,
};

use super::batch::Batch;
use super::filter::FamilyFilter;
use super::{Supply, batched, end_epoch, failing, found, gone, typed};
use crate::dataplane::Error;
use crate::dataplane::flows::FlowMaps;
use crate::plan::{Actual, FamilyChanges, Range, Write};

type AffinityEntries<F> = Vec<(Source<F>, Affinity<F>)>;

/// The names of one family's maps in the object.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub(super) addresses: &'static str,
    pub(super) frontends: &'static str,
    pub(super) slots: &'static str,
    pub(super) sockets: &'static str,
    pub(super) devices: &'static str,
    pub(super) backends: &'static str,
    pub(super) ranges: &'static str,
    pub(super) affinities: &'static str,
}

pub(super) const V4_NAMES: Names = Names {
    addresses: "ADDRESSES_V4",
    frontends: "FRONTENDS_V4",
    slots: "SLOTS_V4",
    sockets: "SOCKETS_V4",
    devices: "DEVICES_V4",
    backends: "BACKENDS_V4",
    ranges: "RANGES_V4",
    affinities: "AFFINITY_V4",
};
pub(super) const V6_NAMES: Names = Names {
    addresses: "ADDRESSES_V6",
    frontends: "FRONTENDS_V6",
    slots: "SLOTS_V6",
    sockets: "SOCKETS_V6",
    devices: "DEVICES_V6",
    backends: "BACKENDS_V6",
    ranges: "RANGES_V6",
    affinities: "AFFINITY_V6",
};

pub(super) struct FamilyMaps<F: Family>
where
    F::Addr: aya::Pod,
{
    pub(super) names: Names,
    pub(super) addresses: HashMap<MapData, F::Addr, u32>,
    pub(super) frontends: HashMap<MapData, FrontendKey<F>, Frontend>,
    pub(super) slots: Array<MapData, Backend<F>>,
    pub(super) flows: FlowMaps<F>,
    pub(super) sockets: HashMap<MapData, SocketKey<F>, SocketPeer<F>>,
    pub(super) devices: HashMap<MapData, u32, F::Addr>,
    pub(super) backends: HashMap<MapData, BackendKey<F>, BackendState>,
    pub(super) ranges: LpmTrie<MapData, Source<F>, u32>,
    pub(super) affinities: HashMap<MapData, Source<F>, Affinity<F>>,
    batches: Batches<F>,
}

/// The maps that whole lists are written to.
struct Batches<F: Family> {
    addresses: Batch<F::Addr, u32>,
    frontends: Batch<FrontendKey<F>, Frontend>,
    slots: Batch<u32, Backend<F>>,
    backends: Batch<BackendKey<F>, BackendState>,
}

/// The service id in front of the address counts too.
const SERVICE_BITS: u32 = 32;

fn trie_key<F: Family>((source, prefix): Range<F>) -> Key<Source<F>> {
    Key::new(SERVICE_BITS + prefix, source)
}

impl<F: Family> FamilyMaps<F>
where
    F::Addr: aya::Pod,
{
    pub(super) fn take(
        supply: &mut impl Supply,
        names: Names,
        flows: FlowMaps<F>,
    ) -> Result<Self, Error> {
        let (addresses, in_addresses) = batched(supply, names.addresses)?;
        let (frontends, in_frontends) = batched(supply, names.frontends)?;
        let (slots, in_slots) = batched(supply, names.slots)?;
        let (backends, in_backends) = batched(supply, names.backends)?;
        Ok(Self {
            names,
            addresses,
            frontends,
            slots,
            flows,
            sockets: typed(supply, names.sockets)?,
            devices: typed(supply, names.devices)?,
            backends,
            ranges: typed(supply, names.ranges)?,
            affinities: typed(supply, names.affinities)?,
            batches: Batches {
                addresses: in_addresses,
                frontends: in_frontends,
                slots: in_slots,
                backends: in_backends,
            },
        })
    }

    pub(super) fn read(&self) -> Result<Actual<F>, Error> {
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

    pub(super) fn service_at(
        &self,
        ip: IpAddr,
        port: u16,
        proto: u8,
    ) -> Result<Option<u32>, Error> {
        let read = failing("read", self.names.frontends);
        let Some(addr) = F::addr_from_std(ip) else {
            return Ok(None);
        };
        if port != 0 {
            for scope in [Scope::Internal, Scope::External] {
                let key = FrontendKey {
                    addr,
                    port: Port::new(port),
                    proto,
                    scope: scope as u8,
                };
                if let Some(frontend) = found(self.frontends.get(&key, 0)).map_err(&read)? {
                    return Ok(Some(frontend.service));
                }
            }
            return Ok(None);
        }
        for entry in self.frontends.iter() {
            let (key, frontend) = entry.map_err(&read)?;
            if key.addr == addr {
                return Ok(Some(frontend.service));
            }
        }
        Ok(None)
    }

    pub(super) fn affinities(&self) -> Result<AffinityEntries<F>, Error> {
        self.affinities
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failing("read", self.names.affinities))
    }

    pub(super) fn set_connections(
        &mut self,
        counts: &BTreeMap<BackendKey<F>, u64>,
    ) -> Result<(), Error> {
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

    pub(super) fn apply(
        &mut self,
        changes: &FamilyChanges<F>,
        filter: &mut FamilyFilter<F>,
        epoch: &mut Array<MapData, u32>,
    ) -> Result<(), Error> {
        let writes: Vec<Write<'_, F>> = changes.writes().collect();
        for alike in writes.chunk_by(|a, b| discriminant(a) == discriminant(b)) {
            self.write(alike, filter, epoch)?;
        }
        Ok(())
    }

    /// Carries out writes of one sort, which stand side by side.
    fn write(
        &mut self,
        alike: &[Write<'_, F>],
        filter: &mut FamilyFilter<F>,
        epoch: &mut Array<MapData, u32>,
    ) -> Result<(), Error> {
        let names = self.names;
        match alike {
            [Write::NewBackend { .. }, ..] => {
                return self
                    .batches
                    .backends
                    .write(alike.iter().filter_map(new_backend));
            }
            [Write::Slots { .. }, ..] => {
                return self.batches.slots.write(alike.iter().flat_map(slots));
            }
            [Write::Address { .. }, ..] => {
                for (addr, _) in alike.iter().filter_map(address) {
                    filter.insert(addr)?;
                }
                return self
                    .batches
                    .addresses
                    .write(alike.iter().filter_map(address));
            }
            [Write::Frontend { .. }, ..] => {
                return self
                    .batches
                    .frontends
                    .write(alike.iter().filter_map(frontend));
            }
            _ => (),
        }
        for write in alike {
            match write {
                Write::Range(range) => {
                    self.ranges
                        .insert(&trie_key(*range), 1, 0)
                        .map_err(failing("write", names.ranges))?;
                }
                Write::RemoveRange(range) => {
                    gone(self.ranges.remove(&trie_key(*range)))
                        .map_err(failing("write", names.ranges))?;
                }
                Write::Epoch => end_epoch(epoch)?,
                Write::RemoveBackend { key } => {
                    gone(self.backends.remove(key)).map_err(failing("write", names.backends))?;
                }
                Write::RemoveAddress { addr } => {
                    gone(self.addresses.remove(addr)).map_err(failing("write", names.addresses))?;
                    filter.remove(*addr)?;
                }
                Write::RemoveFrontend { key } => {
                    gone(self.frontends.remove(key)).map_err(failing("write", names.frontends))?;
                }
                Write::Backend { key, state } => self.set_backend(*key, *state)?,
                Write::NewBackend { .. }
                | Write::Slots { .. }
                | Write::Address { .. }
                | Write::Frontend { .. } => (),
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
    pub(super) fn set_devices(&mut self, wanted: &BTreeMap<u32, F::Addr>) -> Result<(), Error> {
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

fn new_backend<F: Family>(write: &Write<'_, F>) -> Option<(BackendKey<F>, BackendState)> {
    match write {
        Write::NewBackend { key, state } => Some((*key, *state)),
        _ => None,
    }
}

fn slots<'a, F: Family>(write: &Write<'a, F>) -> impl Iterator<Item = (u32, Backend<F>)> + 'a {
    let (first, backends) = match write {
        Write::Slots { first, backends } => (*first, *backends),
        _ => (0, &[][..]),
    };
    (first..).zip(backends.iter().copied())
}

fn address<F: Family>(write: &Write<'_, F>) -> Option<(F::Addr, u32)> {
    match write {
        Write::Address { addr, flags } => Some((*addr, *flags)),
        _ => None,
    }
}

fn frontend<F: Family>(write: &Write<'_, F>) -> Option<(FrontendKey<F>, Frontend)> {
    match write {
        Write::Frontend { key, value } => Some((*key, *value)),
        _ => None,
    }
}
