//! From a change in the API to the maps: kube-proxy's `sync_proxy_rules_…` and `network_programming_…`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
use prometheus_client::registry::Registry;

use super::{FAMILIES, Label};
use crate::cluster::{Change, Event, Trigger};

type Histograms = Family<[Label; 1], Histogram, fn() -> Histogram>;
type Seconds = Family<[Label; 1], Gauge<f64, AtomicU64>>;

/// kube-proxy's buckets: 1 ms, doubling.
fn syncs() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// kube-proxy's buckets, in front of which those that tell milliseconds apart.
fn programming() -> Histogram {
    let small = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5];
    Histogram::new(
        small
            .into_iter()
            .chain(linear_buckets(1.0, 1.0, 59))
            .chain(linear_buckets(60.0, 5.0, 12))
            .chain(linear_buckets(120.0, 30.0, 7)),
    )
}

/// What a batch of changes has led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How long it took to plan and to write.
    pub took: Duration,
    /// Whether anything of IPv4, and of IPv6, was among it.
    pub families: [bool; 2],
}

#[derive(Clone, Debug)]
pub struct Programming {
    all: Histograms,
    full: Histograms,
    partial: Histograms,
    network: Histograms,
    /// From the trigger's stamp until the change was here.
    arrival: Histograms,
    last: Seconds,
    queued: Seconds,
    service_changes: Counter,
    endpoint_changes: Counter,
    service_pending: Gauge,
    endpoint_pending: Gauge,
    failures: Counter,
    entries: Counter,
    /// Stamps of changes that are not in the maps yet; true: of IPv6.
    triggers: Arc<Mutex<Vec<(SystemTime, bool)>>>,
    started: SystemTime,
    /// The next write is of everything, and not only of what has changed.
    full_next: Arc<AtomicBool>,
}

impl Default for Programming {
    fn default() -> Self {
        let histograms = |make: fn() -> Histogram| Family::new_with_constructor(make);
        let this = Self {
            all: histograms(syncs),
            full: histograms(syncs),
            partial: histograms(syncs),
            network: histograms(programming),
            arrival: histograms(programming),
            last: Family::default(),
            queued: Family::default(),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            service_pending: Gauge::default(),
            endpoint_pending: Gauge::default(),
            failures: Counter::default(),
            entries: Counter::default(),
            triggers: Arc::default(),
            started: SystemTime::now(),
            full_next: Arc::new(AtomicBool::new(true)),
        };
        for family in FAMILIES {
            let label = [("ip_family", family)];
            for one in [
                &this.all,
                &this.full,
                &this.partial,
                &this.network,
                &this.arrival,
            ] {
                drop(one.get_or_create(&label));
            }
            drop(this.last.get_or_create(&label));
            drop(this.queued.get_or_create(&label));
        }
        this
    }
}

impl Programming {
    /// Something has come from the source.
    pub fn queued(&self, event: &Event) {
        match event {
            Event::Service(change) => {
                note(change, &self.service_changes, &self.service_pending);
            }
            Event::Slice(change) => {
                note(change, &self.endpoint_changes, &self.endpoint_pending);
            }
            Event::Node(_) => (),
            Event::Triggered(_) => return,
        }
        let now = seconds(SystemTime::now());
        for family in FAMILIES {
            self.queued.get_or_create(&[("ip_family", family)]).set(now);
        }
    }

    /// The endpoints that have just come were changed at this moment. As kube-proxy has it, what was changed before the
    /// start counts for nothing.
    pub fn triggered(&self, Trigger { at, v6 }: Trigger) {
        if at < self.started {
            return;
        }
        self.arrival
            .get_or_create(&[("ip_family", family(v6))])
            .observe(since(at));
        self.triggers().push((at, v6));
    }

    /// All that had come is in the maps.
    pub fn settled(&self, written: Written, entries: usize) {
        self.service_pending.set(0);
        self.endpoint_pending.set(0);
        self.entries
            .inc_by(u64::try_from(entries).unwrap_or(u64::MAX));
        for (at, v6) in self.triggers().drain(..) {
            self.network
                .get_or_create(&[("ip_family", family(v6))])
                .observe(since(at));
        }
        let now = seconds(SystemTime::now());
        for name in FAMILIES {
            self.last.get_or_create(&[("ip_family", name)]).set(now);
        }
        // A full one counts also where everything was there already, as after a restart.
        let full = self.full_next.swap(false, Ordering::Relaxed);
        let changed = FAMILIES.into_iter().zip(written.families);
        for (name, _) in changed.filter(|(_, changed)| full || *changed) {
            let sort = if full { &self.full } else { &self.partial };
            for histograms in [&self.all, sort] {
                histograms
                    .get_or_create(&[("ip_family", name)])
                    .observe(written.took.as_secs_f64());
            }
        }
    }

    /// Everything is looked at again.
    pub fn starts_over(&self) {
        self.full_next.store(true, Ordering::Relaxed);
    }

    /// The maps could not be written.
    pub fn failed(&self) {
        self.failures.inc();
    }

    fn triggers(&self) -> std::sync::MutexGuard<'_, Vec<(SystemTime, bool)>> {
        self.triggers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, histograms) in [
            (
                "sync_proxy_rules_duration_seconds",
                "How long it took to plan and write changes",
                &self.all,
            ),
            (
                "sync_full_proxy_rules_duration_seconds",
                "The same, where every Service was looked at",
                &self.full,
            ),
            (
                "sync_partial_proxy_rules_duration_seconds",
                "The same, where only what had changed was looked at",
                &self.partial,
            ),
            (
                "network_programming_duration_seconds",
                "From the change of a Pod or Service, as its EndpointSlice is stamped, until it was in the maps",
                &self.network,
            ),
        ] {
            registry.register(format!("kubeproxy_{name}"), help, histograms.clone());
        }
        registry.register(
            "svcplane_api_lag_seconds",
            "From the change of a Pod or Service, as its EndpointSlice is stamped, until the agent heard of it",
            self.arrival.clone(),
        );
        for (name, help, gauge) in [
            (
                "last_timestamp_seconds",
                "When the maps last were what is wanted",
                &self.last,
            ),
            (
                "last_queued_timestamp_seconds",
                "When a change last came from the API",
                &self.queued,
            ),
        ] {
            let name = format!("kubeproxy_sync_proxy_rules_{name}");
            registry.register(name, help, gauge.clone());
        }
        for (what, counter, gauge) in [
            ("service", &self.service_changes, &self.service_pending),
            ("endpoint", &self.endpoint_changes, &self.endpoint_pending),
        ] {
            let name = format!("kubeproxy_sync_proxy_rules_{what}_changes");
            let help = format!("Changes of {what}s that came from the API");
            registry.register(name.clone(), help, counter.clone());
            let help = format!("Changes of {what}s that are not in the maps yet");
            registry.register(format!("{name}_pending"), help, gauge.clone());
        }
        registry.register(
            "svcplane_sync_failures",
            "Writes of the maps that failed and were tried again",
            self.failures.clone(),
        );
        registry.register(
            "svcplane_map_entries_written",
            "Map entries that were written or removed",
            self.entries.clone(),
        );
    }
}

fn note<K, V>(change: &Change<K, V>, all: &Counter, pending: &Gauge) {
    let count = match change {
        Change::Applied(..) | Change::Deleted(_) => 1,
        Change::All(objects) => objects.len(),
    };
    all.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    pending.inc_by(i64::try_from(count).unwrap_or(i64::MAX));
}

const fn family(v6: bool) -> &'static str {
    FAMILIES[v6 as usize]
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Another machine's clock may be ahead of ours.
fn since(at: SystemTime) -> f64 {
    at.elapsed().map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(histograms: &Histograms, family: &'static str) -> u64 {
        histograms.get_or_create(&[("ip_family", family)]).count()
    }

    #[test]
    fn a_stamp_is_measured_once_when_its_change_is_in_the_maps() {
        let programming = Programming::default();
        let at = SystemTime::now();
        programming.triggered(Trigger { at, v6: true });
        assert_eq!(count(&programming.network, "IPv6"), 0, "not in the maps");
        assert_eq!(count(&programming.arrival, "IPv6"), 1);
        programming.settled(Written::default(), 0);
        programming.settled(Written::default(), 0);
        assert_eq!(count(&programming.network, "IPv6"), 1);
        assert_eq!(count(&programming.network, "IPv4"), 0);
    }

    #[test]
    fn what_was_changed_before_the_start_is_nobodys_lateness() {
        let programming = Programming::default();
        let at = SystemTime::UNIX_EPOCH;
        programming.triggered(Trigger { at, v6: false });
        programming.settled(Written::default(), 0);
        assert_eq!(count(&programming.network, "IPv4"), 0);
    }

    #[test]
    fn the_first_write_is_a_full_one_and_the_next_is_partial() {
        let programming = Programming::default();
        let written = Written {
            took: Duration::from_millis(1),
            families: [true, false],
        };
        programming.settled(written, 7);
        programming.settled(written, 1);
        let counts = [&programming.all, &programming.full, &programming.partial]
            .map(|one| (count(one, "IPv4"), count(one, "IPv6")));
        assert_eq!(counts, [(2, 1), (1, 1), (1, 0)]);
        assert_eq!(programming.entries.get(), 8);
    }
}
