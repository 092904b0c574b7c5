//! What the agent tells of itself: to the metrics, and by a test packet through its own programs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use svc_common::family::Family;
use svc_common::table::address_flags;

use super::Agent;
use crate::cluster::Event;
use crate::dataplane::Hook;
use crate::metrics::{FAMILIES, Fill, Hooks};
use crate::plan::Actual;

/// Between two self-tests: four runs of a program, some tens of microseconds.
const EVERY: Duration = Duration::from_secs(30);
/// After one that has failed.
const AGAIN: Duration = Duration::from_secs(5);

/// When the programs were last tested, and how that went.
#[derive(Default)]
pub(super) struct SelfTest {
    next: Option<Instant>,
    failed: [bool; 2],
}

impl SelfTest {
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }
}

impl Agent<'_> {
    /// Takes in what the source says, and notes that it came.
    pub(super) fn take_in(&mut self, event: Event) {
        // A slice that says nothing new has an old stamp.
        if let Event::Triggered(trigger) = event {
            if self.news {
                self.metrics.programming.triggered(trigger);
            }
            return;
        }
        self.metrics.programming.queued(&event);
        self.other_node |= matches!(event, Event::Node(_));
        self.news = self.reconciler.apply(event);
    }

    /// Publishes how full the tables are.
    pub(super) fn report(&self) {
        let planner = &self.reconciler.planner;
        let room = planner.capacities();
        let size = |entries: u32| usize::try_from(entries).unwrap_or(usize::MAX);
        let [free_v4, free_v6] = planner.free_slots().map(size);
        let family = |family, [frontends, addresses, backends, ranges]: [usize; 4], free_slots| {
            [
                ("frontends", frontends, room.frontends),
                ("addresses", addresses, room.addresses),
                ("backends", backends, room.backends),
                ("source_ranges", ranges, room.ranges),
                (
                    "slots",
                    size(room.slots).saturating_sub(free_slots),
                    room.slots,
                ),
            ]
            .map(|(table, entries, capacity)| Fill {
                table,
                family,
                entries,
                capacity: size(capacity),
            })
        };
        let ports = Fill {
            table: "service_ports",
            family: "",
            entries: planner.labels().len(),
            capacity: size(room.services),
        };
        let fills = std::iter::once(ports)
            .chain(family("IPv4", sizes(planner.v4()), free_v4))
            .chain(family("IPv6", sizes(planner.v6()), free_v6))
            .collect();
        let state = &self.metrics.state;
        state.tables(fills, self.reconciler.cluster.services().len());
        let counts = self.reconciler.no_local_endpoints();
        for (family, counts) in FAMILIES.into_iter().zip(counts) {
            for (policy, ports) in ["internal", "external"].into_iter().zip(counts) {
                state.no_local_endpoints(family, policy, ports);
            }
        }
    }

    /// Publishes what is attached of these hooks.
    pub(super) fn report_hooks(&self, wanted: &BTreeMap<(u32, Hook), String>) {
        let attached = self.dataplane.attached();
        let mut hooks = Hooks::default();
        for (at, device) in wanted {
            let program = at.1.program();
            let is_attached = attached.contains_key(at);
            let counts = hooks.programs.entry(program).or_default();
            counts.0 += 1;
            counts.1 += usize::from(is_attached);
            // Pods' devices are too many, and have names that come and go.
            if !matches!(at.1, Hook::PodIngress | Hook::PodEgress) {
                hooks.devices.insert((device.clone(), program), is_attached);
            }
        }
        self.metrics.state.hooks(hooks);
    }

    /// Sends test packets through the loaded programs, when it is time.
    pub(super) fn test_itself(&mut self) {
        let now = Instant::now();
        if self.self_test.next.is_some_and(|next| next > now) {
            return;
        }
        let planner = &self.reconciler.planner;
        let results = self
            .dataplane
            .self_test(cluster_ip(planner.v4()), cluster_ip(planner.v6()));
        let failed = [results[0].is_err(), results[1].is_err()];
        for (family, (result, before)) in FAMILIES
            .into_iter()
            .zip(results.iter().zip(self.self_test.failed))
        {
            match result {
                Err(why) if !before => tracing::error!(
                    "the self-test of {family} fails: {why}; /healthz says 503 until it passes. If it goes on, restart \
                     the agent, which loads its programs anew"
                ),
                Ok(()) if before => tracing::info!("the self-test of {family} passes again"),
                _ => (),
            }
        }
        self.self_test = SelfTest {
            next: Some(now + if failed.contains(&true) { AGAIN } else { EVERY }),
            failed,
        };
        self.health.tested(&results);
        self.metrics.state.tested(failed.map(|failed| !failed));
    }
}

fn sizes<F: Family>(actual: &Actual<F>) -> [usize; 4] {
    [
        actual.frontends.len(),
        actual.addresses.len(),
        actual.backends.len(),
        actual.ranges.len(),
    ]
}

/// An address that pings of pods are answered at.
fn cluster_ip<F: Family>(actual: &Actual<F>) -> Option<F::Addr> {
    let is_one = |flags: u32| {
        flags & (address_flags::CLUSTER_IP | address_flags::NODE) == address_flags::CLUSTER_IP
    };
    let found = actual.addresses.iter().find(|(_, flags)| is_one(**flags));
    found.map(|(addr, _)| *addr)
}
