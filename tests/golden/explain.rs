//! What `svc-agent explain`, and `describe`, say about a case: `questions.txt` has one command line each, `explain.txt` the
//! answers.
//!
//! node1 has pods 10.244.1.0/24 (fd00:244:1::/64) behind the device `pods`; everything else is beyond `eth0`.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use svc_agent::cluster::{Cluster, Event};
use svc_agent::dataplane::Attached;
use svc_agent::describe::{Page, description};
use svc_agent::desired::ServiceName;
use svc_agent::explain::tables::{Maps, Way};
use svc_agent::explain::{Evidence, Origin, OriginHost, Target, answer};
use svc_agent::inspect::Snapshot;
use svc_agent::node::{Device, Devices};
use svc_agent::plan::Planner;
use svc_agent::sockets::Live;
use svc_agent::source::once::Objects;
use svc_agent::tally::{Count, Counts};
use svc_common::table::{NodeConfig, Traffic, node_flags};

const ETH0: u32 = 2;
const PODS: u32 = 3;

/// The answers to the questions of a case; None: it has none.
pub fn answers(folder: &Path, events: &[Event], planner: &Planner) -> Option<String> {
    let questions = fs::read_to_string(folder.join("questions.txt")).ok()?;
    let objects = objects(folder, events);
    let mut text = String::new();
    for question in questions.lines().filter(|line| !line.is_empty()) {
        match question.strip_prefix("describe service ") {
            Some(name) => {
                text += &format!("$ svc-agent {question}\n");
                text += &describe(name, planner, &objects);
            }
            None => {
                text += &format!("$ svc-agent explain {question}\n");
                text += &ask(question, planner, &objects);
            }
        }
        text.push('\n');
    }
    Some(text)
}

fn objects(folder: &Path, events: &[Event]) -> Objects {
    let mut cluster = Cluster::new("node1");
    for event in events {
        cluster.apply(event.clone());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let place = svc_agent::source::once::Place::Manifests(folder.to_owned());
    let service = svc_agent::source::once::Of::All;
    runtime
        .block_on(svc_agent::source::once::read(&place, cluster, service))
        .unwrap()
}

/// `[settings]` of the agent may come first: `socket-lb=off`, `dsr=geneve`, `maps` for no look at the manifests.
fn ask(question: &str, planner: &Planner, objects: &Objects) -> String {
    let mut maps = maps(planner);
    let (mut alone, mut from, mut target) = (false, None, None);
    let mut words = question.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "[socket-lb=off]" => {
                maps.attached.sockets.clear();
                maps.config.socket_lb = 0;
            }
            "[socket-lb=all]" => maps.config.socket_lb = 2,
            "[dsr=geneve]" => maps.config.flags |= node_flags::DSR_GENEVE,
            "[masquerade-all]" => maps.config.flags |= node_flags::MASQUERADE_ALL,
            "[maps]" => alone = true,
            "--from" => from = Some(words.next().unwrap().parse::<Origin>().unwrap()),
            word => target = Some(word.parse::<Target>().unwrap()),
        }
    }
    let from = from.map(|origin| match origin.host {
        OriginHost::Address(ip) => (ip, origin.port),
        OriginHost::Pod { .. } => panic!("not here"),
    });
    let evidence = Evidence {
        maps: &maps,
        objects: (!alone).then_some(objects),
        route: &way,
    };
    match answer(&target.unwrap(), from, evidence) {
        Ok(explanation) => explanation.text(),
        Err(error) => format!("svc-agent: {error:#}\n"),
    }
}

/// Every port has been asked for as often as its id says, if anything is counted: `[counted]`.
fn counts(planner: &Planner, traffic: bool) -> Counts {
    let count = |id: u32| Count {
        connections: id.into(),
        traffic: traffic.then_some(Traffic {
            packets_in: 10,
            bytes_in: 600,
            packets_out: 8,
            bytes_out: 12_000,
        }),
    };
    planner
        .labels()
        .keys()
        .map(|id| (*id, count(*id)))
        .collect()
}

/// `[-o json] NAME`, behind `[counted]` or `[traffic]` where something is.
fn describe(question: &str, planner: &Planner, objects: &Objects) -> String {
    let (mut name, mut json, mut counted) = ("", false, None);
    for word in question.split_whitespace() {
        match word {
            "[counted]" => counted = Some(counts(planner, false)),
            "[traffic]" => counted = Some(counts(planner, true)),
            "-o" => (),
            "json" => json = true,
            word => name = word,
        }
    }
    let name = ServiceName {
        namespace: "default".into(),
        name: name.into(),
    };
    let said = description(&Page {
        name: &name,
        maps: &maps(planner),
        objects: Some(objects),
        sockets: Some(Live::new()),
        counts: counted,
    });
    match json {
        true => serde_json::to_string_pretty(&said).unwrap() + "\n",
        false => said.to_string(),
    }
}

fn way(ip: IpAddr) -> Option<Way> {
    let text = ip.to_string();
    let local = ["172.18.0.11", "fd00:18::11", "127.0.0.1", "::1"].contains(&text.as_str());
    let pod = text.starts_with("10.244.1.") || text.starts_with("fd00:244:1:");
    let gateway = if ip.is_ipv4() {
        "172.18.0.1"
    } else {
        "fd00:18::1"
    };
    Some(Way {
        ifindex: if local {
            1
        } else if pod {
            PODS
        } else {
            ETH0
        },
        gateway: (!local && !pod).then(|| gateway.parse().unwrap()),
        local,
    })
}

fn maps(planner: &Planner) -> Maps {
    let device = |name: &str| Device {
        name: name.into(),
        ..Device::default()
    };
    let v4: IpAddr = "172.18.0.11".parse().unwrap();
    let v6: IpAddr = "fd00:18::11".parse().unwrap();
    let own = [0, ETH0, PODS].into_iter();
    Maps {
        snapshot: Snapshot {
            v4: planner.v4().clone(),
            v6: planner.v6().clone(),
            services: planner.labels().clone(),
        },
        config: NodeConfig {
            netns_cookie: 7,
            socket_lb: 1,
            snat_min: 61_000,
            snat_max: 65_535,
            ..NodeConfig::default()
        },
        addresses: own
            .flat_map(|i| [((i, false), v4), ((i, true), v6)])
            .collect(),
        attached: Attached {
            devices: BTreeSet::from([
                ("node_ingress", ETH0),
                ("node_egress", ETH0),
                ("pod_ingress", PODS),
                ("pod_egress", PODS),
            ]),
            sockets: BTreeSet::from(["connect4", "connect6"]),
        },
        devices: Devices::from([(ETH0, device("eth0")), (PODS, device("pods"))]),
        ..Maps::default()
    }
}
