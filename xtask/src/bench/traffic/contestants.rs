//! Who competes: each in namespaces of its own, programmed alike, and left without its control plane while it is
//! measured.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xtask::agents::Agent;
use xtask::load::{Burst, Client, Server, Work};
use xtask::topology::{NODES, Options, Topology, in_namespace};
use xtask::traffic::Running;

use super::api::{StandIn, kubeconfig};
use super::floor;
use super::objects::{self, Measured, Objects};

const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:244::/32";
const PROGRAMMING: Duration = Duration::from_secs(300);

/// Clients make more connections than there are ports, and ask again before anybody answers.
const SYSCTLS: [(&str, &str); 3] = [
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/ipv4/tcp_syn_retries", "1"),
    ("net/ipv6/conf/eth0/accept_redirects", "0"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The limit: clients know their backend. From outside it is reached through node1, there and back.
    Nobody,
    /// The same from outside without node1: what is left of a way when the first node costs nothing.
    NobodyNorNode1,
    /// The limit with programs that do nothing where svcplane's would be.
    EmptyHooks,
    /// svc-agent with these flags.
    Svcplane(&'static [&'static str]),
    /// kube-proxy in this mode.
    KubeProxy(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contestant {
    pub name: &'static str,
    pub carrier: Carrier,
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A pod's address, no Service involved: what proxies cost those who do not need them.
    PodToPod,
    PodToLocal,
    PodToRemote,
    OutsideToLocal,
    OutsideToRemote,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::PodToPod => "pod → pod",
            Self::PodToLocal => "pod → ClusterIP, same node",
            Self::PodToRemote => "pod → ClusterIP, other node",
            Self::OutsideToLocal => "outside → NodePort, same node",
            Self::OutsideToRemote => "outside → NodePort, other node",
        }
    }

    fn from(self) -> &'static str {
        match self {
            Self::PodToPod | Self::PodToLocal | Self::PodToRemote => "pod-a",
            Self::OutsideToLocal | Self::OutsideToRemote => "client",
        }
    }

    fn measured(self) -> Measured {
        match self {
            Self::PodToPod | Self::PodToLocal | Self::OutsideToLocal => Measured::Local,
            Self::PodToRemote | Self::OutsideToRemote => Measured::Remote,
        }
    }
}

/// A contestant with its network, its servers and its clients.
pub struct Field {
    pub who: Contestant,
    _hooks: Vec<OwnedFd>,
    topology: Topology,
    servers: Vec<(&'static str, Server)>,
    clients: Vec<(&'static str, Client)>,
    ksoftirqd: i32,
}

impl Field {
    pub fn new(who: Contestant, options: &Options, cpu: usize) -> Result<Self> {
        let topology = Topology::new(options.clone())?;
        for place in topology.places() {
            in_namespace(&place.namespace_file(), || {
                for (name, value) in SYSCTLS {
                    // The LAN has no eth0.
                    if place.name != "lan" {
                        fs::write(format!("/proc/sys/{name}"), value)
                            .with_context(|| format!("cannot set {name}"))?;
                    }
                }
                Ok(())
            })?;
        }
        if matches!(who.carrier, Carrier::Nobody | Carrier::EmptyHooks) {
            through_node1(&topology)?;
        }
        let hooks = match who.carrier {
            Carrier::EmptyHooks => floor::attach(&topology)?,
            _ => Vec::new(),
        };
        let places = [Measured::Local.place(), Measured::Remote.place()];
        let servers = places
            .into_iter()
            .map(|place| Ok((place, Server::start(&topology, place, cpu)?)))
            .collect::<Result<_>>()?;
        let clients = ["pod-a", "client"]
            .into_iter()
            .map(|place| Ok((place, Client::start(&topology, place, cpu)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            who,
            _hooks: hooks,
            topology,
            servers,
            clients,
            ksoftirqd: xtask::load::ksoftirqd(cpu)?.as_raw(),
        })
    }

    /// Where clients of this contestant find a backend.
    fn address(&self, way: Way, v6: bool, work: Work) -> SocketAddr {
        let measured = way.measured();
        let of = |place: &str| -> IpAddr {
            let [v4, v6_address] = self.topology.place(place).addresses();
            if v6 { v6_address } else { v4 }
        };
        match (self.who.carrier, way) {
            (Carrier::Nobody | Carrier::NobodyNorNode1 | Carrier::EmptyHooks, _)
            | (_, Way::PodToPod) => (of(measured.place()), work.plain_port()).into(),
            (_, Way::PodToLocal | Way::PodToRemote) => measured.cluster_ip(v6, work),
            _ => (of(NODES[0]), measured.node_port(work)).into(),
        }
    }

    pub fn burst(
        &mut self,
        way: Way,
        v6: bool,
        work: Work,
        round_trips: usize,
        anew: bool,
    ) -> Result<Burst> {
        let to = self.address(way, v6, work);
        let server = self
            .servers
            .iter()
            .find(|(place, _)| *place == way.measured().place());
        let (_, server) = server.context("there is no such server")?;
        let others = [server.pid(), self.ksoftirqd];
        self.client(way.from())?
            .burst(work, to, round_trips, &others, anew)
            .with_context(|| self.who.name)
    }

    fn client(&mut self, place: &str) -> Result<&mut Client> {
        let client = self.clients.iter_mut().find(|(known, _)| *known == place);
        Ok(&mut client.context("there is no such client")?.1)
    }

    /// Gives the proxy so many Services, waits until it serves them, and ends its control plane. `binary` is kube-proxy.
    pub fn program(&mut self, services: usize, binary: &Path) -> Result<Duration> {
        let start = Instant::now();
        let stand_ins = |topology: &Topology, objects: Objects| -> Result<Vec<StandIn>> {
            let objects = Arc::new(objects);
            NODES
                .iter()
                .map(|node| StandIn::start(&topology.place(node).namespace_file(), objects.clone()))
                .collect()
        };
        let file = self.topology.scratch().join("kubeconfig");
        fs::write(&file, kubeconfig()).context("cannot write a kubeconfig")?;
        let file = file.display().to_string();
        match self.who.carrier {
            Carrier::Nobody | Carrier::NobodyNorNode1 | Carrier::EmptyHooks => (),
            Carrier::Svcplane(flags) => {
                let objects = objects::objects(&self.topology, services);
                let _api = stand_ins(&self.topology, objects)?;
                let flags = [&["--kubeconfig", &file][..], flags].concat();
                let agents: Result<Vec<_>> = NODES
                    .into_iter()
                    .map(|node| Agent::start(&self.topology, node, &flags))
                    .collect();
                let mut agents = agents?;
                for agent in &mut agents {
                    agent.wait_until_healthy(&self.topology, PROGRAMMING)?;
                }
                self.wait_until_served(services)?;
                for agent in &mut agents {
                    agent.stop()?;
                }
            }
            Carrier::KubeProxy(mode) => {
                let objects = objects::objects(&self.topology, services);
                let _api = stand_ins(&self.topology, objects)?;
                let _proxies: Vec<_> = NODES
                    .into_iter()
                    .map(|node| kube_proxy(binary, &self.topology, node, mode, &file))
                    .collect::<Result<_>>()?;
                self.wait_until_served(services)?;
            }
        }
        Ok(start.elapsed())
    }

    /// Both nodes' NodePorts answer, and the last of all Services.
    fn wait_until_served(&mut self, services: usize) -> Result<()> {
        let work = Work::TcpConnect;
        let mut asked: Vec<(&str, SocketAddr)> = Vec::new();
        for v6 in [false, true] {
            for node in NODES {
                let address = self.topology.place(node).addresses()[usize::from(v6)];
                let port = Measured::Local.node_port(work);
                asked.push(("client", (address, port).into()));
            }
            asked.push(("pod-a", Measured::Local.cluster_ip(v6, work)));
            asked.extend(objects::last(services, v6).map(|to| ("pod-a", to)));
        }
        let deadline = Instant::now() + PROGRAMMING;
        for (place, to) in asked {
            while let Err(error) = self.client(place)?.burst(work, to, 1, &[], true) {
                if Instant::now() > deadline {
                    let logs = self.topology.scratch();
                    bail!("{}: {error:#}; see {}", self.who.name, logs.display());
                }
                sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }
}

fn kube_proxy(
    binary: &Path,
    topology: &Topology,
    node: &str,
    mode: &str,
    kubeconfig: &str,
) -> Result<Running> {
    let log = topology.scratch().join(format!("kube-proxy-{node}.log"));
    let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = topology.command(node, binary)?;
    command.args([
        &format!("--kubeconfig={kubeconfig}"),
        &format!("--proxy-mode={mode}"),
        &format!("--hostname-override={node}"),
        &format!("--cluster-cidr={CLUSTER_CIDR}"),
        // These belong to the whole machine.
        "--conntrack-max-per-core=0",
        "--conntrack-min=0",
    ]);
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start kube-proxy")?;
    Ok(Running(child))
}

/// Sends what the client and pod-c say to each other through node1.
fn through_node1(topology: &Topology) -> Result<()> {
    let (client, pod) = (topology.place("client"), topology.place("pod-c"));
    let node1 = topology.place(NODES[0]);
    for (namespace, to, via) in [
        (&client.namespace, pod, node1),
        (&topology.place(NODES[1]).namespace, client, node1),
    ] {
        for (to, via) in to.addresses().into_iter().zip(via.addresses()) {
            let status = Command::new("ip")
                .args(["-n", namespace, "route", "replace", &to.to_string()])
                .args(["via", &via.to_string()])
                .status()
                .context("cannot run `ip`: run `cargo xtask setup`")?;
            ensure!(status.success(), "cannot route {to} by {via}");
        }
    }
    Ok(())
}
