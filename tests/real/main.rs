//! The real programs of Kubernetes around svcplane: objects made through a real API server, their slices by the real
//! controllers; the real kube-proxy side by side, and before and after on one node;
//! the real CoreDNS behind its Service.

mod cluster;
mod dns;
mod kube_proxy;
mod objects;
mod reference;
mod scene;
mod service;
mod shadow;
mod takeover;

use std::sync::{Arc, Mutex, PoisonError};

use cluster::Cluster;
use libtest_mimic::{Arguments, Failed, Trial};
use scene::Scene;
use svc_tests::apiserver::{prepare, server};

pub struct Scenario {
    pub name: &'static str,
    pub test: fn(&Scene<'_>) -> anyhow::Result<()>,
}

type Shared = Arc<Mutex<Option<Result<Cluster, String>>>>;

fn in_cluster(shared: &Shared, scenario: &Scenario) -> Result<(), Failed> {
    let mut cluster = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = cluster
        .get_or_insert_with(|| Cluster::start().map_err(|e| format!("{e:#}")))
        .as_ref()
        .map_err(Clone::clone)?;
    // A namespace's name is no longer than 63 characters.
    let namespace: String = scenario.name.chars().take(60).collect();
    let namespace = namespace.replace('_', "-");
    let scene =
        Scene::new(cluster, namespace.trim_end_matches('-')).map_err(|e| format!("{e:#}"))?;
    let outcome = (scenario.test)(&scene);
    let cleared = scene.clear();
    Ok(outcome
        .and(cleared)
        .map_err(|e| format!("{e:#}\n{}", cluster.logs()))?)
}

fn main() {
    let mut arguments = Arguments::from_args();
    // They share a cluster, one after the other.
    arguments.test_threads = Some(1);
    let shared: Shared = Arc::default();
    let mut trials = Vec::new();
    for (module, scenarios) in [
        ("endpoints", objects::endpoints::SCENARIOS),
        ("frontends", objects::frontends::SCENARIOS),
        ("types", objects::types::SCENARIOS),
        ("dns", dns::SCENARIOS),
    ] {
        for scenario in scenarios {
            let shared = shared.clone();
            trials.push(Trial::test(
                format!("{module}::{}", scenario.name),
                move || in_cluster(&shared, scenario),
            ));
        }
    }
    trials.push(Trial::test(reference::NAME, || {
        reference::test().map_err(|e| Failed::from(format!("{e:#}")))
    }));
    for (name, test) in takeover::TESTS {
        trials.push(Trial::test(format!("takeover::{name}"), move || {
            takeover::run("takeover", test).map_err(|e| Failed::from(format!("{e:#}")))
        }));
    }
    let beside: [(&str, takeover::Test); 2] = [
        ("nftables", shadow::nftables),
        ("iptables", shadow::iptables),
    ];
    for (mode, test) in beside {
        let name = format!("shadow::what_would_change_beside_kube_proxy_in_{mode}_mode_is_named");
        trials.push(Trial::test(name, move || {
            takeover::run(&format!("shadow-{mode}"), test)
                .map_err(|e| Failed::from(format!("{e:#}")))
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // `exit` would drop nothing.
    let cluster = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Ok(cluster)) = cluster {
        let name = cluster.topology.name.clone();
        drop(cluster);
        xtask::topology::remove(&name);
    }
    conclusion.exit();
}
