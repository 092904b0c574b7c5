//! `cargo xtask e2e`: upstream's own end-to-end suite against svcplane on a real Kubernetes of several nodes.
//!
//! The cluster is made of namespaces on this machine: API server, controllers and scheduler as plain processes, each node
//! a set of namespaces with its own containerd and kubelet. No docker, no registry, nothing outside of the machine. Where
//! docker is, kind can make it; and any cluster will do that a kubeconfig leads to.

mod balancer;
mod binaries;
mod cluster;
mod control;
mod elsewhere;
mod images;
mod nodes;
mod pki;
mod proxy;
mod suite;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::setup::{apt_install, setup, step};
use cluster::Cluster;

/// How pods are attached to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cni {
    Ptp,
    Bridge,
}

/// Where the cluster is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum On {
    /// Network namespaces of this machine.
    Namespaces,
    /// Containers: kind and docker have to be there.
    Kind,
}

const DEFAULT_NODES: u8 = 3;

/// Who serves the Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    /// svc-agent, a process on every node.
    Process,
    /// svc-agent from its own image, by deploy/svcplane.yaml.
    Daemonset,
    /// Upstream's kube-proxy, to compare with.
    Upstream,
}

#[derive(clap::Args)]
pub struct E2eArgs {
    #[command(flatten)]
    build: crate::build::BuildArgs,
    /// Where the cluster is made. By kind it has kind's own CNI, and the agent is its DaemonSet.
    #[arg(long, value_enum, default_value_t = On::Namespaces, conflicts_with_all = ["cni", "proxy"])]
    on: On,
    /// Make no cluster: run the suite against the one that this leads to, whoever serves its Services. LoadBalancer specs
    /// are left out here and with kind, unless --skip says otherwise.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["on", "nodes", "cni", "proxy", "keep"])]
    kubeconfig: Option<PathBuf>,
    /// Put the DaemonSet of deploy/ into that cluster first, with this image, which its nodes have or can pull.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    image: Option<String>,
    /// Nodes; node N is in zone (N - 1) mod 3.
    #[arg(long, default_value_t = DEFAULT_NODES)]
    nodes: u8,
    #[arg(long, value_enum, default_value_t = Cni::Ptp)]
    cni: Cni,
    #[arg(long, value_enum, default_value_t = Proxy::Process)]
    proxy: Proxy,
    /// Specs at a time.
    #[arg(long, default_value_t = 6)]
    procs: u8,
    /// Regular expression of the specs to run.
    #[arg(long, default_value = suite::FOCUS)]
    focus: String,
    /// Regular expression of those to leave out.
    #[arg(long)]
    skip: Option<String>,
    /// How often the suite is run, one after the other.
    #[arg(long, default_value_t = 1)]
    runs: u8,
    /// Leave the cluster standing, and say how to use and remove it.
    #[arg(long)]
    keep: bool,
    /// Write the results into this file, in the place of what it says between its markers.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Remove what a kept cluster left, and do nothing else.
    #[arg(long)]
    down: bool,
    /// More flags for svc-agent.
    #[arg(last = true)]
    agent: Vec<String>,
}

/// Where everything of the e2e runs lies.
#[derive(Clone)]
struct Lab {
    /// Images stay from run to run; the rest is of one cluster.
    dir: PathBuf,
    target: PathBuf,
    sources: PathBuf,
    nodes: u8,
    cni: Cni,
    proxy: Proxy,
    /// What leads to a cluster that is not made of namespaces, and how its results are called.
    elsewhere: Option<(PathBuf, &'static str)>,
}

impl Lab {
    fn new(args: &E2eArgs) -> Result<Self> {
        let exe = std::env::current_exe().context("cannot find this executable")?;
        let target = exe
            .ancestors()
            .nth(2)
            .context("xtask lies in no target folder")?;
        let dir = target.join("e2e");
        let elsewhere = match (&args.kubeconfig, args.on) {
            (Some(file), _) => Some((elsewhere::absolute(file)?, "existing cluster")),
            (None, On::Kind) => Some((dir.join("state/kind.kubeconfig"), "daemonset, kind")),
            (None, On::Namespaces) => None,
        };
        Ok(Self {
            dir,
            elsewhere,
            target: target.to_owned(),
            sources: Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(""),
            nodes: args.nodes,
            cni: args.cni,
            proxy: args.proxy,
        })
    }

    fn bin(&self, program: &str) -> PathBuf {
        self.target.join("assets").join(program)
    }

    /// The administrator's.
    fn kubeconfig(&self) -> PathBuf {
        match &self.elsewhere {
            Some((file, _)) => file.clone(),
            None => self.state("admin.kubeconfig"),
        }
    }

    /// What its results are called.
    fn setting(&self) -> String {
        match self.elsewhere {
            Some((_, name)) => name.to_owned(),
            None => format!("{:?}, {:?}", self.proxy, self.cni).to_lowercase(),
        }
    }

    /// What a cluster needs of its own, gone with it.
    fn state(&self, name: &str) -> PathBuf {
        self.dir.join("state").join(name)
    }
}

const PACKAGES: [&str; 16] = [
    "runc",
    "busybox-static",
    "netcat-openbsd",
    "bind9-dnsutils",
    "curl",
    "wget",
    "conntrack",
    "nftables",
    "iptables",
    "iproute2",
    "iputils-ping",
    "tcpdump",
    "openssl",
    "ca-certificates",
    "procps",
    "gcc",
];

pub fn e2e(args: &E2eArgs) -> Result<ExitCode> {
    let lab = Lab::new(args)?;
    if args.down {
        cluster::remove(&lab);
        elsewhere::delete()?;
        return Ok(ExitCode::SUCCESS);
    }
    setup()?;
    let outcomes = match (&args.kubeconfig, args.on) {
        (Some(_), _) => in_existing(lab, args)?,
        (None, On::Kind) => in_kind(&lab, args)?,
        (None, On::Namespaces) => in_namespaces(&lab, args)?,
    };
    Ok(if outcomes.iter().all(suite::Outcome::is_good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn in_namespaces(lab: &Lab, args: &E2eArgs) -> Result<Vec<suite::Outcome>> {
    if !lab.dir.join("packages").exists() {
        apt_install(&PACKAGES)?;
    }
    std::fs::create_dir_all(&lab.dir).context("cannot make the folder of the cluster")?;
    binaries::build(lab)?;
    std::fs::write(lab.dir.join("packages"), PACKAGES.join("\n"))
        .context("cannot note what is installed")?;
    images::build(lab)?;
    let agent = (lab.proxy != Proxy::Upstream)
        .then(|| crate::build::build(args.build))
        .transpose()?;
    cluster::remove(lab);
    let cluster = Cluster::start(lab)?;
    if let Some(agent) = &agent {
        proxy::start(lab, agent, &args.agent)?;
    }
    let balancer = balancer::Balancer::start(lab);
    let outcomes = runs(lab, args)?;
    drop(balancer);
    if args.keep {
        cluster.keep(lab);
    }
    Ok(outcomes)
}

fn in_kind(lab: &Lab, args: &E2eArgs) -> Result<Vec<suite::Outcome>> {
    elsewhere::needs_kind()?;
    binaries::suite(lab)?;
    let agent = crate::build::build(args.build)?;
    let cluster = elsewhere::Kind::start(lab, &agent, args)?;
    let outcomes = runs(lab, args)?;
    if args.keep {
        cluster.keep();
    }
    Ok(outcomes)
}

fn in_existing(mut lab: Lab, args: &E2eArgs) -> Result<Vec<suite::Outcome>> {
    binaries::suite(&lab)?;
    lab.nodes = elsewhere::count_nodes(&lab)?;
    elsewhere::existing(&lab, args.image.as_deref(), &args.agent)?;
    runs(&lab, args)
}

fn runs(lab: &Lab, args: &E2eArgs) -> Result<Vec<suite::Outcome>> {
    let mut outcomes = Vec::new();
    for run in 1..=args.runs {
        step(&format!("e2e run {run} of {}", args.runs));
        let outcome = suite::run(lab, args)?;
        println!("{outcome}");
        outcomes.push(outcome);
    }
    if let Some(file) = &args.record {
        suite::record(lab, file, &outcomes)?;
    }
    Ok(outcomes)
}
