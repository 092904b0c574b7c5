//! The api layer: a real API server, objects created through it, agents that watch it with the rights of
//! deploy/svcplane.yaml and nothing more, and real traffic.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod chart;
mod events;
mod look;
mod metrics;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use objects::{CLUSTER_IPS, NODE_PORTS, create_service, delete_service, set_endpoints};
use prepare::prepare;
use server::ApiServer;
use svc_tests::apiserver::{objects, prepare, server};
use xtask::agents::{Agent, eventually, start_agents};
use xtask::topology::{NODES, Options, PODS, Topology};
use xtask::traffic::{Outcome, Probe, Protocol, Running, spread, start_server};

const SOON: Duration = Duration::from_secs(10);

/// An API server with the agents on it, and servers in the pods.
struct Cluster<'a> {
    topology: &'a Topology,
    api: ApiServer<'a>,
    agents: Vec<Agent>,
    _servers: Vec<Running>,
}

impl<'a> Cluster<'a> {
    fn start(topology: &'a Topology) -> Self {
        let api = ApiServer::start(topology).unwrap();
        prepare(&api, topology).unwrap();
        let kubeconfig = api.agent_kubeconfig().unwrap();
        let agents =
            start_agents(topology, &["--kubeconfig", kubeconfig.to_str().unwrap()]).unwrap();
        let servers = PODS
            .iter()
            .map(|pod| start_server(topology, pod, pod, &[8080], &[5353]).unwrap());
        Self {
            topology,
            _servers: servers.collect(),
            api,
            agents,
        }
    }

    /// Everything a client can ask of `web`: from where, by what, to where.
    fn ways(&self) -> Vec<(&'static str, Protocol, SocketAddr)> {
        let mut ways = Vec::new();
        for (protocol, port, node_port) in [
            (Protocol::Tcp, 80, NODE_PORTS[0]),
            (Protocol::Udp, 53, NODE_PORTS[1]),
        ] {
            for from in ["pod-b", "node1", "node2"] {
                ways.extend(
                    CLUSTER_IPS
                        .map(|ip| (from, protocol, (ip.parse::<IpAddr>().unwrap(), port).into())),
                );
            }
            for node in NODES {
                let addresses = self.topology.place(node).addresses();
                ways.extend(addresses.map(|ip| ("client", protocol, (ip, node_port).into())));
            }
        }
        ways
    }

    /// Waits until, by every way, exactly these pods answer.
    fn expect_answers_from(&self, pods: &[&str]) {
        for (from, protocol, to) in self.ways() {
            let probe = Probe::new(protocol, to)
                .connected()
                .count(20)
                .timeout(Duration::from_millis(300));
            let mut last = Vec::new();
            let all_of_them = || {
                last = probe.run(self.topology, from)?;
                Ok(spread(&last)
                    .keys()
                    .map(String::as_str)
                    .eq(pods.iter().copied()))
            };
            let outcome = eventually(
                &format!("{from} → {protocol} {to} is answered by {pods:?}"),
                SOON,
                all_of_them,
            );
            if let Err(error) = outcome {
                panic!("{error}; last: {:?}\n{}", spread(&last), self.logs());
            }
        }
    }

    fn logs(&self) -> String {
        self.agents
            .iter()
            .map(|agent| format!("log of {}:\n{}\n", agent.node, agent.log()))
            .collect()
    }
}

fn topology() -> Topology {
    Topology::new(Options::default()).unwrap()
}

#[test]
fn services_made_through_the_api_carry_traffic_and_follow_their_endpoints() {
    let topology = topology();
    let cluster = Cluster::start(&topology);
    create_service(&cluster.api).unwrap();
    set_endpoints(&cluster.api, &topology, &["pod-a", "pod-c"]).unwrap();
    cluster.expect_answers_from(&["pod-a", "pod-c"]);
    set_endpoints(&cluster.api, &topology, &["pod-d"]).unwrap();
    cluster.expect_answers_from(&["pod-d"]);
    let logs = cluster.logs();
    assert!(
        !logs.to_lowercase().contains("forbidden"),
        "the agent lacks a right:\n{logs}"
    );
}

#[test]
fn a_service_without_endpoints_refuses_and_a_deleted_one_is_gone() {
    let topology = topology();
    let cluster = Cluster::start(&topology);
    create_service(&cluster.api).unwrap();
    set_endpoints(&cluster.api, &topology, &[]).unwrap();
    cluster.expect_answers_from(&["refused"]);
    set_endpoints(&cluster.api, &topology, &["pod-a"]).unwrap();
    cluster.expect_answers_from(&["pod-a"]);
    delete_service(&cluster.api).unwrap();
    for ip in CLUSTER_IPS {
        let probe = Probe::tcp((ip.parse::<IpAddr>().unwrap(), 80).into())
            .timeout(Duration::from_millis(200));
        let gone = || Ok(probe.run(&topology, "pod-b")?[0].by().is_none());
        eventually(&format!("{ip} stops answering"), SOON, gone).unwrap();
    }
    for address in topology.place("node2").addresses() {
        let probe = Probe::tcp((address, NODE_PORTS[0]).into());
        let refused = || Ok(probe.run(&topology, "client")?[0].outcome == Outcome::Refused);
        eventually(&format!("{address} refuses the NodePort"), SOON, refused).unwrap();
    }
}

#[test]
fn traffic_outlives_the_api_server_and_what_changed_meanwhile_is_caught_up() {
    let topology = topology();
    let mut cluster = Cluster::start(&topology);
    create_service(&cluster.api).unwrap();
    set_endpoints(&cluster.api, &topology, &["pod-a", "pod-c"]).unwrap();
    cluster.expect_answers_from(&["pod-a", "pod-c"]);

    cluster.api.kill();
    cluster.expect_answers_from(&["pod-a", "pod-c"]);
    // Where the agents cannot reach it, the endpoints change.
    cluster.api.start_at(Ipv4Addr::LOCALHOST).unwrap();
    set_endpoints(&cluster.api, &topology, &["pod-b", "pod-c"]).unwrap();
    cluster.expect_answers_from(&["pod-a", "pod-c"]);

    cluster.api.start_at(topology.place("lan").v4).unwrap();
    cluster.expect_answers_from(&["pod-b", "pod-c"]);
}

#[test]
fn the_agents_rights_are_three_lists_and_making_events() {
    let topology = topology();
    let api = ApiServer::start(&topology).unwrap();
    prepare(&api, &topology).unwrap();
    let token = api.agent_token().unwrap();
    let all = ListParams::default();
    let codes = api
        .with_token(&token, |client| async move {
            let code = |error: Option<kube::Error>| match error {
                Some(kube::Error::Api(status)) => status.code,
                Some(error) => panic!("{error}"),
                None => 200,
            };
            Ok([
                code(Api::<Service>::all(client.clone()).list(&all).await.err()),
                code(
                    Api::<EndpointSlice>::all(client.clone())
                        .list(&all)
                        .await
                        .err(),
                ),
                code(Api::<Node>::all(client.clone()).list(&all).await.err()),
                code(Api::<Secret>::all(client.clone()).list(&all).await.err()),
                code(Api::<Event>::all(client.clone()).list(&all).await.err()),
                code(
                    Api::<Node>::all(client.clone())
                        .delete("node1", &Default::default())
                        .await
                        .err(),
                ),
            ])
        })
        .unwrap();
    assert_eq!(codes, [200, 200, 200, 403, 403, 403]);
}
