//! The real kube-proxy, in nftables mode where nothing else is said, on a node of a topology.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use xtask::programs::asset;
use xtask::topology::Topology;
use xtask::traffic::Running;

use crate::cluster::ControlPlane;
use crate::server::{ADMIN, spawn};

pub const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:244::/32";

fn command(mode: &str, topology: &Topology, node: &str) -> Result<Command> {
    let mut command = topology.command(node, asset("kube-proxy")?)?;
    command.args([
        &format!("--proxy-mode={mode}"),
        &format!("--hostname-override={node}"),
    ]);
    Ok(command)
}

pub fn log(topology: &Topology) -> PathBuf {
    topology.scratch().join("kube-proxy.log")
}

/// Killed when dropped; its rules stay, as those of a kube-proxy that is told to end do.
pub fn start(plane: &ControlPlane, topology: &Topology, node: &str) -> Result<Running> {
    start_in("nftables", plane, topology, node)
}

/// The same in another mode.
pub fn start_in(
    mode: &str,
    plane: &ControlPlane,
    topology: &Topology,
    node: &str,
) -> Result<Running> {
    let kubeconfig = plane
        .api
        .kubeconfig("kube-proxy", &plane.api.url(), ADMIN)?;
    let mut command = command(mode, topology, node)?;
    command.args([
        &format!("--kubeconfig={}", kubeconfig.display()),
        &format!("--cluster-cidr={CLUSTER_CIDR}"),
        // As nftables mode has it, and svcplane.
        "--nodeport-addresses=primary",
        // These belong to the whole machine.
        "--conntrack-max-per-core=0",
        "--conntrack-min=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]);
    spawn(command, &log(topology))
}

/// `kube-proxy --cleanup`.
pub fn cleanup(topology: &Topology, node: &str) -> Result<()> {
    let output = command("nftables", topology, node)?
        .arg("--cleanup")
        .output()?;
    ensure!(
        output.status.success(),
        "kube-proxy --cleanup: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
