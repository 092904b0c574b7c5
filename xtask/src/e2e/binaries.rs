//! The programs of the cluster beyond those of the api layer, built from pinned Go modules. Ten minutes the first time.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Lab;
use crate::assets::{self, KUBERNETES, Module, go, sources};
use crate::setup::run;

/// What runs the suite, whatever cluster it is.
const SUITE: Module = Module {
    folder: KUBERNETES,
    tags: "",
    programs: &[
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
        ("e2e.test", "k8s.io/kubernetes/test/e2e"),
    ],
};

/// What a cluster of namespaces is made of.
const CLUSTER: [Module; 3] = [
    Module {
        folder: KUBERNETES,
        tags: "",
        programs: &[
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
            (
                "regression-issue-74839",
                "k8s.io/kubernetes/test/images/regression-issue-74839",
            ),
        ],
    },
    Module {
        folder: "e2e/containerd",
        tags: "no_btrfs,no_devmapper,no_zfs",
        programs: &[
            (
                "containerd",
                "github.com/containerd/containerd/v2/cmd/containerd",
            ),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
            (
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
        ],
    },
    Module {
        folder: "e2e/cni",
        tags: "",
        programs: &[
            (
                "cni/bridge",
                "github.com/containernetworking/plugins/plugins/main/bridge",
            ),
            (
                "cni/ptp",
                "github.com/containernetworking/plugins/plugins/main/ptp",
            ),
            (
                "cni/loopback",
                "github.com/containernetworking/plugins/plugins/main/loopback",
            ),
            (
                "cni/host-local",
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
            ),
            (
                "cni/portmap",
                "github.com/containernetworking/plugins/plugins/meta/portmap",
            ),
        ],
    },
];

/// Makes what runs the suite and is not there yet.
pub(super) fn suite(lab: &Lab) -> Result<()> {
    assets::these(&lab.target, [&SUITE]).map(drop)
}

/// Makes what is not there yet.
pub(super) fn build(lab: &Lab) -> Result<()> {
    suite(lab)?;
    assets::all(&lab.target, &CLUSTER)?;
    if lab.bin("pause").is_file() {
        return Ok(());
    }
    // The only program of Kubernetes that is written in C.
    let source = source_of("k8s.io/kubernetes/build/pause/linux")?;
    run(Command::new("gcc")
        .args(["-Os", "-static", "-s", "-o"])
        .arg(lab.bin("pause"))
        .arg(format!("{source}/pause.c")))
}

/// The folder of a package of Kubernetes.
pub(super) fn source_of(package: &str) -> Result<String> {
    let module = "k8s.io/kubernetes";
    let output = Command::new(go()?)
        .args(["list", "-m", "-f", "{{.Dir}}", module])
        .current_dir(sources(KUBERNETES))
        .output()
        .context("cannot run go")?;
    ensure!(
        output.status.success(),
        "go does not know the sources of {module}"
    );
    let root = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(package.replacen(module, &root, 1))
}
