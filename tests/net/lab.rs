//! Two nodes with agents, four pods with servers, and what a test asks of them.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::agents::{Agent, eventually, start_agents};
use xtask::topology::{Cni, Options, PODS, Topology};
use xtask::traffic::{Answer, Outcome, Probe, Protocol, Running, spread, start_server};

/// How the agents of a lab are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub socket_lb: &'static str,
    pub xdp: &'static str,
    pub cni: Cni,
}

pub const TCP_PORT: u16 = 8080;
pub const UDP_PORT: u16 = 5353;

pub struct Lab {
    pub setting: Setting,
    pub agents: Vec<Agent>,
    _servers: Vec<Running>,
    pub manifests: PathBuf,
    pub topology: Topology,
}

impl Lab {
    pub fn new(setting: Setting) -> Result<Self> {
        let like_nics = setting.xdp != "off";
        let topology = Topology::new(Options { cni: setting.cni, like_nics, ..Options::default() })?;
        let manifests = topology.scratch().join("manifests");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("services.yaml"), include_str!("services.yaml"))?;
        let mut servers: Vec<Running> = PODS
            .iter()
            .map(|pod| start_server(&topology, pod, pod, &[TCP_PORT], &[UDP_PORT]))
            .collect::<Result<_>>()?;
        servers.push(start_server(&topology, "node1", "node1", &[8081], &[5354])?);
        let folder = manifests.display().to_string();
        let flags = ["--manifests", &folder, "--socket-lb", setting.socket_lb, "--xdp", setting.xdp, "-v", "1"];
        let agents = start_agents(&topology, &flags)?;
        Ok(Self { setting, agents, _servers: servers, manifests, topology })
    }

    /// `count` requests; every one must be answered. Returns the answers.
    pub fn answered(&self, from: &str, protocol: Protocol, to: SocketAddr, count: usize) -> Result<Vec<Answer>> {
        let answers = Probe::new(protocol, to).count(count).run(&self.topology, from)?;
        let lost = answers.iter().find(|a| a.by().is_none());
        ensure!(lost.is_none(), "{from} → {to} {protocol}: {:?}; {lost:?}", spread(&answers));
        Ok(answers)
    }

    /// Every one of these, and nobody else, answers.
    pub fn answered_by(&self, from: &str, protocol: Protocol, to: SocketAddr, who: &[&str]) -> Result<Vec<Answer>> {
        let count = if who.len() == 1 { 5 } else { 40 };
        let answers = self.answered(from, protocol, to, count)?;
        let spread = spread(&answers);
        let names: Vec<&str> = spread.keys().map(String::as_str).collect();
        ensure!(names == who, "{from} → {to} {protocol}: {spread:?}, expected {who:?}");
        Ok(answers)
    }

    /// The client is told at once.
    pub fn refused(&self, from: &str, protocol: Protocol, to: SocketAddr) -> Result<()> {
        let probe = Probe::new(protocol, to).count(3).connected().timeout(Duration::from_secs(2));
        for answer in probe.run(&self.topology, from)? {
            ensure!(answer.outcome == Outcome::Refused, "{from} → {to} {protocol}: {answer:?}, expected a refusal");
            ensure!(answer.took < Duration::from_millis(500), "{from} → {to}: refused only after {:?}", answer.took);
        }
        Ok(())
    }

    /// Nobody answers, and nobody refuses.
    pub fn silent(&self, from: &str, protocol: Protocol, to: SocketAddr) -> Result<()> {
        let probe = Probe::new(protocol, to).timeout(Duration::from_millis(400));
        for answer in probe.run(&self.topology, from)? {
            ensure!(answer.outcome == Outcome::TimedOut, "{from} → {to} {protocol}: {answer:?}, expected silence");
        }
        Ok(())
    }

    /// Rewrites the manifests by replacing text, and waits until `holds`.
    pub fn edit(&self, old: &str, new: &str, what: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let file = self.manifests.join("services.yaml");
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains(old), "the manifests have no {old:?}");
        let next = self.manifests.join(".next");
        fs::write(&next, text.replace(old, new))?;
        fs::rename(next, file)?;
        eventually(what, Duration::from_secs(5), holds).map(drop)
    }

    /// The agents' logs, for a failed test.
    pub fn logs(&self) -> String {
        self.agents.iter().map(|agent| format!("--- {}\n{}", agent.node, agent.log())).collect()
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
