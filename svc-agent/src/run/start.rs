//! From settings to what the kernel and the listeners are given at start.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use svc_common::socket::Mode;
use svc_common::table::{NodeConfig, node_flags};

use crate::config::{Run, SocketLb};
use crate::dataplane::{self, Dataplane, Pinned};
use crate::health::{self, Health};
use crate::node::SnatPorts;

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
    Ok(NodeConfig {
        netns_cookie: dataplane::netns_cookie()
            .context("asking for the network namespace's cookie (Linux 5.14)")?,
        socket_lb: mode as u32,
        flags: if options.external_cluster_ip {
            node_flags::EXTERNAL_CLUSTER_IP
        } else {
            0
        },
        snat_min: ports.min,
        snat_max: ports.max,
        ..NodeConfig::default()
    })
}

pub(super) fn attach_sockets(options: &Run, dataplane: &mut Dataplane) -> Result<()> {
    if options.socket_lb == SocketLb::Off {
        return Ok(dataplane.attach_sockets(None)?);
    }
    let root = match &options.cgroup_root {
        Some(root) => root.clone(),
        None => cgroup_root()
            .context("finding cgroup2; mount it or give --cgroup-root, or --socket-lb off")?,
    };
    Ok(dataplane.attach_sockets(Some(&root))?)
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

pub(super) async fn serve(options: &Run, health: &Arc<Health>) -> Result<()> {
    if let Some(addr) = options.healthz_bind_address.0 {
        tokio::spawn(health::serve_health(addr, health.clone()).await?);
    }
    if let Some(addr) = options.metrics_bind_address.0 {
        let root = options.bpf_root.clone();
        tokio::spawn(health::serve_metrics(addr, health.clone(), move || metrics(&root)).await?);
    }
    Ok(())
}

/// The counters by reason, read from the pinned maps.
fn metrics(root: &std::path::Path) -> String {
    let mut text = String::from(
        "# HELP svcplane_not_forwarded_total Packets and connects that a Service did not carry, by reason.\n\
         # TYPE svcplane_not_forwarded_total counter\n",
    );
    match Pinned::open(root).and_then(|pinned| pinned.reasons()) {
        Ok(reasons) => {
            for (reason, count) in reasons {
                text += &format!(
                    "svcplane_not_forwarded_total{{reason=\"{}\"}} {count}\n",
                    reason.name()
                );
            }
        }
        Err(error) => tracing::warn!("metrics: {error}"),
    }
    text
}
