//! Two nodes with agents, four pods with servers, and what a test asks of them.

mod way;

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use svc_agent::config::Output as Format;
use svc_agent::dataplane::Pinned;
use svc_agent::inspect::{self, Filter, Snapshot};
use xtask::agents::{Agent, eventually, start_agents};
use xtask::topology::{Cni, NODES, Options, Topology, in_namespace};
use xtask::traffic::{
    Answer, Conversation, Outcome, Probe, Protocol, Running, spread, start_server,
};

pub use way::{PODS, Way};

/// How the agents of a lab are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub socket_lb: &'static str,
    pub xdp: &'static str,
    pub cni: Cni,
    pub dsr: &'static str,
    pub host_routing: &'static str,
}

/// As the lab starts with them.
pub const MANIFESTS: &str = include_str!("lab/services.yaml");

pub const TCP_PORT: u16 = 8080;
pub const UDP_PORT: u16 = 5353;

pub struct Lab {
    pub setting: Setting,
    pub agents: Vec<Agent>,
    _servers: Vec<Running>,
    pub manifests: PathBuf,
    fresh_port: Cell<u16>,
    pub topology: Topology,
}

impl Lab {
    pub fn new(setting: Setting) -> Result<Self> {
        let like_nics = setting.xdp != "off";
        let topology = Topology::new(Options {
            cni: setting.cni,
            like_nics,
            ..Options::default()
        })?;
        let manifests = topology.scratch().join("manifests");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("services.yaml"), MANIFESTS)?;
        if setting.dsr != "off" {
            fs::write(manifests.join("nodes.yaml"), include_str!("lab/nodes.yaml"))?;
        }
        let mut servers: Vec<Running> = xtask::topology::PODS
            .iter()
            .map(|pod| start_server(&topology, pod, pod, &[TCP_PORT], &[UDP_PORT]))
            .collect::<Result<_>>()?;
        servers.push(start_server(&topology, "node1", "node1", &[8081], &[5354])?);
        let mut lab = Self {
            setting,
            agents: Vec::new(),
            _servers: servers,
            manifests,
            fresh_port: Cell::new(1_024),
            topology,
        };
        lab.start(&[])?;
        Ok(lab)
    }

    /// The flags that an agent of this lab runs with.
    pub fn flags(&self) -> Vec<String> {
        let folder = self.manifests.display().to_string();
        let Setting {
            socket_lb,
            xdp,
            dsr,
            host_routing,
            ..
        } = self.setting;
        [
            "--manifests",
            &folder,
            "--socket-lb",
            socket_lb,
            "--xdp",
            xdp,
            "--dsr",
            dsr,
            "--host-routing",
            host_routing,
            "-v",
            "1",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Starts the agents, and waits until they are healthy.
    pub fn start(&mut self, more: &[&str]) -> Result<()> {
        let flags = self.flags();
        let flags: Vec<&str> = flags
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        self.agents = start_agents(&self.topology, &flags)?;
        Ok(())
    }

    /// `count` requests; every one must be answered. Returns the answers.
    pub fn answered(
        &self,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
        count: usize,
    ) -> Result<Vec<Answer>> {
        self.all_answered(Probe::new(protocol, to).count(count), from)
    }

    fn all_answered(&self, probe: Probe, from: &str) -> Result<Vec<Answer>> {
        let Probe { protocol, to, .. } = probe;
        let answers = probe.run(&self.topology, from)?;
        let lost = answers.iter().find(|a| a.by().is_none());
        ensure!(
            lost.is_none(),
            "{from} → {to} {protocol}: {:?}; {lost:?}",
            spread(&answers)
        );
        Ok(answers)
    }

    /// Every one of these, and nobody else, answers.
    pub fn answered_by(
        &self,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
        who: &[&str],
    ) -> Result<Vec<Answer>> {
        self.probed(Probe::new(protocol, to), from, who)
    }

    /// The same by clients that no flow is remembered of: a UDP flow keeps its backend for two minutes, and ports come
    /// round again.
    pub fn answered_afresh(
        &self,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
        who: &[&str],
    ) -> Result<Vec<Answer>> {
        let probe = Probe::new(protocol, to);
        let port = self.fresh_port.get();
        // Below those that the kernel hands out.
        self.fresh_port
            .set(if port > 32_000 { 1_024 } else { port + 40 });
        let probe = if protocol == Protocol::Udp {
            probe.source_port(port)
        } else {
            probe
        };
        self.probed(probe, from, who)
    }

    fn probed(&self, probe: Probe, from: &str, who: &[&str]) -> Result<Vec<Answer>> {
        let Probe { protocol, to, .. } = probe;
        let probe = probe.count(if who.len() == 1 { 5 } else { 40 });
        let answers = self.all_answered(probe, from)?;
        let spread = spread(&answers);
        let names: Vec<&str> = spread.keys().map(String::as_str).collect();
        ensure!(
            names == who,
            "{from} → {to} {protocol}: {spread:?}, expected {who:?}"
        );
        Ok(answers)
    }

    /// The client is told at once.
    pub fn refused(&self, from: &str, protocol: Protocol, to: SocketAddr) -> Result<()> {
        let probe = Probe::new(protocol, to)
            .count(3)
            .connected()
            .timeout(Duration::from_secs(2));
        for answer in probe.run(&self.topology, from)? {
            ensure!(
                answer.outcome == Outcome::Refused,
                "{from} → {to} {protocol}: {answer:?}, expected a refusal"
            );
            ensure!(
                answer.took < Duration::from_millis(500),
                "{from} → {to}: refused only after {:?}",
                answer.took
            );
        }
        Ok(())
    }

    /// Nobody answers, and nobody refuses.
    pub fn silent(&self, from: &str, protocol: Protocol, to: SocketAddr) -> Result<()> {
        let probe = Probe::new(protocol, to).timeout(Duration::from_millis(400));
        for answer in probe.run(&self.topology, from)? {
            ensure!(
                answer.outcome == Outcome::TimedOut,
                "{from} → {to} {protocol}: {answer:?}, expected silence"
            );
        }
        Ok(())
    }

    /// Rewrites the manifests by replacing text.
    pub fn edit(&self, old: &str, new: &str) -> Result<()> {
        let text = fs::read_to_string(self.manifests.join("services.yaml"))?;
        ensure!(text.contains(old), "the manifests have no {old:?}");
        self.write("services.yaml", &text.replace(old, new))
    }

    /// Leaves one object out of the manifests.
    pub fn delete(&self, object: &str) -> Result<()> {
        let text = fs::read_to_string(self.manifests.join("services.yaml"))?;
        let (with, without): (Vec<&str>, Vec<&str>) = text
            .split("\n---\n")
            .partition(|part| part.contains(object));
        ensure!(with.len() == 1, "{} objects have {object:?}", with.len());
        self.write("services.yaml", &without.join("\n---\n"))
    }

    /// Puts a file into the folder of manifests at once, as a ConfigMap's mount does.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let next = self.manifests.join(".next");
        fs::write(&next, text)?;
        Ok(fs::rename(next, self.manifests.join(name))?)
    }

    /// The manifests as they were, and the maps as these have them.
    pub fn restore(&self) -> Result<()> {
        self.write("services.yaml", MANIFESTS)?;
        self.wait_for("the first Services are back", |backends| {
            backends_of(backends, "all:tcp") == 6 && backends.matches("one-c:tcp").count() == 2
        })?;
        self.wait_for("the empty Service is back", |backends| {
            backends_of(backends, "none:tcp") == 0
        })
    }

    /// Waits until the backends in the maps of both nodes are as wanted.
    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&str) -> bool) -> Result<()> {
        let all = || {
            NODES
                .into_iter()
                .map(|node| self.backends(node))
                .collect::<Result<Vec<_>>>()
        };
        eventually(what, Duration::from_secs(5), || {
            Ok(all()?.iter().all(|text| holds(text)))
        })
        .map(drop)
    }

    /// Who gets what part of the connections, from a node's maps. Endpoints that get none are left out.
    pub fn backends(&self, node: &str) -> Result<String> {
        let all = inspect::backends(&self.maps(node)?, Filter::default(), Format::Table);
        let active = all
            .lines()
            .filter(|line| line.split_whitespace().nth(4) == Some("active"));
        Ok(active.map(|line| format!("{line}\n")).collect())
    }

    pub fn maps(&self, node: &str) -> Result<Snapshot> {
        Ok(Pinned::open(&self.topology.bpf_root(node))?.read()?)
    }

    /// A long conversation with one backend of several.
    pub fn conversation(
        &self,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
        by: &str,
    ) -> Result<Conversation> {
        for _ in 0..60 {
            let mut conversation = Conversation::open(&self.topology, from, protocol, to)?;
            let answer = conversation.say()?;
            if answer.by() == Some(by) {
                return Ok(conversation);
            }
            ensure!(
                answer.by().is_some(),
                "{from} → {to} {protocol}: {answer:?}"
            );
        }
        bail!("{from} → {to} {protocol}: none of 60 connections went to {by}")
    }

    /// Runs svc-agent to its end.
    pub fn agent(&self, node: &str, verb: &str, more: &[&str]) -> Result<Output> {
        Ok(self.topology.agent(node, verb)?.args(more).output()?)
    }

    /// Runs a tool in a place, and returns what it prints.
    pub fn tool(&self, place: &str, line: &str) -> Result<String> {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().context("no program")?);
        command.args(words);
        let output = in_namespace(&self.topology.place(place).namespace_file(), || {
            Ok(command.output()?)
        })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "`{line}` in {place}: {}",
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// The agents' logs, for a failed test.
    pub fn logs(&self) -> String {
        self.agents
            .iter()
            .map(|agent| format!("--- {}\n{}", agent.node, agent.log()))
            .collect()
    }

    pub fn address(&self, place: &str, v6: bool) -> IpAddr {
        self.topology.place(place).addresses()[usize::from(v6)]
    }

    pub fn seen(answer: &Answer) -> Result<(SocketAddr, SocketAddr)> {
        match &answer.outcome {
            Outcome::Answered { seen, peer, .. } => Ok((*seen, *peer)),
            other => None.with_context(|| format!("{other:?}")),
        }
    }
}

/// How many backends a service port has, as `get backends` shows them.
pub fn backends_of(backends: &str, port: &str) -> usize {
    backends
        .lines()
        .filter(|line| line.split_whitespace().nth(1) == Some(port))
        .count()
}
