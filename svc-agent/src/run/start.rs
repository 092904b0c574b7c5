//! From settings to what the kernel and the listeners are given at start.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use svc_common::socket::Mode;
use svc_common::table::{NodeConfig, counted, node_flags};
use tokio::sync::mpsc;

use crate::cluster::Event;
use crate::config::{Dsr, Run, SocketLb};
use crate::conntrack;
use crate::dataplane::{self, Dataplane};
use crate::health::{self, Health, Pages};
use crate::metrics::Metrics;
use crate::node::SnatPorts;
use crate::notices::Notices;
use crate::source;

pub(super) type Source = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Where Services come from, and who makes Events of what is refused of them.
pub(super) async fn source(
    options: &Run,
    node_name: String,
    events: mpsc::Sender<Event>,
    metrics: &Metrics,
) -> Result<(Source, Notices)> {
    if let Some(dir) = options.manifests.clone() {
        std::fs::read_dir(&dir)
            .with_context(|| format!("--manifests {} cannot be read", dir.display()))?;
        tracing::info!("serving the Services of {}", dir.display());
        let source = async move { Ok(source::manifests::run(&dir, events).await?) };
        return Ok((Box::pin(source), Notices::default()));
    }
    let client = source::kube::client(options.kubeconfig.as_deref()).await?;
    let (notices, queue) = Notices::new();
    let (theirs, watches) = (notices.clone(), metrics.watches.clone());
    let nodes = match options.dsr {
        Dsr::Off => source::kube::Nodes::Named(node_name.clone()),
        Dsr::Ipip | Dsr::Geneve => source::kube::Nodes::All,
    };
    let source = async move {
        let record = source::kube::record(client.clone(), &node_name, queue);
        let watch = source::kube::run(client.clone(), nodes, events, &theirs, &watches);
        // The watches end when the agent does.
        tokio::select! {
            () = watch => (),
            () = record => (),
        }
        Ok(())
    };
    Ok((Box::pin(source), notices))
}

pub(super) fn node_config(options: &Run) -> Result<NodeConfig> {
    let ports = SnatPorts::read();
    if let Some(warning) = ports.warning() {
        tracing::warn!("{warning}");
    }
    let mode = match options.socket_lb {
        SocketLb::Off => Mode::Off,
        SocketLb::Tcp => Mode::Tcp,
        SocketLb::All => Mode::All,
        SocketLb::HostOnly => Mode::HostOnly,
    };
    let default = NodeConfig::default();
    Ok(NodeConfig {
        netns_cookie: dataplane::netns_cookie()
            .context("asking for the network namespace's cookie (Linux 5.14)")?,
        socket_lb: mode as u32,
        flags: node_flags(options),
        snat_min: ports.min,
        snat_max: ports.max,
        tcp_established: options
            .conntrack_tcp_timeout_established
            .or(default.tcp_established),
        tcp_close_wait: options
            .conntrack_tcp_timeout_close_wait
            .or(default.tcp_close_wait),
        udp: options.conntrack_udp_timeout.or(default.udp),
        udp_stream: options.conntrack_udp_timeout_stream.or(default.udp_stream),
        ..default
    })
}

/// The settings that the programs ask for.
fn node_flags(options: &Run) -> u32 {
    [
        (options.external_cluster_ip, node_flags::EXTERNAL_CLUSTER_IP),
        (options.masquerade_all, node_flags::MASQUERADE_ALL),
        (options.protect_node_ports, node_flags::PROTECT_NODE_PORTS),
        (!options.cluster_cidr.is_empty(), node_flags::CLUSTER_CIDR),
        (options.takeover, node_flags::TAKEOVER),
        (options.reset_gone_backends, node_flags::RESET_GONE),
        (options.dsr == Dsr::Ipip, node_flags::DSR_IPIP),
        (options.dsr == Dsr::Geneve, node_flags::DSR_GENEVE),
        (
            options.counting.counts(counted::CONNECTIONS),
            node_flags::COUNTS_CONNECTIONS,
        ),
        (
            options.counting.counts(counted::TRAFFIC),
            node_flags::COUNTS_TRAFFIC,
        ),
    ]
    .into_iter()
    .filter_map(|(set, flag)| set.then_some(flag))
    .fold(0, |flags, flag| flags | flag)
}

/// Before any program is attached: what kube-proxy has established stays with it.
pub(super) fn take_over(dataplane: &mut Dataplane) -> Result<()> {
    match conntrack::translated() {
        Ok(connections) => {
            let taken = dataplane.take_over(&connections)?;
            tracing::info!("{taken} connections of another proxy go on as they are");
        }
        // Without connection tracking there is nothing to take over.
        Err(error) => tracing::warn!("reading the kernel's connections: {error}"),
    }
    Ok(())
}

pub(super) fn attach_sockets(options: &Run, dataplane: &mut Dataplane) -> Result<()> {
    // Without socket load balancing nothing of ours is at the cgroup, unless it is asked for.
    let hooks: Vec<_> = match (options.socket_lb, options.protect_node_ports) {
        (SocketLb::Off, false) => return Ok(dataplane.attach_sockets(None)?),
        (SocketLb::Off, true) => dataplane::BIND_HOOKS.to_vec(),
        _ => [&dataplane::SOCKET_HOOKS[..], &dataplane::BIND_HOOKS].concat(),
    };
    let root = match &options.cgroup_root {
        Some(root) => root.clone(),
        None => cgroup_root()
            .context("finding cgroup2; mount it or give --cgroup-root, or --socket-lb off")?,
    };
    Ok(dataplane.attach_sockets(Some((&root, &hooks)))?)
}

/// Where cgroup v2 is mounted: at /sys/fs/cgroup, or below it on hybrid hosts.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts =
        std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    // proc(5): ... root mount-point options... - type source super-options
    let cgroup2 = |line: &&str| {
        line.split_once(" - ")
            .is_some_and(|(_, fs)| fs.starts_with("cgroup2 "))
    };
    let line = mounts
        .lines()
        .find(cgroup2)
        .context("no cgroup2 is mounted")?;
    line.split(' ')
        .nth(4)
        .map(PathBuf::from)
        .context("a line of mountinfo is too short")
}

/// Listens for whoever asks how the agent is.
pub(super) async fn serve(
    options: &Run,
    node_name: &str,
    health: &Arc<Health>,
    notices: &Notices,
    metrics: &Metrics,
) -> Result<()> {
    if let Some(addr) = options.healthz_bind_address.0 {
        tokio::spawn(health::serve_health(addr, health.clone(), metrics.clone()).await?);
    }
    if let Some(addr) = options.metrics_bind_address.0 {
        let registry = metrics.registry(
            options.bpf_root.clone(),
            notices.clone(),
            options.counting.service_metrics_limit,
        );
        let pages = Pages {
            health: health.clone(),
            metrics: metrics.clone(),
            registry: Arc::new(registry),
            settings: options.settings.clone(),
            node_name: node_name.to_owned(),
            started: jiff::Timestamp::now(),
        };
        tokio::spawn(health::serve_metrics(addr, Arc::new(pages)).await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Verb};

    fn flags(arguments: &[&str]) -> u32 {
        let argv = ["svc-agent", "run"].iter().chain(arguments);
        let cli = config::parse(argv.map(Into::into)).expect("a good command line");
        match cli.verb {
            Verb::Run(options) => node_flags(&options),
            other => panic!("not run: {other:?}"),
        }
    }

    #[test]
    fn the_programs_are_told_the_settings_that_they_ask_for() {
        let none = "--service-metrics=off";
        assert_eq!(flags(&[]), node_flags::COUNTS_CONNECTIONS);
        assert_eq!(flags(&[none]), 0);
        let traffic = node_flags::COUNTS_CONNECTIONS | node_flags::COUNTS_TRAFFIC;
        assert_eq!(flags(&["--service-metrics=traffic"]), traffic);
        for (setting, flag) in [
            ("--external-cluster-ip", node_flags::EXTERNAL_CLUSTER_IP),
            ("--masquerade-all", node_flags::MASQUERADE_ALL),
            ("--cluster-cidr=10.244.0.0/16", node_flags::CLUSTER_CIDR),
        ] {
            assert_eq!(flags(&[none, setting]), flag, "{setting}");
        }
        assert_eq!(
            flags(&[none, "--masquerade-all", "--cluster-cidr=fd00::/48"]),
            node_flags::MASQUERADE_ALL | node_flags::CLUSTER_CIDR
        );
    }
}
