//! What operators should see in the API itself: one Warning Event per new refusal of an object. Nothing waits for them;
//! without an API server (manifests) the log is all there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::desired::{Fault, Refusal};

/// More than this at once is left to the log.
const QUEUE: usize = 64;

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regarding {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub regarding: Regarding,
    pub fault: Fault,
    pub note: String,
}

/// Where notices are handed in.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    queue: Option<mpsc::Sender<Notice>>,
    counts: Arc<[AtomicU64; Fault::ALL.len()]>,
}

impl Notices {
    /// Notices that somebody turns into Events.
    pub fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (queue, notices) = mpsc::channel(QUEUE);
        let this = Self {
            queue: Some(queue),
            counts: Arc::default(),
        };
        (this, notices)
    }

    /// Counts new refusals of an object, and has Events made of them.
    pub fn refused(&self, regarding: Option<&Regarding>, new: &[Refusal]) {
        for Refusal { fault, why, .. } in new {
            self.counts[*fault as usize].fetch_add(1, Ordering::Relaxed);
            if let (Some(queue), Some(regarding)) = (&self.queue, regarding) {
                let notice = Notice {
                    regarding: regarding.clone(),
                    fault: *fault,
                    note: why.clone(),
                };
                if queue.try_send(notice).is_err() {
                    tracing::debug!("no Event of this: too many at once");
                }
            }
        }
    }

    /// How many refusals there were since the start, by what they were.
    pub fn counts(&self) -> impl Iterator<Item = (Fault, u64)> {
        let count = |fault| self.counts[fault as usize].load(Ordering::Relaxed);
        Fault::ALL.into_iter().map(move |f| (f, count(f)))
    }
}
