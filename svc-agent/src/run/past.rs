//! Keeps `--host-routing` true: looks at what has changed in the stack, and tells the programs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use svc_common::table::{NodeConfig, node_flags};

use super::{Agent, RETRY};
use crate::config::HostRouting;
use crate::dataplane::Hook;
use crate::routing::{Facts, Verdict, Watch, peers, verdict};

/// Between two looks at what nobody notifies of: the old iptables, sysctls, programs of others.
const LOOK: Duration = Duration::from_secs(30);
/// Rules that change all the time are not read all the time.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Past {
    /// As the programs have it.
    config: NodeConfig,
    watch: Option<Watch>,
    verdict: Option<Verdict>,
    hooks: BTreeMap<(u32, Hook), String>,
    looked: Instant,
    /// When to look again.
    due: Option<Instant>,
}

impl Past {
    pub(super) fn new(config: NodeConfig, wanted: HostRouting) -> Self {
        let watch = (wanted == HostRouting::Auto).then(|| {
            Watch::open()
                .inspect_err(|error| tracing::debug!("nftables does not notify: {error}"))
                .ok()
        });
        Self {
            config,
            watch: watch.flatten(),
            verdict: None,
            hooks: BTreeMap::new(),
            looked: Instant::now(),
            due: None,
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Waits until the rules have changed; forever, if nobody says so.
    pub(super) async fn changed(&mut self) {
        if let Some(watch) = &self.watch {
            match watch.changed().await {
                Ok(()) => return self.look_soon(),
                Err(error) => tracing::warn!("nftables does not notify any more: {error}"),
            }
            self.watch = None;
        }
        std::future::pending().await
    }

    fn look_soon(&mut self) {
        self.due = Some((self.looked + PAUSE).max(Instant::now()));
    }
}

impl Agent<'_> {
    /// The devices and their hooks are these now.
    pub(super) fn attached(&mut self, hooks: BTreeMap<(u32, Hook), String>) {
        self.past.hooks = hooks;
        self.look_past();
    }

    /// Looks again, when it is time.
    pub(super) fn look_again(&mut self) {
        if self.past.due.is_some_and(|when| when <= Instant::now()) {
            self.look_past();
        }
    }

    fn look_past(&mut self) {
        let now = Instant::now();
        let wanted = self.options.host_routing;
        self.past.looked = now;
        self.past.due = (wanted == HostRouting::Auto).then(|| now + LOOK);
        let facts = match wanted {
            HostRouting::Auto => {
                let own = self.dataplane.own_programs();
                Facts::read(&self.devices, &self.past.hooks, &own)
            }
            HostRouting::Bpf | HostRouting::Kernel => Facts::default(),
        };
        let verdict = verdict(wanted, self.options.takeover, &facts);
        if let Err(error) = self.tell(&verdict) {
            tracing::warn!("{error}; trying again in {} s", RETRY.as_secs());
            self.past.due = Some(now + RETRY);
            return;
        }
        self.metrics
            .state
            .past_the_stack(verdict.from_pods, verdict.from_outside);
        if self.past.verdict.as_ref() != Some(&verdict) {
            tracing::info!("packets go {}", verdict.why);
            self.past.verdict = Some(verdict);
        }
    }

    /// The settings first where fewer packets are to skip the stack, last where more are.
    fn tell(&mut self, verdict: &Verdict) -> Result<(), crate::dataplane::Error> {
        let mut config = self.past.config;
        for (set, flag) in [
            (verdict.from_pods, node_flags::PEER_FROM_PODS),
            (verdict.from_outside, node_flags::PEER_FROM_OUTSIDE),
        ] {
            config.flags = if set {
                config.flags | flag
            } else {
                config.flags & !flag
            };
        }
        if verdict.from_pods {
            let peers = peers(
                &self.devices,
                &self.past.hooks,
                &self.dataplane.own_programs(),
            );
            self.dataplane.set_peers(&peers)?;
        }
        if config != self.past.config {
            self.dataplane.configure(&config)?;
            self.past.config = config;
        }
        Ok(())
    }
}
