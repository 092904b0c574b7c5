//! What the programs count, read from the pinned maps at each scrape.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use svc_common::reason::Reason;

use super::{FAMILIES, counters, gauges, services};
use crate::dataplane::{self, Census, Pinned};
use crate::desired::Protocol;
use crate::notices::Notices;
use crate::tally::{Counts, Series};

/// Of [`crate::inspect::flow_state`].
const STATES: [&str; 3] = ["new", "established", "closing"];

pub(super) struct PinnedMaps {
    root: PathBuf,
    notices: Notices,
    series: Mutex<Series>,
}

impl std::fmt::Debug for PinnedMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the maps below {}", self.root.display())
    }
}

impl PinnedMaps {
    pub(super) fn new(root: PathBuf, notices: Notices, series: usize) -> Self {
        Self {
            root,
            notices,
            series: Mutex::new(Series::new(series)),
        }
    }
}

/// What is read; nothing, where the maps cannot be.
#[derive(Default)]
struct Read {
    reasons: Vec<(Reason, u64)>,
    /// By family.
    census: Vec<(&'static str, Census)>,
    /// By service id.
    labels: BTreeMap<u32, String>,
    counts: Counts,
}

impl Read {
    fn from(pinned: &Pinned) -> Result<Self, dataplane::Error> {
        let labels = pinned.labels()?;
        Ok(Self {
            counts: pinned.counts(labels.keys().copied())?.unwrap_or_default(),
            labels,
            reasons: pinned.reasons()?,
            census: FAMILIES.into_iter().zip(pinned.census()?).collect(),
        })
    }
}

impl Collector for PinnedMaps {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut rows = counters(
            &mut encoder,
            "svcplane_refusals",
            "What was refused of Services and other objects since the start, by what is wrong",
        )?;
        for (fault, count) in self.notices.counts() {
            rows.counter(&[("reason", fault.name())], count)?;
        }
        let read = Pinned::open(&self.root).and_then(|pinned| Read::from(&pinned));
        let read = read.unwrap_or_else(|error| {
            tracing::warn!("metrics: {error}");
            Read::default()
        });
        let mut rows = counters(
            &mut encoder,
            "svcplane_not_forwarded",
            "Packets and connects that a Service did not carry, by reason",
        )?;
        for (reason, count) in &read.reasons {
            rows.counter(&[("reason", reason.name())], *count)?;
        }
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, others) = series.split(&read.counts);
        services::encode(&mut encoder, &read.labels, &own, others)?;
        flows(&mut encoder, &read)?;
        for (name, help, value) in [
            (
                "svcplane_flow_table_capacity",
                "Flows that the flow table has room for",
                (|census| f64::from(census.flow_capacity)) as fn(&Census) -> f64,
            ),
            (
                "svcplane_affinity_entries",
                "Clients that are bound to a backend (sessionAffinity), expired ones not yet replaced among them",
                |census| census.affinities as f64,
            ),
        ] {
            let mut rows = gauges(&mut encoder, name, help)?;
            for (family, census) in &read.census {
                rows.gauge(&[("ip_family", family)], value(census))?;
            }
        }
        Ok(())
    }
}

fn flows(encoder: &mut DescriptorEncoder<'_>, read: &Read) -> std::fmt::Result {
    let mut rows = gauges(
        encoder,
        "svcplane_flows",
        "Flows of the packet path by state, those that are over and not yet replaced among them",
    )?;
    for (family, census) in &read.census {
        for protocol in Protocol::ALL {
            for state in STATES {
                let key = (u16::from(protocol.number()), state);
                let count = census.flows.get(&key).copied().unwrap_or(0);
                let labels = [
                    ("ip_family", *family),
                    ("protocol", protocol.name()),
                    ("state", state),
                ];
                rows.gauge(&labels, count as f64)?;
            }
        }
    }
    Ok(())
}
