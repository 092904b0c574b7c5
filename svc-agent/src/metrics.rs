//! `/metrics`: kube-proxy's names where they mean the same (`kubeproxy_…`), `svcplane_…` for the rest. What the agent's
//! task knows it writes here as it happens; what is in the maps is read at each scrape. docs/metrics.md lists all.

mod classic;
mod maps;
mod process;
mod programming;
mod services;
mod state;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

pub use programming::{Programming, Written};
pub use state::{Fill, Hooks, State, Watches};

use crate::notices::Notices;

/// As kube-proxy's label `ip_family` has them.
pub const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

type Label = (&'static str, &'static str);
type Counters<const N: usize> = Family<[Label; N], Counter>;

/// How the text is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4.
    Classic,
    OpenMetrics,
}

impl Format {
    /// What a client's `Accept` header asks for.
    pub fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The agent's part of the metrics: handles that are cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub programming: Programming,
    pub watches: Watches,
    pub state: State,
    /// Answers of `/healthz` and `/livez` by status code.
    healthz: Counters<1>,
    livez: Counters<1>,
}

impl Metrics {
    /// Notes an answer to a health check.
    pub fn answered(&self, path: &str, well: bool) {
        let family = match path {
            "/healthz" => &self.healthz,
            "/livez" => &self.livez,
            _ => return,
        };
        family
            .get_or_create(&[("code", if well { "200" } else { "503" })])
            .inc();
    }

    /// Everything that is told, the pinned maps below `root` included. `series`: how many service ports are told each by
    /// itself.
    pub fn registry(&self, root: PathBuf, notices: Notices, series: usize) -> Registry {
        let mut registry = Registry::default();
        self.programming.register(&mut registry);
        for (name, help, family) in [
            (
                "kubeproxy_proxy_healthz",
                "Answers of /healthz by status code",
                &self.healthz,
            ),
            (
                "kubeproxy_proxy_livez",
                "Answers of /livez by status code",
                &self.livez,
            ),
        ] {
            for code in ["200", "503"] {
                drop(family.get_or_create(&[("code", code)]));
            }
            registry.register(name, help, family.clone());
        }
        self.watches.register(&mut registry);
        // Before the maps: these are mapped into the process while they are read.
        registry.register_collector(Box::new(process::Process));
        registry.register_collector(Box::new(self.state.clone()));
        registry.register_collector(Box::new(maps::PinnedMaps::new(root, notices, series)));
        registry
    }
}

/// Writes what is known now. Reads maps and /proc: not for a task that others wait for.
pub fn text(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    if let Err(error) = encode(&mut text, registry) {
        tracing::warn!("writing the metrics: {error}");
    }
    match format {
        Format::OpenMetrics => text,
        Format::Classic => classic::from_openmetrics(&text),
    }
}

/// Rows of a family that is made anew at each scrape.
struct Rows<'a>(MetricEncoder<'a>);

impl Rows<'_> {
    fn gauge(&mut self, labels: &[(&str, &str)], value: f64) -> std::fmt::Result {
        if labels.is_empty() {
            return self.0.encode_gauge(&value);
        }
        ConstGauge::new(value).encode(self.0.encode_family(&labels)?)
    }

    fn counter_f64(&mut self, value: f64) -> std::fmt::Result {
        self.0.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn counter(&mut self, labels: &[(&str, &str)], value: u64) -> std::fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_family(&labels)?)
    }
}

fn gauges<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<Rows<'a>, std::fmt::Error> {
    let rows = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    Ok(Rows(rows))
}

fn counters<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<Rows<'a>, std::fmt::Error> {
    let rows = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    Ok(Rows(rows))
}
