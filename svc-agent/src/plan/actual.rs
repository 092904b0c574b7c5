//! A mirror of the maps: what was read at start-up plus every change planned since.

use std::collections::{BTreeMap, BTreeSet};

use svc_common::family::Family;
use svc_common::table::{Backend, BackendKey, BackendState, Frontend, FrontendKey, Source};

/// A client range of a service port: entry of RANGES, with the prefix length of the address alone.
pub type Range<F> = (Source<F>, u32);

/// The content of one family's FRONTENDS, ADDRESSES, BACKENDS, RANGES and those SLOTS that a frontend points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actual<F: Family> {
    pub frontends: BTreeMap<FrontendKey<F>, Frontend>,
    pub addresses: BTreeMap<F::Addr, u32>,
    /// First slot of a run → its content.
    pub slots: BTreeMap<u32, Vec<Backend<F>>>,
    /// With the number of connections as it was read; planning takes no notice of it.
    pub backends: BTreeMap<BackendKey<F>, BackendState>,
    pub ranges: BTreeSet<Range<F>>,
}

impl<F: Family> Default for Actual<F> {
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            addresses: BTreeMap::new(),
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            ranges: BTreeSet::new(),
        }
    }
}

impl<F: Family> Actual<F> {
    /// From the entries of the maps. `slot` reads one element of SLOTS and is asked only for runs in use. A run that
    /// leaves the table (`None`) or begins where another one does is left out; its frontends are then rewritten.
    pub fn read<E>(
        frontends: BTreeMap<FrontendKey<F>, Frontend>,
        addresses: BTreeMap<F::Addr, u32>,
        backends: BTreeMap<BackendKey<F>, BackendState>,
        ranges: BTreeSet<Range<F>>,
        mut slot: impl FnMut(u32) -> Result<Option<Backend<F>>, E>,
    ) -> Result<Self, E> {
        let mut slots: BTreeMap<u32, Vec<Backend<F>>> = BTreeMap::new();
        for frontend in frontends.values().filter(|f| f.count > 0) {
            if slots.contains_key(&frontend.first) {
                continue;
            }
            let indices = (0..frontend.count).map_while(|i| frontend.first.checked_add(i));
            let run = indices
                .map(&mut slot)
                .map_while(Result::transpose)
                .collect::<Result<Vec<_>, E>>()?;
            if run.len() == frontend.count as usize {
                slots.insert(frontend.first, run);
            }
        }
        Ok(Self {
            frontends,
            addresses,
            slots,
            backends,
            ranges,
        })
    }

    /// The run that a frontend points at; `None` when it is empty or damaged.
    pub fn run(&self, frontend: &Frontend) -> Option<&[Backend<F>]> {
        let run = self.slots.get(&frontend.first)?;
        (frontend.count > 0 && run.len() == frontend.count as usize).then_some(run)
    }
}
