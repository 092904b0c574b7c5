//! The programs of the cluster, built from pinned Go modules under tests/e2e. Ten minutes the first time.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::Lab;
use crate::assets::go;
use crate::setup::{run, step};

/// Folder below tests/e2e, and the packages that become programs.
const MODULES: [(&str, &[(&str, &str)]); 4] = [
    (
        "k8s",
        &[
            ("etcd", "go.etcd.io/etcd/server/v3"),
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            ("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
            (
                "regression-issue-74839",
                "k8s.io/kubernetes/test/images/regression-issue-74839",
            ),
            ("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
        ],
    ),
    (
        "containerd",
        &[
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
    ),
    (
        "cni",
        &[
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
    ),
    ("coredns", &[("coredns", "github.com/coredns/coredns")]),
];
const TAGS: &str = "no_btrfs,no_devmapper,no_zfs";

pub(super) fn build(lab: &Lab) -> Result<()> {
    let go = go()?;
    fs::create_dir_all(lab.bin("cni")).context("cannot make the folder of binaries")?;
    for (module, programs) in MODULES {
        let folder = lab.sources.join("tests/e2e").join(module);
        let manifest = fs::read_to_string(folder.join("go.mod")).context("cannot read a go.mod")?;
        let stamp = lab.bin(&format!("{module}.built-from"));
        let built = programs.iter().all(|(name, _)| lab.bin(name).is_file());
        if built && fs::read_to_string(&stamp).is_ok_and(|text| text == manifest) {
            continue;
        }
        let version = manifest
            .lines()
            .filter_map(|line| line.trim().split_once("k8s.io/kubernetes "))
            .map(|(_, version)| version.trim().to_owned())
            .next();
        let flags = flags(version.as_deref());
        for (name, package) in programs {
            step(&format!("building {name}"));
            run(Command::new(&go)
                .args([
                    "build",
                    "-trimpath",
                    "-tags",
                    TAGS,
                    "-ldflags",
                    &flags,
                    "-o",
                ])
                .arg(lab.bin(name))
                .arg(package)
                .current_dir(&folder)
                .env("CGO_ENABLED", "0"))?;
        }
        if version.is_some() {
            step("building e2e.test");
            run(Command::new(&go)
                .args(["test", "-c", "-vet=off", "-trimpath", "-ldflags", &flags])
                .arg("-o")
                .arg(lab.bin("e2e.test"))
                .arg("k8s.io/kubernetes/test/e2e")
                .current_dir(&folder)
                .env("CGO_ENABLED", "0"))?;
            pause(lab, &go, &folder)?;
        }
        fs::write(stamp, manifest).context("cannot note what was built")?;
    }
    Ok(())
}

/// The only program of Kubernetes that is written in C.
fn pause(lab: &Lab, go: &std::path::Path, folder: &std::path::Path) -> Result<()> {
    let source = Command::new(go)
        .args(["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"])
        .current_dir(folder)
        .output()
        .context("cannot ask go for the sources of Kubernetes")?;
    let source = String::from_utf8_lossy(&source.stdout).trim().to_owned();
    run(Command::new("gcc")
        .args(["-Os", "-static", "-s", "-o"])
        .arg(lab.bin("pause"))
        .arg(format!("{source}/build/pause/linux/pause.c")))
}

/// Kubernetes' programs say their version; without one the suite would skip what is newer than "v0".
fn flags(version: Option<&str>) -> String {
    let mut flags = "-s -w".to_owned();
    let Some(version) = version else {
        return flags;
    };
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ] {
        for (name, value) in [
            ("gitVersion", version),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
            ("buildDate", "2026-01-01T00:00:00Z"),
        ] {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}
