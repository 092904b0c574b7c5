//! What addresses are, by the frontends on them and by the node.

use std::collections::BTreeSet;

use svc_common::family::Family;
use svc_common::table::{FrontendKey, address_flags};

use super::Side;
use crate::plan::{FamilyChanges, Generation};

impl<F: Family> Side<F> {
    /// Sets what a frontend asks of its address.
    pub(super) fn hold(&mut self, key: FrontendKey<F>, flags: u32) {
        let before = self.flags.insert(key, flags).unwrap_or(0);
        if before == flags {
            return;
        }
        let holders = self.holders.entry(key.addr).or_default();
        for (bit, n) in holders.iter_mut().enumerate() {
            *n = *n + (flags >> bit & 1) - (before >> bit & 1);
        }
        if *holders == [0; 3] {
            self.holders.remove(&key.addr);
        }
    }

    /// What an address should be, by its frontends and the node.
    fn wanted(&self, addr: &F::Addr) -> u32 {
        let among = |known: &Option<BTreeSet<F::Addr>>, flag| match known {
            Some(addrs) if addrs.contains(addr) => flag,
            Some(_) | None => 0,
        };
        let node = among(&self.nodes, address_flags::NODE);
        let peer = among(&self.peers, address_flags::PEER);
        let holders = self.holders.get(addr).copied().unwrap_or_default();
        holders
            .iter()
            .enumerate()
            .filter(|&(_, &n)| n > 0)
            .fold(node | peer, |flags, (bit, _)| flags | 1 << bit)
    }

    pub(super) fn settle(
        &mut self,
        addrs: impl IntoIterator<Item = F::Addr>,
        changes: &mut FamilyChanges<F>,
        generation: Generation,
    ) {
        for addr in addrs {
            let (before, after) = (
                self.actual.addresses.get(&addr).copied(),
                self.wanted(&addr),
            );
            let was = before.unwrap_or(0);
            if after & !was != 0 {
                changes.addresses_in.insert(addr, was | after);
            }
            if was & !after != 0 || (before == Some(0) && after == 0) {
                changes.addresses_out.insert(addr, after);
            }
            if after != 0 {
                self.actual.addresses.insert(addr, after);
            } else if self.actual.addresses.remove(&addr).is_some() {
                self.leaving.entry(generation).or_default().addresses += 1;
            }
        }
    }

    /// Sets the addresses of this node. They seldom change.
    pub(in crate::plan) fn set_nodes(
        &mut self,
        nodes: BTreeSet<F::Addr>,
        generation: Generation,
    ) -> FamilyChanges<F> {
        let mut changes = FamilyChanges::default();
        if self.nodes.as_ref() != Some(&nodes) {
            let concerned = self.with_flag(address_flags::NODE, &nodes);
            self.nodes = Some(nodes);
            self.settle(concerned, &mut changes, generation);
        }
        changes
    }

    /// Sets the addresses of the other nodes. There are many, and they seldom change.
    pub(in crate::plan) fn set_peers(
        &mut self,
        peers: BTreeSet<F::Addr>,
        generation: Generation,
    ) -> FamilyChanges<F> {
        let mut changes = FamilyChanges::default();
        if self.peers.as_ref() != Some(&peers) {
            let concerned = self.with_flag(address_flags::PEER, &peers);
            self.peers = Some(peers);
            self.settle(concerned, &mut changes, generation);
        }
        changes
    }

    /// These addresses, and those that have the flag now.
    fn with_flag(&self, flag: u32, addrs: &BTreeSet<F::Addr>) -> BTreeSet<F::Addr> {
        let flagged = self.actual.addresses.iter();
        let flagged = flagged.filter(|(_, flags)| **flags & flag != 0);
        addrs
            .iter()
            .chain(flagged.map(|(addr, _)| addr))
            .copied()
            .collect()
    }
}
