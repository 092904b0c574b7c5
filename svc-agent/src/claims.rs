//! Who owns a frontend that several Services ask for (A13): the oldest Service, by creation time, then by name. Each
//! change tells which others win or lose by it. Pure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use svc_common::table::Scope;

use crate::desired::{Fault, FrontendAddr, Port, Refusal, Service, ServiceName};
use crate::packed::pack;

/// Orders Services by age. Without a creation time (manifests) the name decides.
type Claimant = (Option<Arc<str>>, ServiceName);

/// When a Service was created, and what it asks for, sorted.
type Claimed = (Option<Arc<str>>, Box<[FrontendAddr]>);

/// Every Service's claims.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The first of all claimants.
    owners: BTreeMap<FrontendAddr, Claimant>,
    /// The others, sorted; mostly there are none.
    losers: BTreeMap<FrontendAddr, BTreeSet<Claimant>>,
    claimed: BTreeMap<ServiceName, Claimed>,
}

impl Claims {
    /// Replaces what a Service asks for (with nothing, when it is gone). Returns the other Services that own more or
    /// less than before: they have to be planned again.
    pub fn update(
        &mut self,
        name: &ServiceName,
        created: Option<&Arc<str>>,
        service: &Service,
    ) -> BTreeSet<ServiceName> {
        let wanted: BTreeSet<FrontendAddr> = service
            .ports
            .iter()
            .flat_map(|p| p.frontends.keys())
            .map(place)
            .collect();
        let created = created.cloned();
        let as_before = match self.claimed.get(name) {
            Some((was_created, had)) => *was_created == created && wanted.iter().eq(had),
            None => wanted.is_empty(),
        };
        if as_before {
            return BTreeSet::new();
        }
        let (was_created, had) = self.claimed.remove(name).unwrap_or_default();
        let had = BTreeSet::from_iter(had);
        let mut affected = BTreeSet::new();
        for addr in had
            .union(&wanted)
            .filter(|a| created != was_created || had.contains(a) != wanted.contains(a))
        {
            let owner = self.owner(addr).cloned();
            self.withdraw(addr, &(was_created.clone(), name.clone()));
            if wanted.contains(addr) {
                self.enter(addr, (created.clone(), name.clone()));
            }
            let now = self.owner(addr).cloned();
            if now != owner {
                affected.extend([owner, now].into_iter().flatten());
            }
        }
        if !wanted.is_empty() {
            let wanted = wanted.into_iter().collect();
            self.claimed.insert(name.clone(), (created, wanted));
        }
        affected.remove(name);
        affected
    }

    /// The Service that a frontend belongs to.
    pub fn owner(&self, addr: &FrontendAddr) -> Option<&ServiceName> {
        self.owners.get(&place(addr)).map(|(_, name)| name)
    }

    /// Leaves a Service the frontends that it owns; the others are refused by the name of their owner.
    pub fn award(&self, name: &ServiceName, mut service: Service) -> (Service, Vec<Refusal>) {
        let mut refusals = BTreeSet::new();
        for port in &mut service.ports {
            let before = port.frontends.len();
            port.frontends.retain(|addr, _| match self.owner(addr) {
                Some(owner) if owner != name => {
                    refusals.insert(refusal(name, addr, owner));
                    false
                }
                Some(_) | None => true,
            });
            if port.frontends.len() != before {
                drop_unused_runs(port);
            }
        }
        (service, refusals.into_iter().collect())
    }

    /// Takes as little memory as it can.
    pub fn pack(&mut self) {
        pack(&mut self.owners);
        pack(&mut self.claimed);
    }

    fn enter(&mut self, addr: &FrontendAddr, mut claimant: Claimant) {
        match self.owners.entry(*addr) {
            Entry::Vacant(owner) => {
                owner.insert(claimant);
            }
            Entry::Occupied(mut owner) => {
                if claimant < *owner.get() {
                    std::mem::swap(owner.get_mut(), &mut claimant);
                }
                self.losers.entry(*addr).or_default().insert(claimant);
            }
        }
    }

    fn withdraw(&mut self, addr: &FrontendAddr, claimant: &Claimant) {
        let mut losers = self.losers.get_mut(addr);
        if self.owners.get(addr) == Some(claimant) {
            match losers.as_mut().and_then(|losers| losers.pop_first()) {
                Some(next) => self.owners.insert(*addr, next),
                None => self.owners.remove(addr),
            };
        } else if let Some(losers) = &mut losers {
            losers.remove(claimant);
        }
        if losers.is_some_and(|losers| losers.is_empty()) {
            self.losers.remove(addr);
        }
    }
}

/// A place has one owner, from wherever it is asked: nobody answers outside for an address that is another's inside.
fn place(addr: &FrontendAddr) -> FrontendAddr {
    FrontendAddr {
        scope: Scope::Internal,
        ..*addr
    }
}

fn refusal(
    name: &ServiceName,
    FrontendAddr {
        ip, port, protocol, ..
    }: &FrontendAddr,
    owner: &ServiceName,
) -> Refusal {
    let why = format!(
        "{ip} port {port}/{protocol} belongs to the older Service {owner}; give one of them another address or port"
    );
    Refusal::new(Fault::FrontendConflict, format!("Service {name}"), why)
}

fn drop_unused_runs(port: &mut Port) {
    let used: BTreeSet<usize> = port.frontends.values().map(|f| f.run).collect();
    for frontend in port.frontends.values_mut() {
        frontend.run = used.range(..frontend.run).count();
    }
    let mut index = 0..;
    port.runs
        .retain(|_| index.next().is_some_and(|i| used.contains(&i)));
}

#[cfg(test)]
mod tests;
