//! Which refusals are known, so that each is logged once, and again only after it had gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::Refusal;

/// The refusals in force, by the object that they were found with.
#[derive(Clone, Debug, Default)]
pub struct Refusals(BTreeMap<String, BTreeSet<Refusal>>);

impl Refusals {
    /// Replaces what is refused of an object; logs and returns what was not refused before.
    pub fn update(&mut self, object: &str, now: impl IntoIterator<Item = Refusal>) -> Vec<Refusal> {
        let now: BTreeSet<Refusal> = now.into_iter().collect();
        let before = self.0.remove(object).unwrap_or_default();
        let new: Vec<Refusal> = now.difference(&before).cloned().collect();
        for refusal in &new {
            tracing::warn!("{refusal}");
        }
        if !now.is_empty() {
            self.0.insert(object.to_owned(), now);
        }
        new
    }

    /// Forgets the objects that are not among these.
    pub fn retain(&mut self, objects: &BTreeSet<String>) {
        self.0.retain(|object, _| objects.contains(object));
    }

    /// All that is refused now.
    pub fn iter(&self) -> impl Iterator<Item = &Refusal> {
        self.0.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_new_once_and_again_after_it_had_gone() {
        let refusal = || Refusal::invalid("Service default/web", "no");
        let mut refusals = Refusals::default();
        assert_eq!(refusals.update("web", [refusal()]), [refusal()]);
        assert!(refusals.update("web", [refusal()]).is_empty());
        assert!(refusals.update("web", []).is_empty());
        assert_eq!(refusals.iter().count(), 0);
        assert_eq!(refusals.update("web", [refusal()]), [refusal()]);
    }
}
