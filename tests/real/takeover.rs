//! One node changes its proxy while connections are open: from the real kube-proxy to svcplane, and back. This is what
//! docs/operations.md tells operators to do, step by step.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use xtask::agents::{Agent, eventually, healthy};
use xtask::topology::Topology;
use xtask::traffic::{Answer, Conversation, Outcome, Probe, Protocol, Running};

use crate::cluster::{Cluster, topology};
use crate::kube_proxy;
use crate::scene::Expect::From;
use crate::scene::Scene;
use crate::server::tail;
use crate::service::Service;

/// The node that changes its proxy; the other one has none.
const NODE: &str = "node1";
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

pub type Test = fn(&Scene<'_>) -> Result<()>;

pub const TESTS: [(&str, Test); 2] = [
    (
        "connections_of_kube_proxy_live_through_a_takeover",
        to_svcplane,
    ),
    (
        "connections_live_when_kube_proxy_comes_back_if_they_are_handed_over",
        to_kube_proxy,
    ),
];

/// On a cluster of its own, in which nobody serves yet.
pub fn run(namespace: &str, test: Test) -> Result<()> {
    let topology = topology()?;
    let outcome = (|| {
        let cluster = Cluster::without_agents(topology)?;
        let scene = Scene::new(&cluster, namespace)?;
        test(&scene).with_context(|| {
            let agent = tail(&topology.scratch().join(format!("{NODE}.log")));
            format!("{agent}\n{}", tail(&kube_proxy::log(topology)))
        })
    })();
    xtask::topology::remove(&topology.name);
    outcome
}

/// The Services, and where each one's only Pod is.
const SERVICES: [(&str, &str); 5] = [
    ("here", "pod-b"),
    ("there", "pod-c"),
    ("self", "pod-a"),
    ("host", "node1"),
    ("local", "pod-b"),
];

struct Services<'a>(Vec<Service<'a>>);

impl<'a> Services<'a> {
    fn make(scene: &'a Scene<'a>) -> Result<Self> {
        let services = SERVICES.iter().map(|(name, place)| {
            scene.pod(name, place, name)?;
            let policy = if *name == "local" { "Local" } else { "Cluster" };
            scene.service(
                name,
                &json!({"type": "NodePort", "externalTrafficPolicy": policy}),
            )
        });
        Ok(Self(services.collect::<Result<_>>()?))
    }

    fn of(&self, name: &str) -> &Service<'a> {
        let service = self.0.iter().find(|service| service.name == name);
        service.expect("every name is a Service")
    }

    /// Where a client asks: pods and the node itself the ClusterIPs, others the node's NodePorts.
    fn addresses(&self, name: &str, from: &str, protocol: Protocol) -> Result<Vec<SocketAddr>> {
        let service = self.of(name);
        let (port, number) = match protocol {
            Protocol::Tcp => ("http", 80),
            Protocol::Udp => ("dns", 53),
        };
        match from {
            "client" | "pod-d" => service.node_port(port, NODE),
            _ => service.cluster_ips(number),
        }
    }
}

/// A conversation that was begun with one backend.
struct Open {
    from: &'static str,
    service: &'static str,
    protocol: Protocol,
    to: SocketAddr,
    conversation: Conversation,
    first: Answer,
}

impl Open {
    fn what(&self) -> String {
        format!(
            "{} → {} ({} {})",
            self.from, self.service, self.protocol, self.to
        )
    }

    /// The node's own packets do, unless the socket is connected to the backend.
    fn meets_the_rules_first(&self) -> bool {
        self.from == NODE && self.protocol == Protocol::Udp
    }

    /// The same backend answers, and sees the same client.
    fn goes_on(&mut self) -> Result<()> {
        for _ in 0..2 {
            let answer = self.conversation.say()?;
            ensure!(
                answer.outcome == self.first.outcome,
                "{} does not go on: {:?} first, {answer:?} now",
                self.what(),
                self.first
            );
        }
        Ok(())
    }
}

fn go_on(open: &mut [Open]) -> Result<()> {
    let wrong: Vec<_> = open
        .iter_mut()
        .filter_map(|open| open.goes_on().err())
        .map(|e| e.to_string())
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Who asks what: by NodePort from outside and from a pod of the other node, by ClusterIP else.
const ASKED: [(&str, &[&str]); 4] = [
    ("pod-a", &["here", "there", "self", "host"]),
    ("node1", &["here", "there"]),
    ("client", &["here", "there", "local", "host"]),
    ("pod-d", &["here"]),
];

/// A UDP server of the node answers pods from another of its addresses, unless it takes care.
fn protocols(service: &str) -> &'static [Protocol] {
    match service {
        "host" => &PROTOCOLS[..1],
        _ => &PROTOCOLS,
    }
}

fn open(topology: &Topology, services: &Services<'_>) -> Result<Vec<Open>> {
    let mut all = Vec::new();
    for (from, asked) in ASKED {
        for service in asked {
            let backend = SERVICES.iter().find(|(name, _)| name == service);
            let (_, backend) = backend.expect("every name is a Service");
            for &protocol in protocols(service) {
                for to in services.addresses(service, from, protocol)? {
                    let mut conversation = Conversation::open(topology, from, protocol, to)?;
                    let first = conversation.say()?;
                    let open = Open {
                        from,
                        service,
                        protocol,
                        to,
                        conversation,
                        first,
                    };
                    ensure!(
                        open.first.by() == Some(backend),
                        "{}: {:?}",
                        open.what(),
                        open.first
                    );
                    all.push(open);
                }
            }
        }
    }
    Ok(all)
}

/// Waits until every Service answers everybody.
fn served(topology: &Topology, services: &Services<'_>) -> Result<()> {
    for (from, asked) in ASKED {
        for service in asked {
            for &protocol in protocols(service) {
                for to in services.addresses(service, from, protocol)? {
                    let probe = Probe::new(protocol, to).timeout(Duration::from_millis(500));
                    let answers = || Ok(probe.run(topology, from)?[0].by().is_some());
                    let what = format!("{from} is served at {protocol} {to}");
                    eventually(&what, Duration::from_secs(30), answers)?;
                }
            }
        }
    }
    Ok(())
}

fn svcplane(scene: &Scene<'_>, flags: &[&str]) -> Result<Agent> {
    let kubeconfig = scene.cluster.plane.api.agent_kubeconfig()?;
    let kubeconfig = kubeconfig.display().to_string();
    let flags = [&["--kubeconfig", &kubeconfig, "-v", "1"], flags].concat();
    let mut agent = Agent::start(scene.cluster.topology, NODE, &flags)?;
    agent.wait_until_healthy(scene.cluster.topology, Duration::from_secs(20))?;
    Ok(agent)
}

fn kube_proxy(scene: &Scene<'_>) -> Result<Running> {
    kube_proxy::start(&scene.cluster.plane, scene.cluster.topology, NODE)
}

/// What `svc-agent` says to a verb on the node.
fn agent(topology: &Topology, verb: &str, how: &[&str]) -> Result<String> {
    let output = topology.agent(NODE, verb)?.args(how).output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if verb == "cleanup" && !output.status.success() {
        bail!("svc-agent cleanup: {text}");
    }
    Ok(text)
}

fn names_kube_proxy(topology: &Topology) -> Result<bool> {
    Ok(agent(topology, "check", &[])?.contains("kube-proxy"))
}

fn to_svcplane(scene: &Scene<'_>) -> Result<()> {
    let topology = scene.cluster.topology;
    let services = Services::make(scene)?;
    let proxy = kube_proxy(scene)?;
    served(topology, &services)?;
    let mut old = open(topology, &services)?;

    // Step 1: kube-proxy ends, its rules stay.
    drop(proxy);
    go_on(&mut old)?;
    // Step 2.
    let mut taking_over = svcplane(scene, &["--takeover"])?;
    for _ in 0..3 {
        go_on(&mut old)?;
    }

    // What kube-proxy's rules do not know any more is ours: the Pod of `here` is another one now.
    scene.pod("new", "pod-d", "here")?;
    scene.relabel("here", "gone")?;
    let here = |from, protocol| services.addresses("here", from, protocol);
    for from in ["pod-a", "client"] {
        for protocol in PROTOCOLS {
            scene.expect(&[from], protocol, &here(from, protocol)?, From(&["pod-d"]))?;
        }
    }
    let tcp = here("node1", Protocol::Tcp)?;
    scene.expect(&["node1"], Protocol::Tcp, &tcp, From(&["pod-d"]))?;
    // TCP stays with a backend that is gone, UDP leaves it; the node's own stays with the rules while they are there.
    for open in &mut old {
        if open.service == "here" && open.protocol == Protocol::Udp && !open.meets_the_rules_first()
        {
            let answer = open.conversation.say()?;
            ensure!(
                answer.by() == Some("pod-d"),
                "{} leaves: {answer:?}",
                open.what()
            );
        } else {
            open.goes_on()?;
        }
    }

    // Step 3: the old ones have ended.
    drop(old);
    let udp = here("node1", Protocol::Udp)?;
    scene.relabel("new", "gone")?;
    scene.relabel("here", "here")?;
    served(topology, &services)?;
    let mut ours = open(topology, &services)?;
    ours.retain(|open| !open.meets_the_rules_first());
    ensure!(names_kube_proxy(topology)?, "check does not see its rules");
    kube_proxy::cleanup(topology, NODE)?;
    go_on(&mut ours)?;
    ensure!(!names_kube_proxy(topology)?, "check still sees its rules");
    scene.expect(&[NODE], Protocol::Udp, &udp, From(&["pod-b"]))?;
    taking_over.stop()?;
    let _agent = svcplane(scene, &[])?;
    go_on(&mut ours)?;
    served(topology, &services)
}

fn to_kube_proxy(scene: &Scene<'_>) -> Result<()> {
    let services = Services::make(scene)?;
    for (socket_lb, how) in [("tcp", &[][..]), ("tcp", HAND_OVER), ("off", HAND_OVER)] {
        back_from(scene, &services, socket_lb, how)
            .with_context(|| format!("--socket-lb {socket_lb}, cleanup {how:?}"))?;
    }
    Ok(())
}

const HAND_OVER: &[&str] = &["--hand-over"];

fn back_from(
    scene: &Scene<'_>,
    services: &Services<'_>,
    socket_lb: &str,
    how: &[&str],
) -> Result<()> {
    let topology = scene.cluster.topology;
    let by_socket = |open: &Open| {
        socket_lb == "tcp" && open.protocol == Protocol::Tcp && ["pod-a", NODE].contains(&open.from)
    };
    let mut serving = svcplane(scene, &["--socket-lb", socket_lb])?;
    served(topology, services)?;
    let mut ours = open(topology, services)?;
    // The node's own packets meet kube-proxy's rules before our programs.
    ours.retain(|open| open.from != NODE || by_socket(open));

    // Step 1: kube-proxy writes its rules, and they find nothing to translate.
    let proxy = kube_proxy(scene)?;
    let rules = || rules_name(topology, "takeover/there/udp/dns");
    eventually("kube-proxy has its rules", Duration::from_secs(30), rules)?;
    go_on(&mut ours)?;
    served(topology, services)?;
    // Step 2: the agent ends, its dataplane stays, and then goes.
    serving.stop()?;
    go_on(&mut ours)?;
    agent(topology, "cleanup", how)?;
    for open in &mut ours {
        if by_socket(open) || how == HAND_OVER {
            open.goes_on()?;
            continue;
        }
        let answer = open.conversation.say()?;
        let as_said = match open.protocol {
            // At once: the kernel takes it for another connection, whose port is another one, too.
            Protocol::Tcp => {
                matches!(answer.outcome, Outcome::Failed(_))
                    && answer.took < Duration::from_millis(500)
            }
            Protocol::Udp => answer.by() == open.first.by(),
        };
        ensure!(as_said, "{} after cleanup: {answer:?}", open.what());
    }
    served(topology, services)?;
    let has_its_ports = || Ok(healthy(topology, NODE));
    eventually(
        "kube-proxy is healthy",
        Duration::from_secs(20),
        has_its_ports,
    )?;
    drop(proxy);
    kube_proxy::cleanup(topology, NODE)
}

fn rules_name(topology: &Topology, what: &str) -> Result<bool> {
    for family in ["ip", "ip6"] {
        let mut nft = topology.command(NODE, "nft")?;
        let output = nft.args(["list", "table", family, "kube-proxy"]).output()?;
        if !String::from_utf8_lossy(&output.stdout).contains(what) {
            return Ok(false);
        }
    }
    Ok(true)
}
