//! Instrument 3: how soon a write at the API server reaches packets, what a start costs, and what a busy cluster costs;
//! svcplane on one node, the real kube-proxy on the other, one API server.
//!
//! Objects come into etcd directly, which takes seconds instead of minutes; what is measured goes through the API server.

mod churn;
mod lab;
mod objects;
mod plane;
mod probe;
mod process;
mod tables;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xtask::topology::{Options, Topology};

use super::figure::{Figure, Outcome};
use super::stats::quantile;
use super::{Bench, BenchArgs, step};
use lab::Lab;
use plane::Programs;

const NAME: &str = "programming";
const ENDPOINTS: u32 = 10;
/// From here on peers are measured less often.
const MANY: u32 = 10_000;

/// Who serves, on which node, and from which pod it is asked there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    name: &'static str,
    node: &'static str,
    pod: &'static str,
    /// kube-proxy's mode; None: svcplane.
    mode: Option<&'static str>,
}

const SVCPLANE: Side = Side {
    name: "svcplane",
    node: "node1",
    pod: "pod-b",
    mode: None,
};

/// They take turns.
const PEERS: [Side; 2] = [
    Side {
        name: "kube-proxy nftables",
        node: "node2",
        pod: "pod-d",
        mode: Some("nftables"),
    },
    Side {
        name: "kube-proxy iptables",
        node: "node2",
        pod: "pod-d",
        mode: Some("iptables"),
    },
];

/// How much is measured.
struct Extent {
    sizes: Vec<u32>,
    peers: Vec<Side>,
    /// Changes that svcplane is waited for, and a peer.
    changes: usize,
    peer_changes: usize,
    starts: usize,
    churn: Duration,
    idle: Duration,
}

impl Extent {
    fn of(args: &BenchArgs) -> Result<Self> {
        let quick = args.quick;
        let sizes = match &args.services {
            Some(list) => list
                .split(',')
                .map(|size| size.trim().parse())
                .collect::<Result<_, _>>()
                .with_context(|| format!("--services {list}: write numbers, as 1,1000"))?,
            None if quick => vec![1, 1_000],
            None => vec![1, 1_000, 10_000, 50_000],
        };
        let rounds = |most: usize| args.rounds.map_or(most, |rounds| rounds as usize);
        let wanted = |side: &Side| match &args.contestants[..] {
            [] => !quick || side.mode == Some("nftables"),
            named => named.iter().any(|part| side.name.contains(&**part)),
        };
        Ok(Self {
            sizes,
            peers: PEERS.into_iter().filter(wanted).collect(),
            changes: rounds(if quick { 40 } else { 200 }),
            peer_changes: rounds(if quick { 5 } else { 20 }),
            starts: if quick { 1 } else { 3 },
            churn: Duration::from_secs(if quick { 4 } else { 15 }),
            idle: Duration::from_secs(if quick { 2 } else { 15 }),
        })
    }

    /// Who takes part: rules of iptables for more than this take longer than anybody waits.
    fn sides(&self, services: u32) -> impl Iterator<Item = Side> {
        let slow = move |side: &&Side| side.mode == Some("iptables") && services > MANY;
        let peers = self.peers.iter().filter(move |side| !slow(side));
        [SVCPLANE].into_iter().chain(peers.copied())
    }

    fn starts(&self, side: Side, services: u32) -> usize {
        let few = side.mode.is_some() && services >= MANY;
        if few { 1 } else { self.starts }
    }

    fn changes(&self, side: Side, services: u32) -> usize {
        match side.mode {
            None => self.changes,
            Some(_) if services > MANY => self.peer_changes.min(3),
            Some(_) => self.peer_changes,
        }
    }
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    let extent = Extent::of(bench.args)?;
    let target = target();
    let program = |name| crate::assets::program(&target, name);
    let programs = Programs {
        etcd: program("etcd")?,
        api_server: program("kube-apiserver")?,
        kube_proxy: program("kube-proxy")?,
    };
    let options = Options {
        agent: Some(bench.binary("svc-agent")?),
        ..Options::default()
    };
    let topology = Topology::new(options)?;
    let noise = noise();
    let mut lab = Lab::start(&topology, programs, &bench.binary("svc-writer")?)?;
    let mut figures = Vec::new();
    let mut present = 0;
    for &services in &extent.sizes {
        step(&format!("{services} Services of {ENDPOINTS} endpoints"));
        lab.fill(present..services)?;
        present = present.max(services);
        let measured = lab.measure(&extent, services)?;
        let with_size = |figure: Figure| {
            figure
                .with("services", services)
                .with("endpoints", ENDPOINTS)
        };
        figures.extend(measured.into_iter().map(with_size));
    }
    Ok(Outcome {
        tables: tables::tables(&figures),
        charts: tables::charts(&figures),
        figures,
        noise,
    })
}

/// Milliseconds are measured here: a machine that has other work does not wake anybody in time.
fn noise() -> Vec<String> {
    let late: Vec<f64> = (0..500)
        .map(|_| {
            let begin = Instant::now();
            sleep(Duration::from_millis(1));
            begin.elapsed().as_secs_f64() * 1e3 - 1.0
        })
        .collect();
    let late = quantile(&late, 0.99);
    let noisy = (late > 3.0).then(|| format!("one sleep in a hundred is {late:.0} ms too long"));
    noisy.into_iter().collect()
}

/// Where cargo builds to, and where the programs lie that are measured beside.
fn target() -> std::path::PathBuf {
    let folder = super::default_folder();
    folder.parent().unwrap_or(&folder).to_owned()
}

/// A figure that further samples come to.
fn figure(row: &str, side: Side, unit: &str, samples: Vec<f64>) -> Figure {
    Figure::new(NAME, row, side.name, unit, samples)
}
