//! Clusters that are not made of namespaces: one that kind makes, and whichever a kubeconfig leads to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use xtask::ebpf::find_program;
use xtask::signals;

use super::cluster::kubectl;
use super::nodes::wait_for_dns;
use super::proxy::{Deployment, IMAGE};
use super::{DEFAULT_NODES, E2eArgs, Lab, images};
use crate::setup::{run, step};

/// The name of the cluster that kind makes.
const NAME: &str = "svcplane-e2e";

/// A cluster of kind; dropped, it is deleted.
pub(super) struct Kind<'a> {
    lab: &'a Lab,
    kept: bool,
}

impl<'a> Kind<'a> {
    pub(super) fn start(lab: &'a Lab, agent: &Path, args: &E2eArgs) -> Result<Self> {
        ensure!(
            args.nodes == DEFAULT_NODES,
            "deploy/kind.yaml says which nodes there are; --nodes is for a cluster of namespaces"
        );
        delete()?;
        fs::create_dir_all(lab.state("")).context("cannot make the folder of the cluster")?;
        step("making a cluster by kind");
        signals::before_the_end(NAME, || drop(delete()))?;
        let cluster = Self { lab, kept: false };
        run(kind("create cluster")
            .arg("--config")
            .arg(lab.sources.join("deploy/kind.yaml"))
            .arg("--kubeconfig")
            .arg(lab.kubeconfig()))?;
        for node in nodes()? {
            // Pins are the node's own; its /sys has none of this kind.
            run(Command::new("docker")
                .args(["exec", &node])
                .args("mount -t bpf bpf /sys/fs/bpf".split(' ')))?;
        }
        let image = images::agent(lab, agent, IMAGE)?;
        run(kind("load image-archive").arg(image))?;
        deploy(lab, IMAGE, &args.agent)?;
        Ok(cluster)
    }

    pub(super) fn keep(mut self) {
        self.kept = true;
        signals::forget(NAME);
        println!(
            "the cluster stays:\n  kubectl:  {} --kubeconfig {} get pods -A\n  remove:   cargo xtask e2e --down",
            self.lab.bin("kubectl").display(),
            self.lab.kubeconfig().display(),
        );
    }
}

impl Drop for Kind<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        signals::forget(NAME);
        if let Err(error) = delete() {
            eprintln!("{error:#}");
        }
    }
}

pub(super) fn needs_kind() -> Result<()> {
    for program in ["docker", "kind"] {
        ensure!(
            find_program(program).is_some(),
            "--on kind needs docker and kind, and there is no {program} on PATH; without --on the cluster is made of namespaces"
        );
    }
    Ok(())
}

/// Deletes the cluster that kind has made, if any.
pub(super) fn delete() -> Result<()> {
    if find_program("kind").is_none() {
        return Ok(());
    }
    run(&mut kind("delete cluster"))
}

fn kind(verb: &str) -> Command {
    let mut command = Command::new("kind");
    command.args(verb.split(' ')).args(["--name", NAME]);
    command
}

fn nodes() -> Result<Vec<String>> {
    let output = kind("get nodes").output().context("cannot run kind")?;
    ensure!(output.status.success(), "`kind get nodes` failed");
    let names = String::from_utf8_lossy(&output.stdout);
    Ok(names.lines().map(str::to_owned).collect())
}

/// The cluster that a kubeconfig leads to: whoever serves it is tested, after the DaemonSet was put there if it is to be.
pub(super) fn existing(lab: &Lab, image: Option<&str>, flags: &[String]) -> Result<()> {
    fs::create_dir_all(lab.state("")).context("cannot make the folder of the cluster")?;
    match image {
        Some(image) => deploy(lab, image, flags),
        None if !flags.is_empty() => {
            bail!("flags for svc-agent need --image: without it nothing is deployed")
        }
        None => Ok(()),
    }
}

fn deploy(lab: &Lab, image: &str, flags: &[String]) -> Result<()> {
    let (host, port) = api_server(lab)?;
    Deployment {
        image,
        host: &host,
        port: &port,
        cgroup: "/sys/fs/cgroup",
        flags: &flags.iter().map(String::as_str).collect::<Vec<_>>(),
    }
    .apply(lab)?;
    wait_for_dns(lab)
}

/// Where the API server itself listens, which its Service would say only through us.
fn api_server(lab: &Lab) -> Result<(String, String)> {
    let output = kubectl(lab)
        .args("-n default get endpointslice -l kubernetes.io/service-name=kubernetes -o".split(' '))
        .arg("jsonpath={.items[0].endpoints[0].addresses[0]} {.items[0].ports[0].port}")
        .output()
        .context("cannot run kubectl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let parts = text.split_once(' ').filter(|_| output.status.success());
    let (host, port) = parts.with_context(|| {
        format!(
            "the cluster does not say where its API server is: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )
    })?;
    Ok((host.to_owned(), port.to_owned()))
}

/// How many nodes the suite may count on.
pub(super) fn count_nodes(lab: &Lab) -> Result<u8> {
    let output = kubectl(lab)
        .args(["get", "nodes", "-o", "name"])
        .output()
        .context("cannot run kubectl")?;
    ensure!(
        output.status.success(),
        "cannot list the nodes of {}: {}",
        lab.kubeconfig().display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let count = String::from_utf8_lossy(&output.stdout).lines().count();
    Ok(u8::try_from(count).unwrap_or(u8::MAX))
}

/// The file with its whole path: the suite runs in a folder of its own.
pub(super) fn absolute(file: &Path) -> Result<PathBuf> {
    fs::canonicalize(file).with_context(|| format!("there is no {}", file.display()))
}
