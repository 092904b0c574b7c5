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
            *n = *n + usize::from(flags >> bit & 1 == 1) - usize::from(before >> bit & 1 == 1);
        }
        if *holders == [0; 3] {
            self.holders.remove(&key.addr);
        }
    }

    /// What an address should be, by its frontends and the node.
    fn wanted(&self, addr: &F::Addr) -> u32 {
        let node = if self.nodes.contains(addr) {
            address_flags::NODE
        } else {
            0
        };
        let holders = self.holders.get(addr).copied().unwrap_or_default();
        holders
            .iter()
            .enumerate()
            .filter(|&(_, &n)| n > 0)
            .fold(node, |flags, (bit, _)| flags | 1 << bit)
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

    pub(in crate::plan) fn set_nodes(
        &mut self,
        nodes: BTreeSet<F::Addr>,
        generation: Generation,
    ) -> FamilyChanges<F> {
        let mut changes = FamilyChanges::default();
        let mut addrs: BTreeSet<F::Addr> = nodes.clone();
        addrs.extend(
            self.actual
                .addresses
                .iter()
                .filter(|(_, f)| **f & address_flags::NODE != 0)
                .map(|(a, _)| *a),
        );
        self.nodes = nodes;
        self.settle(addrs, &mut changes, generation);
        changes
    }
}
