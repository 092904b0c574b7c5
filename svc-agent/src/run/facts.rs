//! The node as it is now: its devices get their hooks, its addresses and its zone become facts to compile by.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Agent, COALESCE, RETRY};
use crate::cluster::Cluster;
use crate::compile::{Facts, node_port_addresses};
use crate::config::{Run, Xdp};
use crate::dataplane;
use crate::desired::{Fault, Refusal};
use crate::guard::Listener;
use crate::node::{self, Devices, Reached, Watch};
use crate::sockets;
use crate::source;

/// How often what the node's processes listen on is looked at, where an external address is the node's.
const LISTENERS: Duration = Duration::from_secs(10);

impl Agent<'_> {
    /// Reads the node again after netlink said that something changed, or that it has nothing more to say.
    pub(super) async fn notified(&mut self, changed: Result<(), node::Error>) -> Result<()> {
        if let Err(error) = changed {
            tracing::warn!("{error}; opening netlink again");
            tokio::time::sleep(RETRY).await;
            self.netlink = Watch::open()?;
        }
        tokio::time::sleep(COALESCE).await;
        self.netlink.drain();
        self.refresh_node().await;
        Ok(())
    }

    async fn refresh_node(&mut self) {
        match self.netlink.devices().await {
            Ok(devices) if devices == self.devices => (),
            Ok(devices) => {
                self.devices = devices;
                self.attach();
            }
            Err(error) => {
                tracing::warn!("{error}");
                self.reattach = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Tries again what could not be attached, when it is time.
    pub(super) async fn attach_again(&mut self) {
        if self.reattach.is_some_and(|when| when <= Instant::now()) {
            self.reattach = None;
            self.refresh_node().await;
            if self.reattach.is_none() {
                self.attach();
            }
        }
    }

    pub(super) fn node_ips(&self) -> Vec<IpAddr> {
        node_ips(self.options, &self.reconciler.cluster, &self.devices)
    }

    /// Puts the programs where the devices are now, unless another version's go on there until ours know all that is wanted.
    pub(super) fn attach(&mut self) {
        if self.dataplane.is_beside() {
            self.other_node = true;
            self.attached_for = self.node_ips();
            return;
        }
        self.put_programs();
    }

    pub(super) fn put_programs(&mut self) {
        self.other_node = true;
        let node_ips = self.node_ips();
        let addresses = node::device_addresses(&self.devices, &node_ips);
        let reached = Reached {
            node_ports: self.node_port_addresses(&node_ips),
            node: node_ips.clone(),
        };
        let hooks = self
            .selection
            .hooks(&self.devices, &reached, self.options.xdp);
        let is_virtual =
            |device: &&u32| self.devices.get(device).is_some_and(|d| !d.kind.is_empty());
        let virtual_devices = self.devices.keys().filter(is_virtual).copied().collect();
        let mut errors: Vec<_> = self
            .dataplane
            .set_devices(&addresses)
            .err()
            .into_iter()
            .collect();
        errors.extend(self.dataplane.attach_devices(&hooks, &virtual_devices));
        let before = errors.len();
        errors.retain(|error| !is_gone(error));
        self.attached_for = node_ips;
        let missing = errors.iter().any(|error| !self.is_bonus(error));
        self.reattach = (missing || errors.len() < before).then(|| Instant::now() + RETRY);
        self.report_hooks(&hooks);
        self.attached(hooks);
        let object = "device hooks".to_owned();
        let refusals = errors
            .iter()
            .map(|error| match self.is_bonus(error) {
                true => format!("{error}; tcx does its work there"),
                false => error.to_string(),
            })
            .map(|why| Refusal::new(Fault::NotAttached, object.clone(), why))
            .collect::<Vec<_>>();
        let new = self.refusals.update(&object, refusals);
        self.notices.refused(None, &new);
    }

    /// XDP by `auto`: tc does the work where a driver has none.
    fn is_bonus(&self, error: &dataplane::Error) -> bool {
        let of_xdp = matches!(error, dataplane::Error::Attach { name, .. } if *name == "node_xdp");
        of_xdp && self.options.xdp == Xdp::Auto
    }

    fn node_port_addresses(&self, node_ips: &[IpAddr]) -> Vec<IpAddr> {
        served_addresses(self.options, &self.devices, node_ips)
    }

    /// Looks what processes of the node listen on, when it is time and somebody else asks for that.
    pub(super) fn look_at_listeners(&mut self) {
        let now = Instant::now();
        if !self.reconciler.asks_of_node() {
            self.listeners_due = None;
        } else if *self.listeners_due.get_or_insert(now + LISTENERS) <= now {
            self.listeners_due = Some(now + LISTENERS);
            self.reconciler.look_at_listeners();
        }
    }

    pub(super) fn take_facts(&mut self) {
        let cluster = &self.reconciler.cluster;
        self.health
            .node_doomed(cluster.node().is_some_and(|node| node.doomed));
        let (facts, all) = facts(self.options, cluster, &self.devices, &self.attached_for);
        self.reconciler.set_facts(facts, all);
    }
}

/// What the node is known by: told, or by its object, or as its default route has it.
pub(crate) fn node_ips(options: &Run, cluster: &Cluster, devices: &Devices) -> Vec<IpAddr> {
    if !options.node_ip.is_empty() {
        return options.node_ip.clone();
    }
    match cluster.node() {
        Some(node) if !node.addresses.is_empty() => node.addresses.clone(),
        _ => node::default_addresses(devices),
    }
}

/// Where NodePorts are served.
fn served_addresses(options: &Run, devices: &Devices, node_ips: &[IpAddr]) -> Vec<IpAddr> {
    let local: Vec<IpAddr> = node::own_addresses(devices).into_iter().collect();
    node_port_addresses(&options.nodeport_addresses, node_ips, &local)
}

/// What to compile by, and all addresses of the node.
pub(crate) fn facts(
    options: &Run,
    cluster: &Cluster,
    devices: &Devices,
    node_ips: &[IpAddr],
) -> (Facts, BTreeSet<IpAddr>) {
    let facts = Facts {
        node_name: cluster.node_name().to_owned(),
        zone: cluster
            .node()
            .and_then(|node| node.zone())
            .map(str::to_owned),
        node_port_addresses: served_addresses(options, devices, node_ips),
        node_addresses: node_ips.to_vec(),
        external_cluster_ip: options.external_cluster_ip,
        external_ips: options.service_external_ip_range.clone(),
        load_balancer_ips: options.loadbalancer_ip_range.clone(),
        api_server: match options.manifests {
            Some(_) => None,
            None => source::kube::address(options.kubeconfig.as_deref()),
        },
    };
    let own = node::own_addresses(devices).into_iter();
    (facts, own.chain(node_ips.iter().copied()).collect())
}

/// What processes of the node listen on.
pub(crate) fn listening() -> Vec<Listener> {
    sockets::listening().unwrap_or_else(|error| {
        tracing::warn!(
            "listing the node's listening sockets: {error}; external addresses of the node may take their ports"
        );
        Vec::new()
    })
}

/// The device went after it was listed: the kernel is about to say so.
fn is_gone(error: &dataplane::Error) -> bool {
    match error {
        dataplane::Error::Attach { cause, .. } => cause.raw_os_error() == Some(libc::ENODEV),
        _ => false,
    }
}
