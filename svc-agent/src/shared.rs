//! One copy of what many objects say: names of nodes, zones, namespaces and ports. Endpoints are many, and most of what
//! they say of themselves others say, too.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Below this nothing is thrown out.
const FEW: usize = 1024;

/// Values of which there is one copy each.
pub struct Pool<T: ?Sized> {
    known: BTreeSet<Arc<T>>,
    /// When there are so many, those that nobody has any more go.
    limit: usize,
}

impl<T: ?Sized + Ord> Pool<T> {
    pub const fn new() -> Self {
        Self {
            known: BTreeSet::new(),
            limit: FEW,
        }
    }

    /// The one copy that equals `value`; `make` makes it when there is none.
    pub fn get(&mut self, value: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T>
    where
        Arc<T>: Borrow<T>,
    {
        if let Some(known) = self.known.get(value) {
            return known.clone();
        }
        if self.known.len() >= self.limit {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.limit = FEW.max(self.known.len() * 2);
        }
        let new = make();
        self.known.insert(new.clone());
        new
    }
}

impl<T: ?Sized + Ord> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

thread_local! {
    static NAMES: RefCell<Pool<str>> = const { RefCell::new(Pool::new()) };
}

/// The one copy of a text.
pub fn name(text: &str) -> Arc<str> {
    NAMES.with_borrow_mut(|names| names.get(text, || text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_go_when_nobody_has_them_any_more() {
        let mut pool: Pool<str> = Pool::new();
        let a = pool.get("a", || "a".into());
        assert!(Arc::ptr_eq(&a, &pool.get("a", || unreachable!())));
        for i in 0..2 * FEW {
            let text = i.to_string();
            pool.get(&text, || text.as_str().into());
        }
        assert!(pool.known.len() <= FEW && pool.known.contains("a"));
    }
}
