//! The pinned maps, typed: `Actual` ← maps, `Changes` → maps.

mod batch;
mod counters;
mod family;
mod filter;
mod foreign;
mod hand_over;
mod look;
mod sockets;

pub(super) use filter::Filters;
pub use hand_over::HandedOver;
pub use sockets::Deserted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use svc_common::family::{Addr, Family, V4, V6};
use svc_common::reason::Reason;
use svc_common::table::{NodeConfig, ServiceLabel, node_flags};

use super::Error;
use super::error::failing;
use super::flows;
use crate::connections::Connections;
use crate::inspect::{self, Affinities, Flows, Snapshot};
use crate::plan::{Changes, label};
use crate::tally::Counts;
use batch::Batch;
use counters::Counters;
use family::{FamilyMaps, V4_NAMES, V6_NAMES};

/// Every map that outlives the agent.
pub(super) const PINNED: [&str; 38] = [
    "ADDRESSES_V4",
    "ADDRESSES_V6",
    "FILTER_V4",
    "FILTER_V6",
    "FRONTENDS_V4",
    "FRONTENDS_V6",
    "SLOTS_V4",
    "SLOTS_V6",
    "FLOWS_V4",
    "FLOWS_V6",
    "FLOW_INDEX_V4",
    "FLOW_INDEX_V6",
    "FLOW_TABLE",
    "FLOW_HAND",
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
    "CONNECTIONS",
    "TRAFFIC",
    "XDP_DEVICES",
    "PEERS",
    "WATCH",
    "EVENTS",
    "EVENT_HEAD",
];

/// Where maps come from: the object that was just loaded, or their pins.
pub(super) trait Supply {
    /// Whether they are for programs that are about to run, or only looked at.
    const RUNS: bool;
    fn take(&mut self, name: &'static str) -> Result<Map, Error>;
}

impl Supply for Ebpf {
    const RUNS: bool = true;
    fn take(&mut self, name: &'static str) -> Result<Map, Error> {
        self.take_map(name).ok_or(Error::Missing(name))
    }
}

impl Supply for &Path {
    const RUNS: bool = false;
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

/// One family's tables that the programs fill, in numbers.
pub struct Census {
    /// By protocol and state.
    pub flows: BTreeMap<(u16, &'static str), usize>,
    pub flow_capacity: u32,
    /// Entries of AFFINITY.
    pub affinities: usize,
}

/// The clock that the programs stamp flows with.
pub(super) fn seconds_since_boot() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.ok()
        .and_then(|now| u32::try_from(now.tv_sec()).ok())
        .unwrap_or(0)
}

/// All maps that the agent reads or writes.
pub(super) struct Maps {
    v4: FamilyMaps<V4>,
    v6: FamilyMaps<V6>,
    services: HashMap<MapData, u32, ServiceLabel>,
    names: Batch<u32, ServiceLabel>,
    config: Array<MapData, NodeConfig>,
    epoch: Array<MapData, u32>,
    reasons: PerCpuArray<MapData, u64>,
    peers: HashMap<MapData, u32, u32>,
    counters: Counters,
}

fn typed<T: TryFrom<Map, Error = MapError>>(
    supply: &mut impl Supply,
    name: &'static str,
) -> Result<T, Error> {
    T::try_from(supply.take(name)?).map_err(failing("use", name))
}

/// A map with the means to write much of it at once.
fn batched<T: TryFrom<Map, Error = MapError>, K: aya::Pod, V: aya::Pod>(
    supply: &mut impl Supply,
    name: &'static str,
) -> Result<(T, Batch<K, V>), Error> {
    let map = supply.take(name)?;
    let batch = Batch::new(&map, name)?;
    Ok((T::try_from(map).map_err(failing("use", name))?, batch))
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

/// What is not there is None.
fn found<V>(result: Result<V, MapError>) -> Result<Option<V>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What flows know of their backends is to be asked again.
fn end_epoch(epoch: &mut Array<MapData, u32>) -> Result<(), Error> {
    let now = epoch.get(&0, 0).map_err(failing("read", "EPOCH"))?;
    epoch
        .set(0, now.wrapping_add(1), 0)
        .map_err(failing("write", "EPOCH"))
}

impl Maps {
    pub(super) fn take(supply: &mut impl Supply) -> Result<Self, Error> {
        let (services, names) = batched(supply, "SERVICES")?;
        let (v4, v6) = flows::take(supply)?;
        Ok(Self {
            v4: FamilyMaps::take(supply, V4_NAMES, v4)?,
            v6: FamilyMaps::take(supply, V6_NAMES, v6)?,
            services,
            names,
            config: typed(supply, "CONFIG")?,
            epoch: typed(supply, "EPOCH")?,
            reasons: typed(supply, "REASONS")?,
            peers: typed(supply, "PEERS")?,
            counters: Counters::take(supply)?,
        })
    }

    pub(super) fn read(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot {
            v4: self.v4.read()?,
            v6: self.v6.read()?,
            services: self.labels()?,
        })
    }

    /// The labels of all service ids.
    pub(super) fn labels(&self) -> Result<BTreeMap<u32, String>, Error> {
        let decoded = self
            .services
            .iter()
            .map(|entry| entry.map(|(id, value)| (id, label::decode(&value))));
        decoded
            .collect::<Result<_, _>>()
            .map_err(failing("read", "SERVICES"))
    }

    /// What was counted for these service ids; None: nothing is.
    pub(super) fn counts(
        &self,
        ids: impl IntoIterator<Item = u32>,
    ) -> Result<Option<Counts>, Error> {
        let flags = self.config()?.flags;
        let counts = || {
            let counts = ids
                .into_iter()
                .map(|id| Ok((id, self.counters.of(id, flags)?)));
            counts.collect::<Result<_, Error>>()
        };
        (flags & node_flags::COUNTS_CONNECTIONS != 0)
            .then(counts)
            .transpose()
    }

    pub(super) fn flows(&self) -> Result<Flows, Error> {
        Ok(Flows {
            v4: self.v4.flows.open()?.all(),
            v6: self.v6.flows.open()?.all(),
            now: seconds_since_boot(),
        })
    }

    /// The flow of a client's packets.
    pub(super) fn flow(&self, from: SocketAddr, to: SocketAddr, proto: u8) -> Result<Flows, Error> {
        Ok(Flows {
            v4: self.v4.flows.of_client(from, to, proto)?,
            v6: self.v6.flows.of_client(from, to, proto)?,
            now: seconds_since_boot(),
        })
    }

    /// What there is in the tables that the programs fill.
    pub(super) fn census(&self) -> Result<[Census; 2], Error> {
        fn of<F: Family>(maps: &FamilyMaps<F>) -> Result<Census, Error>
        where
            F::Addr: aya::Pod,
        {
            Ok(Census {
                flows: maps.flows.open()?.count(inspect::flow_state),
                flow_capacity: maps.flows.capacity(),
                affinities: maps.affinities.keys().count(),
            })
        }
        Ok([of(&self.v4)?, of(&self.v6)?])
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

    pub(super) fn apply(&mut self, changes: &Changes, filters: &mut Filters) -> Result<(), Error> {
        // Before anything leads to them, lest they inherit what an older id was counted.
        self.counters.clear(changes.services_in.keys().copied())?;
        let labels = changes.services_in.iter();
        self.names
            .write(labels.filter_map(|(&id, text)| Some((id, label::encode(text)?))))?;
        self.v4
            .apply(&changes.v4, &mut filters.v4, &mut self.epoch)?;
        self.v6
            .apply(&changes.v6, &mut filters.v6, &mut self.epoch)?;
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

    pub(super) fn set_peers(&mut self, wanted: &BTreeSet<u32>) -> Result<(), Error> {
        let actual = self.peers()?;
        for ifindex in actual.difference(wanted) {
            gone(self.peers.remove(ifindex)).map_err(failing("write", "PEERS"))?;
        }
        for ifindex in wanted.difference(&actual) {
            let inserted = self.peers.insert(ifindex, 1, 0);
            inserted.map_err(failing("write", "PEERS"))?;
        }
        Ok(())
    }

    /// The label of a service id.
    pub(super) fn label(&self, id: u32) -> Result<Option<String>, Error> {
        let found = found(self.services.get(&id, 0)).map_err(failing("read", "SERVICES"))?;
        Ok(found.map(|value| label::decode(&value)))
    }

    /// The service id that serves an address and port; a port of 0: any that has the address.
    pub(super) fn service_at(
        &self,
        ip: IpAddr,
        port: u16,
        proto: u8,
    ) -> Result<Option<u32>, Error> {
        match ip {
            IpAddr::V4(_) => self.v4.service_at(ip, port, proto),
            IpAddr::V6(_) => self.v6.service_at(ip, port, proto),
        }
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
