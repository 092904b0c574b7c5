//! The nodes: each its own network, mount, UTS and PID namespaces, containerd and kubelet. `node-init.sh` is their PID 1.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::{DNS, PODS, kubectl, node_ip, node_ips, pods_of, spawn, wait, within};
use super::control::{apply, kube};
use super::{Lab, Proxy};
use crate::assets::sources;

/// The cgroup that holds those of the nodes, in every hierarchy.
const CGROUP: &str = "svcplane-e2e";
/// Hierarchies of cgroup v1 that kubelet and runc use.
const CONTROLLERS: [&str; 9] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd",
];

pub(super) fn start(lab: &Lab) -> Result<()> {
    make_cgroups(lab)?;
    for n in 1..=lab.nodes {
        let name = format!("node{n}");
        fs::create_dir_all(lab.state(&name)).context("cannot make the folder of a node")?;
        fs::write(lab.state(&name).join("kube-proxy.yaml"), kube_proxy())
            .context("cannot write kube-proxy's configuration")?;
        let [pods4, pods6] = pods_of(n);
        let mut command = within(&name, "setsid");
        command
            .args("unshare --mount --uts --pid --fork --mount-proc --propagation private --kill-child bash".split(' '))
            .arg(sources("e2e/node-init.sh"))
            .env("LAB", &lab.dir)
            .env("BIN", lab.bin(""))
            .env("NODE", &name)
            .env("NODE_IP", node_ip(n).to_string())
            .env("NODE_IPS", node_ips(n))
            .env("POD_CIDR_V4", &pods4)
            .env("POD_CIDR_V6", &pods6)
            .env("CLUSTER_DNS", DNS)
            .env("CGROUP", format!("/{CGROUP}/{name}"))
            .env("CNI_PLUGIN", lab.cni.plugin())
            .env("KUBE_PROXY", if lab.proxy == Proxy::Upstream { "nftables" } else { "" });
        let child = spawn(lab, &name, &mut command)?;
        // The first process in the new PID namespace is unshare's only child.
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let mut init = String::new();
        wait(
            "the first process of a node",
            Duration::from_secs(10),
            || {
                init = fs::read_to_string(&children)
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                !init.is_empty()
            },
        )?;
        fs::write(lab.state(&format!("{name}.init")), init).context("cannot note a process")?;
    }
    let coredns = sources("e2e/coredns.yaml");
    apply(
        lab,
        &fs::read_to_string(coredns).context("cannot read coredns.yaml")?,
    )?;
    wait("the nodes", Duration::from_secs(240), || {
        kubectl(lab)
            .args("wait --for=condition=Ready node --all --timeout=1s".split(' '))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// A command inside a node, where a privileged pod with the host's namespaces would be.
pub(super) fn inside(lab: &Lab, n: u8, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
    let init = fs::read_to_string(lab.state(&format!("node{n}.init")))
        .with_context(|| format!("node{n} does not run"))?;
    let mut command = Command::new("nsenter");
    command
        .args(["-t", init.trim(), "-n", "-m", "-u", "-p", "--"])
        .arg(program);
    Ok(command)
}

/// Waits for cluster DNS, the first thing that needs Services.
pub(super) fn wait_for_dns(lab: &Lab) -> Result<()> {
    kube(
        lab,
        "-n kube-system wait --for=condition=Available deployment/coredns --timeout=120s",
    )
}

fn kube_proxy() -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
         kind: KubeProxyConfiguration\n\
         mode: nftables\n\
         clientConnection: {{kubeconfig: /etc/kubernetes/proxy.kubeconfig}}\n\
         clusterCIDR: {PODS}\n\
         conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 24h, tcpCloseWaitTimeout: 1h}}\n"
    )
}

fn make_cgroups(lab: &Lab) -> Result<()> {
    for controller in CONTROLLERS {
        let root = Path::new("/sys/fs/cgroup").join(controller);
        if !root.is_dir() {
            continue;
        }
        let nodes = (1..=lab.nodes).map(|n| format!("{CGROUP}/node{n}"));
        for folder in std::iter::once(CGROUP.to_owned()).chain(nodes) {
            let folder = root.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            if controller == "cpuset" {
                // A new cpuset is empty: nothing could run in it.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let all = fs::read(root.join(file)).context("cannot read a cpuset")?;
                    fs::write(folder.join(file), all).context("cannot write a cpuset")?;
                }
            }
        }
        if controller == "cpu" {
            // The largest share there is. By default the pods of all nodes together get no more than one thread of the
            // suite's own, and it is not used to pods that wait for seconds.
            let shares = root.join(CGROUP).join("cpu.shares");
            fs::write(shares, "262144").context("cannot write the nodes' share of the CPUs")?;
        }
    }
    Ok(())
}

pub(super) fn remove_cgroups() {
    let hierarchies = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    for hierarchy in hierarchies {
        remove_tree(&hierarchy.path().join(CGROUP));
    }
}

/// A cgroup goes when those below it are gone.
fn remove_tree(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}
