//! `svc-agent run`: one task that owns the dataplane, fed by a source and by netlink.

mod bound;
mod facts;
mod limits;
mod pace;
mod past;
mod recount;
mod report;
mod rest;
mod start;
mod sysctls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cluster::{Cluster, Event};
use crate::config::{Dsr, Run};
use crate::connections;
use crate::dataplane::{self, Dataplane};
use crate::desired::{Refusal, ServiceName};
use crate::health::{Health, NodePortChecks};
use crate::metrics::{Metrics, Written};
use crate::node::{Devices, Selection, Watch};
use crate::notices::{Notices, Regarding};
use crate::plan::Planner;
use crate::privileges;
use crate::realtime;
use crate::reconcile::Reconciler;
use crate::refusals::Refusals;
use crate::rivals;
use crate::sockets::Sweeper;
use crate::source;
use pace::Pace;
use past::Past;
use recount::Recount;
use report::SelfTest;
use rest::Rest;

pub(crate) use facts::{facts, listening, node_ips};
pub use start::cgroup_root;

/// Events that come together are planned together: a change goes at once when the last one is so long ago; in a storm
/// this is what is waited for more.
const COALESCE: Duration = Duration::from_millis(3);
/// How often the connections of least-connections Services are counted anew.
const RECOUNT: Duration = Duration::from_secs(10);
/// After a failed write.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: &Run) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let node_name = options
        .node_name()
        .context("reading the host's name; give --hostname-override")?;
    let (events, mut inbox) = mpsc::channel(source::QUEUE);
    limits::raise()?;
    // Before anything is loaded: without a source there is nothing to serve.
    let metrics = Metrics::default();
    let (source, notices) = start::source(options, node_name.clone(), events, &metrics).await?;
    let mut agent = Agent::start(options, node_name, notices, metrics).await?;
    // A task of its own: it is looked at when there is news for it, and not whenever anything happens here.
    let mut source = tokio::spawn(source);
    loop {
        let due = agent.due();
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = &mut source => {
                ended.context("the source of Services has failed")??;
                bail!("the source of Services ended");
            }
            Some(event) = inbox.recv() => {
                agent.take_in(event);
                agent.gather(&mut inbox).await;
            }
            changed = agent.netlink.changed() => {
                agent.notified(changed).await?;
            }
            () = agent.past.changed() => (),
            () = sleep_until(due), if due.is_some() => agent.attach_again().await,
        }
        agent.look_again();
        agent.look_at_listeners();
        agent.settle();
        agent.recount().await;
        agent.serve_health_checks().await;
        agent.rest();
    }
    tracing::info!("stopping; the dataplane stays");
    if options.unload_on_exit {
        drop(agent);
        let removal = dataplane::cleanup(&options.bpf_root, &options.procfs);
        tracing::info!("removed {} pins", removal.removed.len());
        if !removal.failed.is_empty() {
            bail!("the dataplane is not gone: {}", removal.failed.join("; "));
        }
    }
    Ok(())
}

async fn sleep_until(when: Option<Instant>) {
    if let Some(when) = when {
        tokio::time::sleep_until(when.into()).await;
    }
}

/// What a write has changed.
#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    entries: usize,
    /// Anything of IPv4, and of IPv6.
    families: [bool; 2],
}

/// The one writer.
struct Agent<'a> {
    options: &'a Run,
    selection: Selection,
    dataplane: Dataplane,
    reconciler: Reconciler,
    refusals: Refusals,
    notices: Notices,
    metrics: Metrics,
    /// The last change from the source was one.
    news: bool,
    self_test: SelfTest,
    health: Arc<Health>,
    health_checks: NodePortChecks,
    sockets: Sweeper,
    netlink: Watch,
    devices: Devices,
    pace: Pace,
    /// Sockets may have lost their backends in a write that failed half-way.
    sweep: bool,
    /// When what could not be attached is to be tried again.
    reattach: Option<Instant>,
    /// The node's addresses that devices were judged by.
    attached_for: Vec<IpAddr>,
    /// The node is another since its facts were taken.
    other_node: bool,
    listeners_due: Option<Instant>,
    synced: bool,
    recount: Recount,
    rest: Rest,
    past: Past,
}

impl<'a> Agent<'a> {
    async fn start(
        options: &'a Run,
        node_name: String,
        notices: Notices,
        metrics: Metrics,
    ) -> Result<Self> {
        let health = Arc::new(Health::default());
        start::serve(options, &node_name, &health, &notices, &metrics).await?;
        let netlink = Watch::open()?;
        let devices = netlink.devices().await?;
        let mut dataplane = Dataplane::open(&options.bpf_root, options.counting.bits())?;
        let planner = planner(&mut dataplane)?;
        sysctls::set(options);
        let config = start::node_config(options)?;
        dataplane.configure(&config)?;
        if options.takeover {
            start::take_over(&mut dataplane)?;
        }
        if !dataplane.is_beside() {
            start::attach_sockets(options, &mut dataplane)?;
        }
        tokio::spawn(bound::watch(
            options.bpf_root.clone(),
            options.protect_node_ports,
        ));
        for warning in rivals::find(&devices)
            .into_iter()
            .chain(realtime::warning())
        {
            tracing::warn!("{warning}");
        }
        tracing::info!(
            "node {node_name}: programs loaded, maps at {}",
            options.bpf_root.display()
        );
        // What is attached from here on could come later as well. Threads that are made from here on inherit what is left.
        privileges::let_go(options);
        let sockets = Sweeper::start(options.bpf_root.clone(), options.reaches_into_pods())
            .context("starting the thread that looks after sockets")?;
        let mut agent = Self {
            options,
            selection: Selection {
                devices: options.devices.clone(),
                pod_devices: options.pod_devices.clone(),
            },
            dataplane,
            reconciler: Reconciler::new(cluster(options, node_name), planner)
                .with_listening(listening),
            refusals: Refusals::default(),
            notices,
            metrics,
            news: false,
            self_test: SelfTest::default(),
            health_checks: NodePortChecks::new(health.clone()),
            health,
            sockets,
            netlink,
            devices,
            pace: Pace::default(),
            sweep: false,
            reattach: None,
            attached_for: Vec::new(),
            other_node: true,
            listeners_due: None,
            synced: false,
            recount: Recount::default(),
            rest: Rest::new(Instant::now()),
            past: Past::new(config, options.host_routing),
        };
        agent
            .reconciler
            .set_cluster_ranges(options.cluster_cidr.iter().copied());
        agent.attach();
        Ok(agent)
    }

    /// When there is something to do by itself.
    fn due(&self) -> Option<Instant> {
        self.pace
            .due()
            .into_iter()
            .chain(self.reattach)
            .chain(self.recount.due())
            .chain(self.past.due())
            .chain(self.listeners_due)
            // While a write is to be repeated, nothing is tested.
            .chain(self.self_test.due().filter(|_| !self.pace.has_failed()))
            .chain(self.health_checks.due())
            .chain(self.rest.due())
            .min()
    }

    /// Takes in what else has come; soon after a write also what comes within a moment.
    async fn gather(&mut self, inbox: &mut mpsc::Receiver<Event>) {
        let until = self.pace.storm_until(Instant::now());
        // What is there is had even when the time is over.
        while let Ok(Some(event)) = tokio::time::timeout_at(until.into(), inbox.recv()).await {
            self.take_in(event);
        }
    }

    /// Brings the maps to what is wanted.
    fn settle(&mut self) {
        let now = Instant::now();
        if self.pace.has_failed() && (self.pace.must_wait(now) || !self.start_over()) {
            return;
        }
        while let Some(batch) = self.pace.next_free(now) {
            self.reconciler.planner.release(batch);
        }
        // The Node object may have come, or changed.
        if self.node_ips() != self.attached_for {
            self.attach();
        }
        if std::mem::take(&mut self.other_node) {
            self.take_facts();
        }
        let start = Instant::now();
        let Some(changed) = self.write() else {
            return self.fail();
        };
        let entries = changed.entries;
        if self.reconciler.cluster.synced() {
            let written = Written {
                took: start.elapsed(),
                families: changed.families,
            };
            self.metrics.programming.settled(written, entries);
            self.report();
        }
        if std::mem::take(&mut self.sweep) {
            self.sockets.wake();
        }
        if self.reconciler.cluster.synced()
            && self.dataplane.is_beside()
            && let Err(error) = self.take_the_place()
        {
            tracing::error!("{error:#}; trying again in {} s", RETRY.as_secs());
            return self.fail();
        }
        let complete = self.synced || self.reattach.is_none();
        if self.reconciler.cluster.synced() && complete {
            self.test_itself();
            if !self.synced {
                self.synced = true;
                self.rest.synced(now);
                let services = self.reconciler.cluster.services().len();
                tracing::info!("synced: {services} Services, {entries} map entries written");
                self.sockets.wake();
                if self.options.takeover
                    && let Err(error) = self.dataplane.place_taken_over()
                {
                    tracing::warn!("{error}; connections taken over keep their backends");
                }
            }
            self.health.synced();
        }
    }

    /// Plans and writes, round by round; None when that failed.
    fn write(&mut self) -> Option<Changed> {
        let (start, mut changed) = (Instant::now(), Changed::default());
        loop {
            let round = self.reconciler.round();
            for (name, refusals) in round.refusals {
                self.refuse(&name, &format!("Service {name}"), refusals);
            }
            for (name, check) in round.health_checks {
                self.health_checks.set(&name, check);
            }
            self.sweep |= round.changes.v4.stale || round.changes.v6.stale;
            if !round.changes.is_empty() {
                if let Err(error) = self.dataplane.apply(&round.changes) {
                    tracing::error!("{error}; trying again in {} s", RETRY.as_secs());
                    return None;
                }
                changed.entries += round.changes.len();
                changed.families[0] |= !round.changes.v4.is_empty();
                changed.families[1] |= !round.changes.v6.is_empty();
                let batch = self.reconciler.planner.close_generation();
                self.pace.wrote(batch, Instant::now());
            }
            if !round.more {
                break;
            }
        }
        if changed.entries > 0 {
            let entries = changed.entries;
            self.rest.wrote(entries, Instant::now());
            tracing::debug!("wrote {entries} map entries in {:?}", start.elapsed());
        }
        Some(changed)
    }

    /// Corrects what the programs have counted for least-connections Services. Walking FLOWS takes a while, so another
    /// thread does it; the maps are written here only.
    async fn recount(&mut self) {
        let root = &self.options.bpf_root;
        let wanted = || connections::wanted(&self.reconciler.planner);
        let Some(connections) = self.recount.turn(root, wanted).await else {
            return;
        };
        // While a write is to be repeated nobody knows what is in the maps.
        if !self.pace.has_failed() {
            let connections = connections.per_backend(&self.reconciler.planner);
            if let Err(error) = self.dataplane.set_connections(&connections) {
                tracing::warn!("{error}");
            }
        }
    }

    /// Listens where load balancers ask, as far as that can be had.
    async fn serve_health_checks(&mut self) {
        for (name, refusals) in self.health_checks.settle().await {
            self.refuse(&name, &format!("health check of Service {name}"), refusals);
        }
    }

    /// Says what is refused of a Service, in the log and in the API; `what` of it was looked at.
    fn refuse(&mut self, name: &ServiceName, what: &str, refusals: Vec<Refusal>) {
        let new = self.refusals.update(what, refusals);
        let service = self.reconciler.cluster.service(name);
        let regarding = service.map(|service| Regarding {
            api_version: "v1".into(),
            kind: "Service".into(),
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            uid: service.uid.to_string(),
        });
        self.notices.refused(regarding.as_ref(), &new);
    }

    /// Lets go of memory, when it is time.
    fn rest(&mut self) {
        let Some(written) = self.rest.is_due(Instant::now()) else {
            return;
        };
        // It takes longer the more there is, so it has to be worth the while.
        if written >= self.reconciler.cluster.services().len() {
            self.reconciler.pack();
        }
        rest::give_memory_back();
    }

    /// Swaps the programs of another version, whose maps are others, now that ours say all that is wanted.
    fn take_the_place(&mut self) -> Result<()> {
        start::attach_sockets(self.options, &mut self.dataplane)?;
        self.put_programs();
        self.dataplane.take_the_place()?;
        tracing::info!("the other version's programs and maps are replaced");
        Ok(())
    }

    fn fail(&mut self) {
        self.pace.failed(Instant::now());
        self.sweep = true;
        self.health.failed();
        self.metrics.programming.failed();
    }

    /// After a failed write nobody knows what is in the maps but the maps. False: they cannot be read.
    fn start_over(&mut self) -> bool {
        match planner(&mut self.dataplane) {
            Ok(planner) => {
                self.pace.recovered();
                self.metrics.programming.starts_over();
                self.reconciler.restart(planner);
                true
            }
            Err(error) => {
                tracing::error!("{error:#}; trying again in {} s", RETRY.as_secs());
                self.fail();
                false
            }
        }
    }
}

/// Nothing is known of the cluster yet; what of it matters, the settings say.
pub(crate) fn cluster(options: &Run, node_name: String) -> Cluster {
    let cluster = Cluster::new(node_name);
    if options.dsr == Dsr::Off {
        cluster
    } else {
        cluster.with_peers()
    }
}

fn planner(dataplane: &mut Dataplane) -> Result<Planner> {
    // Whoever wrote before may have been stopped between the last removal of an endpoint and the end of the epoch.
    dataplane.end_epoch()?;
    let snapshot = dataplane.read()?;
    Ok(Planner::from_actual(
        snapshot.v4,
        snapshot.v6,
        snapshot.services,
        dataplane.capacities()?,
    ))
}
