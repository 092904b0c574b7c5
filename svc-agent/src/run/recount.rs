//! When connections are counted anew, and by whom.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinHandle;

use super::RECOUNT;
use crate::connections::{self, Connections};
use crate::dataplane::Pinned;

/// How often to look whether a walk has ended.
const LOOK: Duration = Duration::from_millis(100);

/// A walk through FLOWS every [`RECOUNT`], as long as somebody wants it.
#[derive(Default)]
pub(super) struct Recount {
    next: Option<Instant>,
    walk: Option<JoinHandle<Result<Connections>>>,
}

impl Recount {
    /// When to call [`Self::turn`] next.
    pub(super) fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        match self.walk {
            Some(_) => Some(now + LOOK),
            None => Some(self.next.unwrap_or(now)),
        }
    }

    /// Starts a walk when it is time and `wanted`; hands out what an earlier one found.
    pub(super) async fn turn(
        &mut self,
        bpf_root: &Path,
        wanted: impl Fn() -> bool,
    ) -> Option<Connections> {
        if let Some(walk) = self.walk.take_if(|walk| walk.is_finished()) {
            return match walk.await {
                Ok(Ok(connections)) => Some(connections),
                Ok(Err(error)) => {
                    tracing::warn!("counting connections: {error:#}");
                    None
                }
                Err(error) => {
                    tracing::warn!("counting connections: {error}");
                    None
                }
            };
        }
        let now = Instant::now();
        if self.next.is_some_and(|next| next > now) {
            return None;
        }
        self.next = Some(now + RECOUNT);
        if self.walk.is_none() && wanted() {
            let root = bpf_root.to_owned();
            self.walk = Some(tokio::task::spawn_blocking(move || {
                let pinned = Pinned::open(&root)?;
                Ok(connections::count(&pinned.flows()?, &pinned.config()?))
            }));
        }
        None
    }
}
