//! One Service: its ids, its drafts of both families, and the changes that they lead to.

use std::collections::{BTreeMap, BTreeSet};

use svc_common::table;

use super::{Changes, Ids, Label, Planner, label};
use crate::desired::{Fault, Port, Refusal, Service, ServiceName};

impl Planner {
    /// Finds or makes up the id of every port that has frontends. New ids are taken by nobody until the commit.
    pub(super) fn assign_ids<'a>(
        &self,
        had: &Ids,
        desired: Option<&'a Service>,
        object: &str,
        refusals: &mut Vec<Refusal>,
    ) -> (BTreeMap<u32, Label>, Vec<(u32, &'a Port)>) {
        let (mut ids, mut ports) = (BTreeMap::new(), Vec::new());
        let mut seen = BTreeSet::new();
        let mut next = self.next_id;
        for port in desired.map_or(&[][..], |service| &service.ports) {
            let Some((at, _)) = port.frontends.first_key_value() else {
                continue;
            };
            let label = Label {
                port: port.name.clone(),
                protocol: at.protocol,
            };
            let text = label.to_string();
            let why = if label::encode(&text).is_none() {
                Some(format!("port {text} is not served: its name is too long"))
            } else if !seen.insert(label.clone()) {
                Some(format!(
                    "port {text} is there twice: only the first one is served, give each its own name"
                ))
            } else {
                None
            };
            if let Some(why) = why {
                refusals.push(Refusal::invalid(object, why));
                continue;
            }
            let known = had.iter().find(|id| self.labels.get(id) == Some(&text));
            let id = known.copied().unwrap_or_else(|| {
                while next == 0 || self.labels.contains_key(&next) || self.shares_counter(next) {
                    next = next.wrapping_add(1);
                }
                next = next.wrapping_add(1);
                next.wrapping_sub(1)
            });
            ids.insert(id, label);
            ports.push((id, port));
        }
        (ids, ports)
    }

    /// Whether an older id that is in use has the counter of this one. Nobody asks while there are more ids than counters.
    fn shares_counter(&self, id: u32) -> bool {
        let (first, step) = (table::counter(id), table::MAX_SERVICES);
        self.labels.len() < step as usize
            && (first..id)
                .step_by(step as usize)
                .any(|older| self.labels.contains_key(&older))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the second half of plan(), apart so that its errors meet in one place"
    )]
    pub(super) fn try_plan(
        &mut self,
        name: &ServiceName,
        had: &Ids,
        mut ids: BTreeMap<u32, Label>,
        ports: &[(u32, &Port)],
        mine: &BTreeSet<u32>,
        object: &str,
        refusals: &mut Vec<Refusal>,
    ) -> Result<Changes, String> {
        let owned = |id| self.owned.contains(&id);
        let v4 = self
            .v4
            .draft(ports, mine, owned)
            .map_err(|full| full.to_string())?;
        let v6 = match self.v6.draft(ports, mine, owned) {
            Ok(v6) => v6,
            Err(full) => {
                self.v4.undo(v4);
                return Err(full.to_string());
            }
        };
        let used: BTreeSet<u32> = v4.ids().chain(v6.ids()).collect();
        ids.retain(|id, _| used.contains(id));
        let new = ids
            .keys()
            .filter(|id| !self.labels.contains_key(id))
            .count();
        let leaving: usize = self.leaving.values().sum();
        let room = (self.capacities.services as usize).saturating_sub(self.labels.len() + leaving);
        if new > room {
            self.v4.undo(v4);
            self.v6.undo(v6);
            return Err(format!(
                "table SERVICES is full: {new} more entries needed, room for {room}"
            ));
        }
        for at in v4.taken.iter().chain(&v6.taken) {
            let why = format!(
                "{}:{}/{} is already a frontend of another port or Service: give one of them another address or port",
                at.ip, at.port, at.protocol
            );
            let refusal = Refusal::new(Fault::FrontendConflict, object, why);
            if !refusals.contains(&refusal) {
                refusals.push(refusal);
            }
        }
        let mut changes = Changes {
            v4: self.v4.commit(mine, v4, self.generation),
            v6: self.v6.commit(mine, v6, self.generation),
            ..Changes::default()
        };
        for id in had.iter().filter(|id| !used.contains(id)) {
            self.labels.remove(id);
            self.owned.remove(id);
            *self.leaving.entry(self.generation).or_default() += 1;
            changes.services_out.insert(*id);
        }
        for (&id, label) in &ids {
            let text = label.to_string();
            if self.owned.insert(id) {
                self.next_id = self.next_id.max(id.wrapping_add(1));
                self.labels.insert(id, text.clone());
                changes.services_in.insert(id, text);
            }
        }
        if ids.is_empty() {
            self.services.remove(name);
        } else {
            self.services
                .insert(name.clone(), ids.into_keys().collect());
        }
        let out = [
            changes.v4.frontends_out.len(),
            changes.v6.frontends_out.len(),
            changes.services_out.len(),
        ];
        self.freed |= out.into_iter().any(|n| n > 0);
        Ok(changes)
    }
}
