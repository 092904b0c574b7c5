//! The filters in front of ADDRESSES, kept in step with it.

use aya::Ebpf;
use aya::maps::{Array, MapData};
use svc_common::family::{Family, V4, V6};
use svc_common::filter::{LINES, Line};

use super::family::FamilyMaps;
use super::{Maps, failing, typed};
use crate::dataplane::Error;
use crate::filter::{Entry, Filter};

/// Both families' filters. Only who writes ADDRESSES has them.
pub(in crate::dataplane) struct Filters {
    pub(super) v4: FamilyFilter<V4>,
    pub(super) v6: FamilyFilter<V6>,
}

impl Filters {
    /// Takes the maps, and makes them what ADDRESSES demands: before a program is attached that asks them.
    pub(in crate::dataplane) fn take(ebpf: &mut Ebpf, maps: &Maps) -> Result<Self, Error> {
        Ok(Self {
            v4: FamilyFilter::take(ebpf, "FILTER_V4", &maps.v4)?,
            v6: FamilyFilter::take(ebpf, "FILTER_V6", &maps.v6)?,
        })
    }
}

pub(super) struct FamilyFilter<F: Family> {
    name: &'static str,
    map: Array<MapData, Line>,
    filter: Filter<F::Addr>,
}

impl<F: Family> FamilyFilter<F>
where
    F::Addr: aya::Pod,
{
    fn take(ebpf: &mut Ebpf, name: &'static str, maps: &FamilyMaps<F>) -> Result<Self, Error> {
        let mut filter = Self {
            name,
            map: typed(ebpf, name)?,
            filter: maps
                .addresses
                .keys()
                .collect::<Result<_, _>>()
                .map_err(failing("read", maps.names.addresses))?,
        };
        for index in 0..LINES {
            let found = filter.map.get(&index, 0).map_err(failing("read", name))?;
            let line = filter.filter.line(index);
            if found != line {
                filter.write(Some((index, line)))?;
            }
        }
        Ok(filter)
    }

    fn write(&mut self, entry: Option<Entry>) -> Result<(), Error> {
        let Some((index, line)) = entry else {
            return Ok(());
        };
        self.map
            .set(index, line, 0)
            .map_err(failing("write", self.name))
    }

    /// Before the address goes into the table.
    pub(super) fn insert(&mut self, addr: F::Addr) -> Result<(), Error> {
        let entry = self.filter.insert(addr);
        self.write(entry)
    }

    /// After the address has left the table.
    pub(super) fn remove(&mut self, addr: F::Addr) -> Result<(), Error> {
        let entry = self.filter.remove(addr);
        self.write(entry)
    }
}
