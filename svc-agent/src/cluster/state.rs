//! The Cluster as a state that events change. What an event made dirty is what has to be compiled again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use super::{Node, Service, Slice, SliceName};
use crate::desired::ServiceName;
use crate::packed::pack;

/// What happened to the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<K, V> {
    /// The object is there, and looks like this.
    Applied(K, V),
    /// The object is gone, or is nobody's business any more.
    Deleted(K),
    /// These are all there are, after a list: what is not among them is gone. From the first one on the kind is synced.
    All(BTreeMap<K, V>),
}

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Service(Change<ServiceName, Service>),
    Slice(Change<SliceName, Slice>),
    /// By name. Of others than this node's own only the addresses matter, and these only to tunnels.
    Node(Change<String, Node>),
    /// When the change was made that the slice before this one tells of. Only measured.
    Triggered(Trigger),
}

/// When endpoints of one family changed, as their slice is stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub at: SystemTime,
    pub v6: bool,
}

#[derive(Clone, Debug, Default)]
struct Synced {
    services: bool,
    slices: bool,
    nodes: bool,
}

impl Synced {
    fn all(&self) -> bool {
        self.services && self.slices && self.nodes
    }
}

/// All that the sources have said so far.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    node_name: String,
    services: BTreeMap<ServiceName, Service>,
    slices: BTreeMap<SliceName, Slice>,
    /// In the order of their names. Most Services have one, and a set would make room for eleven.
    slices_of: BTreeMap<ServiceName, Vec<SliceName>>,
    node: Option<Node>,
    /// The addresses of all other nodes; None where nobody needs them.
    peers: Option<BTreeMap<String, Vec<IpAddr>>>,
    synced: Synced,
}

impl Cluster {
    /// Empty, seen from the node of this name.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            ..Self::default()
        }
    }

    /// Keeps the other nodes' addresses from now on (DSR).
    #[must_use]
    pub fn with_peers(mut self) -> Self {
        self.peers = Some(BTreeMap::new());
        self
    }

    /// The addresses of the other nodes.
    pub fn peer_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.peers
            .iter()
            .flatten()
            .flat_map(|(_, addresses)| addresses)
            .copied()
    }

    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// This node's own object.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }

    pub fn services(&self) -> impl ExactSizeIterator<Item = (&ServiceName, &Service)> {
        self.services.iter()
    }

    /// The slices of a Service, in the order of their names.
    pub fn slices_of(&self, name: &ServiceName) -> impl Iterator<Item = &Slice> {
        self.slices_of
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|slice| self.slices.get(slice))
    }

    /// Whether every kind was listed once. Before, nothing may be written (A11).
    pub fn synced(&self) -> bool {
        self.synced.all()
    }

    /// Takes as little memory as it can.
    pub fn pack(&mut self) {
        pack(&mut self.services);
        pack(&mut self.slices);
        pack(&mut self.slices_of);
    }

    /// Takes in an event; returns the Services to compile again. Until the first full sync that is none, and with it all (A11).
    pub fn apply(&mut self, event: Event) -> Vec<ServiceName> {
        let before = self.synced();
        let dirty = match event {
            Event::Service(change) => self.apply_service(change),
            Event::Slice(change) => self.apply_slice(change),
            Event::Node(change) => self.apply_node(change),
            Event::Triggered(_) => return Vec::new(),
        };
        match (before, self.synced()) {
            (true, _) => dirty.into_iter().collect(),
            (false, true) => self.services.keys().cloned().collect(),
            (false, false) => Vec::new(),
        }
    }

    fn apply_service(&mut self, change: Change<ServiceName, Service>) -> BTreeSet<ServiceName> {
        self.synced.services |= matches!(change, Change::All(_));
        changed(&mut self.services, change)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    fn apply_slice(&mut self, change: Change<SliceName, Slice>) -> BTreeSet<ServiceName> {
        self.synced.slices |= matches!(change, Change::All(_));
        let mut dirty = BTreeSet::new();
        for (name, old) in changed(&mut self.slices, change) {
            if let Some(old) = old {
                if let Some(names) = self.slices_of.get_mut(&old.service) {
                    names.retain(|other| *other != name);
                    if names.is_empty() {
                        self.slices_of.remove(&old.service);
                    }
                }
                dirty.insert(old.service);
            }
            if let Some(new) = self.slices.get(&name) {
                let names = self.slices_of.entry(new.service.clone()).or_default();
                if let Err(place) = names.binary_search(&name) {
                    names.reserve_exact(1);
                    names.insert(place, name);
                }
                dirty.insert(new.service.clone());
            }
        }
        dirty.retain(|service| self.services.contains_key(service));
        dirty
    }

    fn apply_node(&mut self, change: Change<String, Node>) -> BTreeSet<ServiceName> {
        let node = match change {
            Change::Applied(name, node) if name == self.node_name => Some(node),
            Change::Deleted(name) if name == self.node_name => None,
            Change::Applied(name, node) => {
                if let Some(peers) = &mut self.peers {
                    peers.insert(name, node.addresses);
                }
                return BTreeSet::new();
            }
            Change::Deleted(name) => {
                if let Some(peers) = &mut self.peers {
                    peers.remove(&name);
                }
                return BTreeSet::new();
            }
            Change::All(mut nodes) => {
                self.synced.nodes = true;
                let own = nodes.remove(&self.node_name);
                if let Some(peers) = &mut self.peers {
                    let addresses = |(name, node): (String, Node)| (name, node.addresses);
                    *peers = nodes.into_iter().map(addresses).collect();
                }
                own
            }
        };
        if self.node == node {
            return BTreeSet::new();
        }
        self.node = node;
        self.services.keys().cloned().collect()
    }
}

/// Applies a change to a kind; returns the keys whose value is another than before, with what it was.
fn changed<K: Ord + Clone, V: PartialEq>(
    kind: &mut BTreeMap<K, V>,
    change: Change<K, V>,
) -> Vec<(K, Option<V>)> {
    match change {
        Change::Applied(key, value) if kind.get(&key) == Some(&value) => Vec::new(),
        Change::Applied(key, value) => {
            let old = kind.insert(key.clone(), value);
            vec![(key, old)]
        }
        Change::Deleted(key) => kind
            .remove(&key)
            .map(|old| (key, Some(old)))
            .into_iter()
            .collect(),
        // At the start: packed as tightly as it goes, which one by one is not.
        Change::All(all) if kind.is_empty() => {
            *kind = all.into_iter().collect();
            kind.keys().map(|key| (key.clone(), None)).collect()
        }
        Change::All(all) => {
            let gone: Vec<K> = kind
                .keys()
                .filter(|key| !all.contains_key(key))
                .cloned()
                .collect();
            let gone = gone.into_iter().map(Change::Deleted);
            let there = all
                .into_iter()
                .map(|(key, value)| Change::Applied(key, value));
            gone.chain(there)
                .collect::<Vec<_>>()
                .into_iter()
                .flat_map(|one| changed(kind, one))
                .collect()
        }
    }
}
