//! What one Service needs in one family, before anything is decided.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use svc_common::family::Family;
use svc_common::table::{Backend, BackendKey, BackendState, Frontend, frontend_flags};

use super::{Frontends, Side, len, listed};
use crate::desired::{self, Algorithm, FrontendAddr, FrontendKind, Port};
use crate::plan::{Range, expand};

/// What one Service should have in this family. Its new runs are taken from the free slots already.
#[derive(Debug)]
pub(in crate::plan) struct Draft<F: Family> {
    pub(super) frontends: Frontends<F>,
    pub(super) runs: BTreeMap<u32, Vec<Backend<F>>>,
    pub(super) backends: BTreeMap<BackendKey<F>, BackendState>,
    pub(super) ranges: BTreeSet<Range<F>>,
    /// Frontends that somebody else has.
    pub(in crate::plan) taken: Vec<FrontendAddr>,
}

impl<F: Family> Default for Draft<F> {
    /// Nothing at all: to be without.
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            runs: BTreeMap::new(),
            backends: BTreeMap::new(),
            ranges: BTreeSet::new(),
            taken: Vec::new(),
        }
    }
}

impl<F: Family> Draft<F> {
    /// The ids that have at least one frontend.
    pub(in crate::plan) fn ids(&self) -> impl Iterator<Item = u32> {
        self.frontends
            .values()
            .map(|(frontend, _)| frontend.service)
    }
}

/// A table that a Service does not fit into.
#[derive(Debug)]
pub(in crate::plan) struct Full {
    table: String,
    needed: usize,
    room: usize,
    capacity: u32,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table,
            needed,
            room,
            capacity,
        } = self;
        write!(
            f,
            "table {table} is full: {needed} more entries needed, room for {room} of {capacity}"
        )
    }
}

impl<F: Family> Side<F> {
    /// Drafts the ports of one Service, whose ids before and after are `mine`. `owned` tells whether an id is some
    /// Service's at all.
    pub(in crate::plan) fn draft(
        &mut self,
        ports: &[(u32, &Port)],
        mine: &BTreeSet<u32>,
        owned: impl Fn(u32) -> bool,
    ) -> Result<Draft<F>, Full> {
        let mut draft = Draft::default();
        for &(id, port) in ports {
            if let Err(full) = self.draft_port(id, port, mine, &owned, &mut draft) {
                self.undo(draft);
                return Err(full);
            }
        }
        if let Err(full) = self.check_room(&draft) {
            self.undo(draft);
            return Err(full);
        }
        Ok(draft)
    }

    fn draft_port(
        &mut self,
        id: u32,
        port: &Port,
        mine: &BTreeSet<u32>,
        owned: &impl Fn(u32) -> bool,
        draft: &mut Draft<F>,
    ) -> Result<(), Full> {
        let mut expanded: BTreeMap<usize, Vec<Backend<F>>> = BTreeMap::new();
        let mut placed: BTreeMap<Vec<Backend<F>>, u32> = BTreeMap::new();
        for key in self.frontends_of(id) {
            let frontend = &self.actual.frontends[key];
            if let Some(run) = self.actual.run(frontend) {
                placed.entry(run.to_vec()).or_insert(frontend.first);
            }
        }
        for (at, frontend) in &port.frontends {
            let Some(key) = expand::key::<F>(at) else {
                continue;
            };
            let holder = self.actual.frontends.get(&key).map(|f| f.service);
            if draft.frontends.contains_key(&key)
                || holder.is_some_and(|h| !mine.contains(&h) && owned(h))
            {
                draft.taken.push(*at);
                continue;
            }
            let run = &port.runs[frontend.run];
            let content = expanded
                .entry(frontend.run)
                .or_insert_with(|| expand::run(run));
            let first = match placed.get(content) {
                _ if content.is_empty() => 0,
                Some(&first) => first,
                None => {
                    let first = self.slots.take(len(content)).ok_or_else(|| Full {
                        table: table::<F>("SLOTS"),
                        needed: content.len(),
                        room: self.slots.longest() as usize,
                        capacity: self.slots.capacity(),
                    })?;
                    placed.insert(content.clone(), first);
                    draft.runs.insert(first, content.clone());
                    first
                }
            };
            let value = Frontend {
                first,
                count: len(content),
                service: id,
                flags: flags(frontend, run.algorithm),
                affinity: port.affinity,
            };
            draft
                .frontends
                .insert(key, (value, expand::flags(frontend.kind)));
        }
        if draft.ids().any(|used| used == id) {
            draft.backends.extend(listed::backends(id, port));
            draft.ranges.extend(listed::ranges(id, &port.ranges));
        }
        Ok(())
    }

    fn check_room(&self, draft: &Draft<F>) -> Result<(), Full> {
        let new = draft
            .frontends
            .keys()
            .filter(|key| !self.actual.frontends.contains_key(key))
            .count();
        let leaving = self.leaving.values().map(|l| l.frontends).sum::<usize>();
        fits(
            table::<F>("FRONTENDS"),
            new,
            self.actual.frontends.len() + leaving,
            self.capacities.frontends,
        )?;
        let addrs: BTreeSet<_> = draft.frontends.keys().map(|key| key.addr).collect();
        let new = addrs
            .iter()
            .filter(|addr| !self.actual.addresses.contains_key(addr))
            .count();
        let leaving = self.leaving.values().map(|l| l.addresses).sum::<usize>();
        fits(
            table::<F>("ADDRESSES"),
            new,
            self.actual.addresses.len() + leaving,
            self.capacities.addresses,
        )?;
        let new = draft
            .backends
            .keys()
            .filter(|key| !self.actual.backends.contains_key(key))
            .count();
        let leaving = self.leaving.values().map(|l| l.backends).sum::<usize>();
        fits(
            table::<F>("BACKENDS"),
            new,
            self.actual.backends.len() + leaving,
            self.capacities.backends,
        )?;
        let new = draft.ranges.difference(&self.actual.ranges).count();
        let leaving = self.leaving.values().map(|l| l.ranges).sum::<usize>();
        fits(
            table::<F>("RANGES"),
            new,
            self.actual.ranges.len() + leaving,
            self.capacities.ranges,
        )
    }

    /// Takes a draft back; nothing was planned.
    pub(in crate::plan) fn undo(&mut self, draft: Draft<F>) {
        for (first, run) in draft.runs {
            self.slots.put_back(first, len(&run));
        }
    }
}

fn flags(frontend: &desired::Frontend, algorithm: Algorithm) -> u32 {
    let pick = match algorithm {
        Algorithm::Random => 0,
        Algorithm::Maglev => frontend_flags::MAGLEV,
        Algorithm::RoundRobin => frontend_flags::ROUND_ROBIN,
        Algorithm::LeastConnections => frontend_flags::LEAST_CONNECTIONS,
    };
    let node_port = frontend.kind == FrontendKind::NodePort;
    let load_balancer = frontend.kind == FrontendKind::LoadBalancer;
    [
        (frontend.drop_when_empty, frontend_flags::DROP_WHEN_EMPTY),
        (node_port, frontend_flags::NODE_PORT),
        (load_balancer, frontend_flags::LOAD_BALANCER),
        (frontend.local_set, frontend_flags::LOCAL_SET),
        (frontend.restricted, frontend_flags::SOURCE_RANGES),
    ]
    .into_iter()
    .filter(|(is, _)| *is)
    .fold(pick, |flags, (_, bit)| flags | bit)
}

fn fits(table: String, needed: usize, used: usize, capacity: u32) -> Result<(), Full> {
    let room = (capacity as usize).saturating_sub(used);
    if needed <= room {
        Ok(())
    } else {
        Err(Full {
            table,
            needed,
            room,
            capacity,
        })
    }
}

fn table<F: Family>(name: &str) -> String {
    format!("{name}_V{}", F::VERSION)
}
