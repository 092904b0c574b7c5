//! Who owns a frontend that several Services ask for (A13): whose clusterIP it is, whose node port, whose load balancer
//! address, whose external address; of several such the oldest Service, by creation time, then by name. And which of them
//! nobody may have ([`crate::guard`]). Each change tells which others win or lose by it. Pure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use svc_common::table::Scope;

use crate::desired::{
    Endpoint, Fault, Frontend, FrontendAddr, FrontendKind, Port, Protocol, Refusal, Service,
    ServiceName,
};
use crate::guard::{Held, Holder, Place, kubernetes};
use crate::packed::pack;

/// Orders Services by what they ask with, then by age. Without a creation time (manifests) the name decides.
type Claimant = (FrontendKind, Option<Arc<str>>, ServiceName);

/// When a Service was created, and what it asks for, sorted.
type Claimed = (Option<Arc<str>>, Box<[(FrontendAddr, FrontendKind)]>);

/// Every Service's claims.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The first of all claimants.
    owners: BTreeMap<FrontendAddr, Claimant>,
    /// The others, sorted; mostly there are none.
    losers: BTreeMap<FrontendAddr, BTreeSet<Claimant>>,
    claimed: BTreeMap<ServiceName, Claimed>,
    /// What no external address may be.
    held: Held,
    /// Where it is held.
    node_name: String,
    /// Other external addresses are asked for since that was last asked.
    news_from_outside: bool,
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
        let wanted = asked_by(service);
        let created = created.cloned();
        let as_before = match self.claimed.get(name) {
            Some((was_created, had)) => {
                *was_created == created
                    && wanted.iter().map(|(a, k)| (*a, *k)).eq(had.iter().copied())
            }
            None => wanted.is_empty(),
        };
        if as_before {
            return BTreeSet::new();
        }
        let (was_created, had) = self.claimed.remove(name).unwrap_or_default();
        let had = BTreeMap::from_iter(had);
        let places: BTreeSet<&FrontendAddr> = had.keys().chain(wanted.keys()).collect();
        let mut affected = BTreeSet::new();
        for addr in places {
            let (old, new) = (had.get(addr), wanted.get(addr));
            if created == was_created && old == new {
                continue;
            }
            let external = |kind: Option<&FrontendKind>| kind.is_some_and(|k| k.is_external());
            self.news_from_outside |= external(old) != external(new);
            let owner = self.owner(addr).cloned();
            if let Some(kind) = old {
                self.withdraw(addr, &(*kind, was_created.clone(), name.clone()));
            }
            if let Some(kind) = new {
                self.enter(addr, (*kind, created.clone(), name.clone()));
            }
            let now = self.owner(addr).cloned();
            if now != owner {
                affected.extend([owner, now].into_iter().flatten());
            }
            let cluster_ip = Some(&FrontendKind::ClusterIp);
            if (old == cluster_ip) != (new == cluster_ip) {
                affected.extend(self.from_outside_at(addr.ip).map(|(_, name)| name.clone()));
            }
        }
        if !wanted.is_empty() {
            let wanted = wanted.into_iter().collect();
            self.claimed.insert(name.clone(), (created, wanted));
        }
        affected.remove(name);
        affected
    }

    /// Replaces what no external address may be. Returns the Services that own more or less than before.
    pub fn hold(&mut self, held: Held, node_name: &str) -> BTreeSet<ServiceName> {
        let before = std::mem::replace(&mut self.held, held);
        self.node_name = node_name.to_owned();
        let changed = |place: &&Place| before.get(place) != self.held.get(place);
        let places: BTreeSet<&Place> = before
            .keys()
            .chain(self.held.keys())
            .filter(changed)
            .collect();
        let at = |(at, protocol): &Place| FrontendAddr {
            ip: at.ip(),
            port: at.port(),
            protocol: *protocol,
            scope: Scope::Internal,
        };
        let claimants = places.into_iter().filter_map(|p| self.owners.get(&at(p)));
        claimants
            .filter(|(kind, ..)| kind.is_external())
            .map(|(_, _, name)| name.clone())
            .collect()
    }

    /// Whether other external addresses are asked for since the last time.
    pub fn take_news_from_outside(&mut self) -> bool {
        std::mem::take(&mut self.news_from_outside)
    }

    /// The places at an address that external addresses ask for, with who asks.
    pub fn from_outside_at(&self, ip: IpAddr) -> impl Iterator<Item = (Place, &ServiceName)> {
        let owners = self.owners.range(every_port(ip));
        let losers = self.losers.range(every_port(ip));
        let losers = losers.flat_map(|(addr, all)| all.iter().map(move |one| (addr, one)));
        owners
            .chain(losers)
            .filter(|(_, (kind, ..))| kind.is_external())
            .map(|(addr, (_, _, name))| (open(addr), name))
    }

    /// The Service that a frontend belongs to.
    pub fn owner(&self, addr: &FrontendAddr) -> Option<&ServiceName> {
        self.owners.get(&place(addr)).map(|(_, _, name)| name)
    }

    /// Leaves a Service the frontends that it owns; the others are refused by the name of their owner.
    pub fn award(&self, name: &ServiceName, mut service: Service) -> (Service, Vec<Refusal>) {
        let mut refusals = BTreeSet::new();
        for port in &mut service.ports {
            let Port {
                runs, frontends, ..
            } = port;
            let before = frontends.len();
            frontends.retain(|addr, frontend| {
                let endpoints = runs.get(frontend.run).map(|run| run.endpoints.as_slice());
                let denied = self.denied(name, addr, frontend, endpoints.unwrap_or_default());
                let denied =
                    denied.map(|(fault, why)| Refusal::new(fault, format!("Service {name}"), why));
                denied.map(|refusal| refusals.insert(refusal)).is_none()
            });
            if port.frontends.len() != before {
                drop_unused_runs(port);
            }
        }
        (service, refusals.into_iter().collect())
    }

    /// Why a Service does not get a frontend.
    fn denied(
        &self,
        name: &ServiceName,
        addr: &FrontendAddr,
        frontend: &Frontend,
        endpoints: &[Endpoint],
    ) -> Option<(Fault, String)> {
        let FrontendAddr {
            ip, port, protocol, ..
        } = addr;
        let what = format!("{ip} port {port}/{protocol}");
        match self.owners.get(&place(addr)) {
            Some((kind, _, owner)) if owner != name => {
                let whose = if *kind == frontend.kind {
                    format!("belongs to the older Service {owner}")
                } else {
                    format!("is {} of Service {owner}", kind.name())
                };
                let why = format!("{what} {whose}; give one of them another address or port");
                return Some((Fault::FrontendConflict, why));
            }
            Some(_) | None => (),
        }
        if !frontend.kind.is_external() {
            return None;
        }
        let field = frontend.kind.field();
        if let Some(owner) = self.has_cluster_ip(*ip, name) {
            let why =
                format!("{field} {ip} is the clusterIP of Service {owner}; write another address");
            return Some((Fault::FrontendConflict, why));
        }
        let held = &self.held;
        let why = match held.get(&open(addr))? {
            // Whoever sends to the API server what is for the API server takes nothing.
            Holder::ApiServer if *name == kubernetes() || self.are_api_servers(endpoints) => {
                return None;
            }
            Holder::ApiServer => {
                "is the API server's own; write another address or port".to_owned()
            }
            Holder::Process => format!(
                "is what a process of node {} listens on; write another address or port",
                self.node_name
            ),
        };
        Some((Fault::AddressNotAllowed, format!("{field} {what} {why}")))
    }

    fn are_api_servers(&self, endpoints: &[Endpoint]) -> bool {
        let is_one = |endpoint: &Endpoint| {
            let place = (SocketAddr::new(endpoint.ip, endpoint.port), Protocol::Tcp);
            self.held.get(&place) == Some(&Holder::ApiServer)
        };
        !endpoints.is_empty() && endpoints.iter().all(is_one)
    }

    /// The Service whose clusterIP an address is, if it is another one.
    fn has_cluster_ip(&self, ip: IpAddr, name: &ServiceName) -> Option<&ServiceName> {
        let mut owners = self
            .owners
            .range(every_port(ip))
            .map(|(_, claimant)| claimant);
        let cluster_ip = owners.find(|(kind, ..)| *kind == FrontendKind::ClusterIp);
        cluster_ip
            .map(|(_, _, owner)| owner)
            .filter(|owner| *owner != name)
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

fn open(addr: &FrontendAddr) -> Place {
    (SocketAddr::new(addr.ip, addr.port), addr.protocol)
}

fn every_port(ip: IpAddr) -> RangeInclusive<FrontendAddr> {
    let at = |port, protocol| FrontendAddr {
        ip,
        port,
        protocol,
        scope: Scope::Internal,
    };
    at(0, Protocol::Tcp)..=at(u16::MAX, Protocol::Sctp)
}

/// The places that a Service asks for, each with what it asks with.
fn asked_by(service: &Service) -> BTreeMap<FrontendAddr, FrontendKind> {
    let mut asked = BTreeMap::new();
    for (addr, frontend) in service.ports.iter().flat_map(|port| &port.frontends) {
        let kind = asked.entry(place(addr)).or_insert(frontend.kind);
        *kind = frontend.kind.min(*kind);
    }
    asked
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
