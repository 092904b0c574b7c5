//! svc-agent on every node: as a process where a privileged pod would be, or as its own DaemonSet from its own image.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cluster::{API_SERVER, spawn, wait};
use super::control::{apply, kube};
use super::nodes::{inside, wait_for_dns};
use super::{Lab, Proxy, images};
use crate::setup::{run, step};

pub(super) const IMAGE: &str = "svcplane.test/svc-agent:e2e";

pub(super) fn start(lab: &Lab, agent: &Path, flags: &[String]) -> Result<()> {
    // kube-proxy's, which the suite asks for. It also wants a pod of another node to be an outside client, so there is no
    // --cluster-cidr.
    let close_wait = "--conntrack-tcp-timeout-close-wait=1h";
    let flags: Vec<&str> = std::iter::once(close_wait)
        .chain(flags.iter().map(String::as_str))
        .collect();
    match lab.proxy {
        Proxy::Process => processes(lab, agent, &flags)?,
        Proxy::Daemonset => daemonset(lab, agent, &flags)?,
        Proxy::Upstream => (),
    }
    wait_for_dns(lab)?;
    step("svc-agent serves the cluster: its DNS answers");
    Ok(())
}

fn processes(lab: &Lab, agent: &Path, flags: &[&str]) -> Result<()> {
    for n in 1..=lab.nodes {
        let mut command = inside(lab, n, "setsid")?;
        command
            .arg(agent)
            .args(["run", "--kubeconfig", "/etc/kubernetes/proxy.kubeconfig"])
            .args(["--cgroup-root", cgroup_root()])
            .args(["--hostname-override", &format!("node{n}")])
            .args(flags);
        spawn(lab, &format!("agent{n}"), &mut command)?;
    }
    for n in 1..=lab.nodes {
        let log = lab.state(&format!("agent{n}.log"));
        wait("svc-agent's first sync", Duration::from_secs(60), || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("synced"))
        })
        .with_context(|| format!("see {}", log.display()))?;
    }
    Ok(())
}

/// deploy/svcplane.yaml with its blanks filled in.
fn daemonset(lab: &Lab, agent: &Path, flags: &[&str]) -> Result<()> {
    let image = images::agent(lab, agent, IMAGE)?;
    for n in 1..=lab.nodes {
        let mut import = inside(lab, n, lab.bin("ctr"))?;
        import
            .args("-a /run/containerd/containerd.sock -n k8s.io images import --local".split(' '));
        run(import.arg(&image))?;
    }
    Deployment {
        image: IMAGE,
        host: &API_SERVER.to_string(),
        port: "6443",
        cgroup: cgroup_root(),
        flags,
    }
    .apply(lab)
}

/// What deploy/svcplane.yaml leaves to who applies it.
pub(super) struct Deployment<'a> {
    pub(super) image: &'a str,
    /// The API server's own address.
    pub(super) host: &'a str,
    pub(super) port: &'a str,
    /// Where nodes have cgroup2.
    pub(super) cgroup: &'a str,
    /// More of them for svc-agent.
    pub(super) flags: &'a [&'a str],
}

impl Deployment<'_> {
    /// Applies it, and waits until the agents are ready.
    pub(super) fn apply(&self, lab: &Lab) -> Result<()> {
        let manifest = fs::read_to_string(lab.sources.join("deploy/svcplane.yaml"))
            .context("cannot read deploy/svcplane.yaml")?;
        apply(lab, &self.filled(&manifest)?)?;
        kube(
            lab,
            "-n kube-system rollout status daemonset/svc-agent --timeout=180s",
        )
    }

    fn filled(&self, manifest: &str) -> Result<String> {
        let config = "        - --config=/etc/svcplane/config.yaml\n";
        let more: String = self
            .flags
            .iter()
            .map(|flag| format!("        - '{flag}'\n"))
            .collect();
        let mut manifest = manifest.to_owned();
        for (blank, filled) in [
            (
                concat!("image: svc-agent:", env!("CARGO_PKG_VERSION")),
                format!("image: {}", self.image),
            ),
            ("value: ''", format!("value: '{}'", self.host)),
            ("value: '6443'", format!("value: '{}'", self.port)),
            (
                "{path: /sys/fs/cgroup, ",
                format!("{{path: {}, ", self.cgroup),
            ),
            (config, format!("{config}{more}")),
        ] {
            ensure!(
                manifest.matches(blank).count() == 1,
                "deploy/svcplane.yaml has no {blank} to fill in"
            );
            manifest = manifest.replace(blank, &filled);
        }
        Ok(manifest)
    }
}

/// Where the nodes find their part of cgroup2: beside the hierarchies of cgroup v1, or in their place.
fn cgroup_root() -> &'static str {
    if Path::new("/sys/fs/cgroup/unified").is_dir() {
        "/sys/fs/cgroup/unified"
    } else {
        "/sys/fs/cgroup"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_has_every_blank_that_is_filled_in() {
        let deployment = Deployment {
            image: "registry.example/agent:1",
            host: "192.0.2.1",
            port: "443",
            cgroup: "/cgroup2",
            flags: &["--dsr=ipip", "-v"],
        };
        let manifest = include_str!("../../../deploy/svcplane.yaml");
        let filled = deployment.filled(manifest).unwrap();
        for part in [
            "image: registry.example/agent:1\n",
            "value: '192.0.2.1'",
            "value: '443'",
            "{path: /cgroup2, type: Directory}",
            "config.yaml\n        - '--dsr=ipip'\n        - '-v'\n        - --bpf-root=",
        ] {
            assert!(filled.contains(part), "{part} is not in\n{filled}");
        }
    }
}
