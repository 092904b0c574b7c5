//! What the agent's task knows of the present: how full its tables are, what is attached, how its watches do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{FAMILIES, Label, gauges};

/// How many entries a table has, and how many it has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    pub table: &'static str,
    /// Empty of a table that is not of one family.
    pub family: &'static str,
    pub entries: usize,
    pub capacity: usize,
}

/// Hooks by program: on how many devices it should be, and is; and of outside devices, which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Program → wanted, attached.
    pub programs: BTreeMap<&'static str, (usize, usize)>,
    /// Outside device and program → attached.
    pub devices: BTreeMap<(String, &'static str), bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Present {
    fills: Vec<Fill>,
    hooks: Hooks,
    /// By family and policy, the service ports of a Local policy without an endpoint here.
    no_local_endpoints: BTreeMap<(&'static str, &'static str), usize>,
    services: usize,
    past_the_stack: [bool; 2],
    healthy: [bool; 2],
}

/// Written by the agent's task, read at each scrape.
#[derive(Clone, Debug, Default)]
pub struct State(Arc<Mutex<Present>>);

impl State {
    fn now(&self) -> MutexGuard<'_, Present> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tables(&self, fills: Vec<Fill>, services: usize) {
        let mut now = self.now();
        now.fills = fills;
        now.services = services;
    }

    pub fn hooks(&self, hooks: Hooks) {
        self.now().hooks = hooks;
    }

    /// Whether packets from pods, and from outside, are handed to pods past the host's stack.
    pub fn past_the_stack(&self, from_pods: bool, from_outside: bool) {
        self.now().past_the_stack = [from_pods, from_outside];
    }

    /// Whether the self-test of IPv4, and of IPv6, has passed.
    pub fn tested(&self, healthy: [bool; 2]) {
        self.now().healthy = healthy;
    }

    pub fn no_local_endpoints(&self, family: &'static str, policy: &'static str, ports: usize) {
        self.now()
            .no_local_endpoints
            .insert((family, policy), ports);
    }

    /// As people read it.
    pub fn summary(&self) -> String {
        let now = self.now();
        let mut text = format!("Services: {}\n", now.services);
        for Fill {
            table,
            family,
            entries,
            capacity,
        } in &now.fills
        {
            let space = if family.is_empty() { "" } else { " " };
            text += &format!("Table {table}{space}{family}: {entries} of {capacity}\n");
        }
        for (program, (wanted, attached)) in &now.hooks.programs {
            text += &format!("Hook {program}: on {attached} of {wanted} devices\n");
        }
        for ((device, program), attached) in &now.hooks.devices {
            let not = if *attached { "" } else { "NOT " };
            text += &format!("Device {device}: {program} {not}attached\n");
        }
        text
    }
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let now = self.now().clone();
        let mut rows = gauges(
            &mut encoder,
            "svcplane_build_info",
            "The agent's version and the machine that it was built for, always 1",
        )?;
        let built = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("arch", std::env::consts::ARCH),
        ];
        rows.gauge(&built, 1.0)?;
        let mut rows = gauges(
            &mut encoder,
            "svcplane_services",
            "Services that the API has for this proxy",
        )?;
        rows.gauge(&[], now.services as f64)?;
        let mut rows = gauges(
            &mut encoder,
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Service ports of traffic policy Local that have no endpoint on this node, by policy",
        )?;
        for ((family, policy), ports) in &now.no_local_endpoints {
            rows.gauge(
                &[("ip_family", family), ("traffic_policy", policy)],
                *ports as f64,
            )?;
        }
        for (name, help, value) in [
            (
                "svcplane_table_entries",
                "Entries of a table of the dataplane",
                (|fill| fill.entries) as fn(&Fill) -> usize,
            ),
            (
                "svcplane_table_capacity",
                "Entries that a table of the dataplane has room for",
                |fill| fill.capacity,
            ),
        ] {
            let mut rows = gauges(&mut encoder, name, help)?;
            for fill in &now.fills {
                let labels = [("table", fill.table), ("ip_family", fill.family)];
                let labels = &labels[..if fill.family.is_empty() { 1 } else { 2 }];
                rows.gauge(labels, value(fill) as f64)?;
            }
        }
        hooks(&mut encoder, &now.hooks)?;
        let mut rows = gauges(
            &mut encoder,
            "svcplane_past_the_stack",
            "1 where packets for pods of this node are handed to them past the host's stack (--host-routing)",
        )?;
        for (from, on) in ["pods", "outside"].into_iter().zip(now.past_the_stack) {
            rows.gauge(&[("from", from)], f64::from(u8::from(on)))?;
        }
        let mut rows = gauges(
            &mut encoder,
            "svcplane_self_test_ok",
            "1 where the last test packet through the loaded programs did what it should",
        )?;
        for (family, ok) in FAMILIES.into_iter().zip(now.healthy) {
            rows.gauge(&[("ip_family", family)], f64::from(u8::from(ok)))?;
        }
        Ok(())
    }
}

fn hooks(encoder: &mut DescriptorEncoder<'_>, hooks: &Hooks) -> std::fmt::Result {
    for (name, help, value) in [
        (
            "svcplane_hooks_wanted",
            "Devices that a program should be attached to",
            (|counts| counts.0) as fn(&(usize, usize)) -> usize,
        ),
        (
            "svcplane_hooks_attached",
            "Devices that a program is attached to",
            |counts| counts.1,
        ),
    ] {
        let mut rows = gauges(encoder, name, help)?;
        for (program, counts) in &hooks.programs {
            rows.gauge(&[("program", program)], value(counts) as f64)?;
        }
    }
    let mut rows = gauges(
        encoder,
        "svcplane_device_attached",
        "1 where a program is attached to an outside device that it should be attached to",
    )?;
    for ((device, program), attached) in &hooks.devices {
        rows.gauge(
            &[("device", device), ("program", program)],
            f64::from(u8::from(*attached)),
        )?;
    }
    Ok(())
}

const KINDS: [&str; 3] = ["services", "endpointslices", "nodes"];

/// How the watches of the API do, by kind of object.
#[derive(Clone, Debug, Default)]
pub struct Watches {
    up: Family<[Label; 1], Gauge>,
    errors: Family<[Label; 1], Counter>,
    lists: Family<[Label; 1], Counter>,
    heard: Family<[Label; 1], Gauge>,
}

impl Watches {
    /// Something was heard of the API server.
    pub fn heard(&self, kind: &'static str) {
        self.up.get_or_create(&[("resource", kind)]).set(1);
        let now = SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| since.as_secs());
        self.heard
            .get_or_create(&[("resource", kind)])
            .set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    /// All objects of the kind were listed: at the start, and when a watch had lost its place.
    pub fn listed(&self, kind: &'static str) {
        self.lists.get_or_create(&[("resource", kind)]).inc();
    }

    pub fn failed(&self, kind: &'static str) {
        self.up.get_or_create(&[("resource", kind)]).set(0);
        self.errors.get_or_create(&[("resource", kind)]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        for kind in KINDS {
            let label = [("resource", kind)];
            drop(self.up.get_or_create(&label));
            drop(self.errors.get_or_create(&label));
            drop(self.lists.get_or_create(&label));
            drop(self.heard.get_or_create(&label));
        }
        registry.register(
            "svcplane_api_watch_up",
            "1 while the last thing heard of a watch was no error",
            self.up.clone(),
        );
        registry.register(
            "svcplane_api_watch_errors",
            "Errors of watches and lists",
            self.errors.clone(),
        );
        registry.register(
            "svcplane_api_lists",
            "Times that all objects of a kind were listed",
            self.lists.clone(),
        );
        registry.register(
            "svcplane_api_last_event_timestamp_seconds",
            "When an object of the kind last came from the API",
            self.heard.clone(),
        );
    }
}
