//! FLOWS as the agent sees it: the programs' table, mapped into its memory, read and written by the same code as theirs.

use std::borrow::{Borrow, BorrowMut};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData};
use svc_common::family::{Family, Port, V4, V6};
use svc_common::flow::table::{self, Store};
use svc_common::flow::worth;
use svc_common::table::{Bucket, Flow, FlowKey, Insert, MAX_RECORDS, NodeConfig, Record, Shape};

use super::Error;
use super::error::failing;
use super::maps::Supply;
use super::sys::{self, Mapping};

/// One family's maps of the table. They are mapped into memory only while they are needed: the kernel counts every page of
/// a mapping as the agent's.
pub(super) struct FlowMaps<F> {
    records: Map,
    index: Map,
    shape: Shape,
    family: PhantomData<F>,
}

impl<F: Family> FlowMaps<F> {
    fn new(records: Map, index: Map, shape: Shape) -> Self {
        Self {
            records,
            index,
            shape,
            family: PhantomData,
        }
    }

    /// How many flows there is room for.
    pub(super) fn capacity(&self) -> u32 {
        self.shape.records
    }

    pub(super) fn open(&self) -> Result<FlowTable<F>, Error> {
        FlowTable::mapped(Some(&self.records), Some(&self.index), self.shape)
    }

    /// The flow whose client's packets have this tuple: one, or none.
    pub(super) fn of_client(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        proto: u8,
    ) -> Result<Vec<Flow<F>>, Error> {
        let (Some(src), Some(dst)) = (F::addr_from_std(from.ip()), F::addr_from_std(to.ip()))
        else {
            return Ok(Vec::new());
        };
        let key = FlowKey {
            src,
            dst,
            sport: Port::new(from.port()),
            dport: Port::new(to.port()),
            proto: u16::from(proto),
            _pad: 0,
        };
        let found = self.open()?.get(&key).filter(|(_, reply)| !reply);
        Ok(found.map(|(flow, _)| flow).into_iter().collect())
    }
}

/// One family's FLOWS, in memory.
pub struct FlowTable<F> {
    records: Mapping,
    index: Mapping,
    shape: Shape,
    hand: Cell<u32>,
    family: PhantomData<F>,
}

impl<F: Family> FlowTable<F> {
    /// The table of an object that is loaded. Lays it out, if nobody has.
    pub fn of(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let [records, index] = names::<F>();
        let all = ["FLOWS_V4", "FLOWS_V6", "FLOW_INDEX_V4", "FLOW_INDEX_V6"];
        let mut sizes = [0; 4];
        for (size, name) in sizes.iter_mut().zip(all) {
            *size = entries(data(name, ebpf.map(name))?, name)?;
        }
        let map = ebpf
            .map_mut("FLOW_TABLE")
            .ok_or(Error::Missing("FLOW_TABLE"))?;
        let mut map = Array::<_, Shape>::try_from(map).map_err(failing("use", "FLOW_TABLE"))?;
        let shape = lay_out(&mut map, sizes)?;
        Self::mapped(ebpf.map(records), ebpf.map(index), shape)
    }

    fn mapped(records: Option<&Map>, index: Option<&Map>, shape: Shape) -> Result<Self, Error> {
        let [records_name, index_name] = names::<F>();
        Ok(Self {
            records: map::<Record<F>>(records, records_name, shape.records)?,
            index: map::<Bucket>(index, index_name, shape.buckets)?,
            shape,
            // Not where the first CPUs begin.
            hand: Cell::new(shape.records / 2),
            family: PhantomData,
        })
    }

    /// Every flow, as it is now.
    pub fn all(&self) -> Vec<Flow<F>> {
        let mut flows = Vec::new();
        table::each(self, |_, flow| flows.push(*flow));
        flows
    }

    /// How many flows there are by protocol and by what `sort` says of them.
    pub(super) fn count<S: Ord>(&self, sort: impl Fn(&Flow<F>) -> S) -> BTreeMap<(u16, S), usize> {
        let mut counts = BTreeMap::new();
        table::each(self, |_, flow| {
            *counts.entry((flow.forward.proto, sort(flow))).or_default() += 1;
        });
        counts
    }

    /// Notes the services of flows of which they were not known.
    pub fn place(&self, service: impl Fn(&Flow<F>) -> Option<u32>) {
        table::each(self, |number, flow| {
            if flow.service == 0
                && let Some(service) = service(flow)
            {
                table::place(number, service, self);
            }
        });
    }

    /// The flow of a packet's tuple, and whether the packet is an answer.
    pub fn get(&self, key: &FlowKey<F>) -> Option<(Flow<F>, bool)> {
        table::with(key, self, |flow, reply| (*flow, reply))
    }

    /// Sets and clears bits of [`svc_common::table::flow_flags`], if the flow is still there. Programs may write it at the
    /// same time.
    pub(super) fn mark(&self, flow: &Flow<F>, set: u8, clear: u8) {
        table::with(&flow.forward, self, |flow, _| {
            flow.flags = flow.flags & !clear | set;
        });
    }

    pub fn insert(&self, flow: &Flow<F>) -> Insert {
        table::insert(flow, worth::OVER, self)
    }

    pub fn remove(&self, key: &FlowKey<F>) {
        table::remove(key, self);
    }
}

impl<F: Family> Store<F> for FlowTable<F> {
    fn shape(&self) -> Option<&Shape> {
        Some(&self.shape)
    }

    fn bucket(&self, number: u32) -> Option<*mut u32> {
        Some(self.index.value::<Bucket>(number)?.cast())
    }

    fn record(&self, number: u32) -> Option<*mut Record<F>> {
        self.records.value(number)
    }

    unsafe fn swap(&self, at: *mut u32, old: u32, new: u32) -> bool {
        // SAFETY: a word of the table, as the caller vouches.
        unsafe { sys::swap(at, old, new) }
    }

    fn hand(&self) -> u32 {
        self.hand.get()
    }

    fn set_hand(&self, number: u32) {
        self.hand.set(number);
    }

    /// Only what is over by anybody's clock makes room for what the agent writes.
    fn lifetimes(&self) -> NodeConfig {
        NodeConfig::default()
    }
}

/// Both families' maps, laid out if they are for programs that are about to run.
pub(super) fn take<S: Supply>(supply: &mut S) -> Result<(FlowMaps<V4>, FlowMaps<V6>), Error> {
    let mut sizes = [0; 4];
    let [v4, v6, index_v4, index_v6] = {
        let mut take = |name, size: &mut u32| {
            let map = supply.take(name)?;
            *size = entries(data(name, Some(&map))?, name)?;
            Ok::<_, Error>(map)
        };
        let [a, b, c, d] = &mut sizes;
        [
            take("FLOWS_V4", a)?,
            take("FLOWS_V6", b)?,
            take("FLOW_INDEX_V4", c)?,
            take("FLOW_INDEX_V6", d)?,
        ]
    };
    let map = supply.take("FLOW_TABLE")?;
    let mut map = Array::try_from(map).map_err(failing("use", "FLOW_TABLE"))?;
    let shape = if S::RUNS {
        lay_out(&mut map, sizes)?
    } else {
        shape(&map)?
    };
    Ok((
        FlowMaps::new(v4, index_v4, shape),
        FlowMaps::new(v6, index_v6, shape),
    ))
}

/// The names of the records and of the index.
fn names<F: Family>() -> [&'static str; 2] {
    if F::VERSION == 4 {
        ["FLOWS_V4", "FLOW_INDEX_V4"]
    } else {
        ["FLOWS_V6", "FLOW_INDEX_V6"]
    }
}

/// What FLOW_TABLE says: nothing, if no agent has laid the table out.
fn shape(map: &Array<impl Borrow<MapData>, Shape>) -> Result<Shape, Error> {
    map.get(&0, 0).map_err(failing("read", "FLOW_TABLE"))
}

/// Lays the table out, if nobody has: the maps' sizes (of records and of buckets, for both families) and a new seed. They
/// stay as long as the maps do, for a slot means nothing by another seed.
fn lay_out(
    map: &mut Array<impl BorrowMut<MapData>, Shape>,
    [v4, v6, index_v4, index_v6]: [u32; 4],
) -> Result<Shape, Error> {
    let old = shape(map)?;
    if old.records != 0 {
        return Ok(old);
    }
    let mut seed = [0; 10];
    random(&mut seed).map_err(|cause| Error::Random { cause })?;
    let new = Shape {
        seed,
        buckets: mask(index_v4.min(index_v6)),
        records: mask(v4.min(v6).min(MAX_RECORDS)),
    };
    map.set(0, new, 0).map_err(failing("write", "FLOW_TABLE"))?;
    Ok(new)
}

fn random(words: &mut [u32]) -> std::io::Result<()> {
    let mut source = File::open("/dev/urandom")?;
    for word in words {
        let mut bytes = [0; 4];
        source.read_exact(&mut bytes)?;
        *word = u32::from_ne_bytes(bytes);
    }
    Ok(())
}

/// Of the largest power of two that is no more than `entries`.
fn mask(entries: u32) -> u32 {
    entries.checked_ilog2().map_or(0, |bits| (1 << bits) - 1)
}

fn map<T>(map: Option<&Map>, name: &'static str, mask: u32) -> Result<Mapping, Error> {
    let map = data(name, map)?;
    let entries = usize::try_from(mask).unwrap_or(0) + 1;
    Mapping::of(map.fd().as_fd(), entries * size_of::<T>())
        .map_err(|cause| Error::MapInto { name, cause })
}

fn data<'a>(name: &'static str, map: Option<&'a Map>) -> Result<&'a MapData, Error> {
    match map {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(Error::Missing(name)),
    }
}

fn entries(map: &MapData, name: &'static str) -> Result<u32, Error> {
    Ok(map.info().map_err(failing("inspect", name))?.max_entries())
}
