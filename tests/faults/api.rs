//! The API server is away, slow, refuses, forgets or goes back in time: traffic stays as it was, and once it answers again
//! the agents follow by writing what changed.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svc_agent::config::Output;
use svc_agent::dataplane::Pinned;
use svc_agent::inspect::{self, Filter};
use svc_tests::apiserver::objects::{
    CLUSTER_IPS, NODE_PORTS, create_service, delete_service, set_endpoints,
};
use svc_tests::apiserver::prepare::prepare;
use svc_tests::apiserver::server::ApiServer;
use xtask::agents::{Agent, eventually, metric, start_agents};
use xtask::topology::{NODES, Options, PODS, Topology};
use xtask::traffic::{Protocol, Running, start_server};

use crate::load::{Client, Load};
use crate::proxy::{Proxy, Trouble};
use crate::{BOTH, Case, Form, SHORT};

pub const CASES: &[Case] = &[
    Case {
        name: "traffic_stays_whatever_the_api_server_does_and_changes_are_caught_up",
        forms: BOTH,
        test: trouble,
    },
    Case {
        name: "an_etcd_that_went_back_in_time_is_followed",
        forms: SHORT,
        test: restored,
    },
];

/// A watch that was refused waits up to five seconds before it tries again, and the machine is busy.
const SOON: Duration = Duration::from_secs(60);
/// Of the pods that stand behind the Service by turns.
const SETS: [&[&str]; 2] = [&["pod-a", "pod-c"], &["pod-a", "pod-d"]];

/// An API server, a proxy in front of it, agents that know the proxy only, and servers in the pods.
struct Scene<'a> {
    topology: &'a Topology,
    api: ApiServer<'a>,
    proxy: Proxy,
    agents: Vec<Agent>,
    _servers: Vec<Running>,
}

impl<'a> Scene<'a> {
    fn start(topology: &'a Topology) -> Result<Self> {
        let api = ApiServer::start(topology)?;
        prepare(&api, topology)?;
        create_service(&api)?;
        set_endpoints(&api, topology, SETS[0])?;
        let token = api.agent_token()?;
        let proxy = Proxy::start(topology, &api, &token)?;
        let kubeconfig = api.kubeconfig("proxied", &proxy.url, &token)?;
        let kubeconfig = kubeconfig.display().to_string();
        let servers = PODS
            .iter()
            .map(|pod| start_server(topology, pod, pod, &[8080], &[5353]));
        Ok(Self {
            _servers: servers.collect::<Result<_>>()?,
            agents: start_agents(topology, &["--kubeconfig", &kubeconfig, "-v", "1"])?,
            topology,
            api,
            proxy,
        })
    }

    fn clients(&self) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for (protocol, port, node_port) in [
            (Protocol::Tcp, 80, NODE_PORTS[0]),
            (Protocol::Udp, 53, NODE_PORTS[1]),
        ] {
            for ip in CLUSTER_IPS {
                clients.push(("pod-b", protocol, (ip.parse::<IpAddr>()?, port).into()));
            }
            let addresses = self.topology.place("node1").addresses();
            clients.extend(addresses.map(|ip| ("client", protocol, (ip, node_port).into())));
        }
        Ok(clients)
    }

    /// The Service's backends as each node's maps have them.
    fn backends(&self, node: &str) -> Result<String> {
        let maps = Pinned::open(&self.topology.bpf_root(node))?.read()?;
        Ok(inspect::backends(&maps, Filter::default(), Output::Table))
    }

    /// Exactly these pods serve, on both nodes; none of them if the Service is gone.
    fn serves(&self, pods: &[&str]) -> Result<bool> {
        for node in NODES {
            let backends = self.backends(node)?;
            for pod in PODS {
                let address = self.topology.place(pod).v4.to_string();
                if backends.contains(&address) != pods.contains(&pod) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The sum of a series over the nodes.
    fn metric(&self, series: &str) -> Result<f64> {
        let mut sum = 0.0;
        for node in NODES {
            sum += metric(self.topology, node, series)?.with_context(|| format!("no {series}"))?;
        }
        Ok(sum)
    }

    fn written(&self) -> Result<f64> {
        self.metric("svcplane_map_entries_written_total")
    }

    fn watches_up(&self) -> Result<f64> {
        self.metric("svcplane_api_watch_up{resource=\"endpointslices\"}")
    }

    /// Waits until these pods serve; what was written for it is no more than `most` entries.
    fn follows(&self, what: &str, pods: &[&str], before: f64, most: f64) -> Result<()> {
        let took = eventually(&format!("{what}: {pods:?} serve"), SOON, || {
            self.serves(pods)
        })?;
        // What else there might be to write.
        sleep(Duration::from_millis(300));
        let wrote = self.written()? - before;
        println!("{what}: followed {took:?} after it was over, {wrote} map entries written");
        ensure!(
            wrote <= most,
            "{what}: {wrote} map entries were written, not {most}"
        );
        Ok(())
    }

    fn logs(&self) -> String {
        let agents = self.agents.iter();
        agents
            .map(|agent| format!("--- {}\n{}", agent.node, agent.log()))
            .collect()
    }
}

/// What happens to the API server, and whether the agents can know that they do not hear of it.
const TROUBLES: [(&str, Trouble, bool); 6] = [
    ("answers 500", Trouble::Status(500), true),
    ("answers 429", Trouble::Status(429), true),
    ("stalls", Trouble::Stall, false),
    ("cuts watches within an event", Trouble::Cut, false),
    (
        "has forgotten what watches know (410)",
        Trouble::Expired,
        false,
    ),
    ("is killed", Trouble::None, true),
];

fn trouble(form: Form) -> Result<()> {
    let topology = Topology::new(Options::default())?;
    let mut scene = Scene::start(&topology)?;
    let outcome = through_trouble(form, &mut scene);
    outcome.map_err(|error| error.context(scene.logs()))
}

fn through_trouble(form: Form, scene: &mut Scene<'_>) -> Result<()> {
    let topology = scene.topology;
    eventually("the endpoints are in the maps", SOON, || {
        scene.serves(SETS[0])
    })?;
    // What a change costs, both nodes together.
    let mut cost: f64 = 0.0;
    for turn in [1, 0] {
        let before = scene.written()?;
        set_endpoints(&scene.api, topology, SETS[turn])?;
        scene.follows("no trouble", SETS[turn], before, f64::MAX)?;
        cost = cost.max(scene.written()? - before);
    }
    let mut load = Load::start(scene.topology, &scene.clients()?, form.pick(5, 26))?;
    let mut turn = 0;
    for (name, trouble, noticed) in TROUBLES {
        let what = format!("the API server {name}");
        let maps: Vec<String> = NODES
            .into_iter()
            .map(|node| scene.backends(node))
            .collect::<Result<_>>()?;
        let (before, errors) = (scene.written()?, scene.metric(ERRORS)?);
        turn = 1 - turn;
        if trouble == Trouble::None {
            scene.api.kill();
        } else {
            scene.proxy.make(trouble);
        }
        if noticed {
            eventually(&format!("{what}: it is told"), SOON, || {
                Ok(scene.watches_up()? == 0.0)
            })?;
        }
        if trouble == Trouble::None {
            sleep(form.pick(Duration::from_secs(1), Duration::from_secs(120)));
            // Where no agent sees it, the endpoints change.
            scene.api.start_at(std::net::Ipv4Addr::LOCALHOST)?;
            set_endpoints(&scene.api, topology, SETS[turn])?;
            scene.api.start_at(topology.place("lan").v4)?;
        } else {
            set_endpoints(&scene.api, topology, SETS[turn])?;
        }
        let lasts = matches!(trouble, Trouble::Status(_) | Trouble::Stall);
        if lasts {
            sleep(form.pick(Duration::from_secs(1), Duration::from_secs(150)));
            for (node, had) in NODES.into_iter().zip(&maps) {
                ensure!(
                    scene.backends(node)? == *had,
                    "{what}: the maps of {node} have changed"
                );
            }
            ensure!(scene.written()? == before, "{what}: something was written");
            scene.proxy.make(Trouble::None);
        }
        scene.follows(&what, SETS[turn], before, cost)?;
        eventually(&format!("{what}: all is well again"), SOON, || {
            Ok(scene.watches_up()? == 2.0)
        })?;
        if noticed {
            ensure!(
                scene.metric(ERRORS)? > errors,
                "{what}: no error was counted"
            );
        }
        scene.proxy.make(Trouble::None);
        load.still()?;
    }
    load.stop()?.check()?;
    // A deletion that nobody tells of.
    scene.proxy.make(Trouble::Status(500));
    eventually("the agents notice", SOON, || Ok(scene.watches_up()? == 0.0))?;
    delete_service(&scene.api)?;
    ensure!(scene.serves(SETS[turn])?, "what is served has changed");
    scene.proxy.make(Trouble::None);
    eventually("the deleted Service is gone", SOON, || scene.serves(&[])).map(drop)
}

const ERRORS: &str = "svcplane_api_watch_errors_total{resource=\"endpointslices\"}";

fn restored(_: Form) -> Result<()> {
    let topology = Topology::new(Options::default())?;
    let mut scene = Scene::start(&topology)?;
    let outcome = back_in_time(&mut scene);
    outcome.map_err(|error| error.context(scene.logs()))
}

fn back_in_time(scene: &mut Scene<'_>) -> Result<()> {
    let topology = scene.topology;
    eventually("the endpoints are in the maps", SOON, || {
        scene.serves(SETS[0])
    })?;
    scene.api.back_up()?;
    let load = Load::start(topology, &scene.clients()?, 2)?;
    // Resource versions that the restored one has not come to.
    for turn in [1, 0, 1, 0, 1] {
        set_endpoints(&scene.api, topology, SETS[turn])?;
    }
    eventually("the change is followed", SOON, || scene.serves(SETS[1]))?;
    let before = scene.written()?;
    scene.api.restore()?;
    scene.follows("etcd is restored", SETS[0], before, f64::MAX)?;
    set_endpoints(&scene.api, topology, SETS[1])?;
    scene.follows("and goes on", SETS[1], before, f64::MAX)?;
    load.stop()?.check()
}
