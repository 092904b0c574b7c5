//! `svc-agent diff --shadow` beside the real kube-proxy, in both of its modes: what it says would change is what does.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::agents::eventually;

use crate::kube_proxy::{self, CLUSTER_CIDR};
use crate::scene::Scene;

const NODE: &str = "node1";
/// kube-proxy looks at its rules once a second, and the machine may be busy.
const SOON: Duration = Duration::from_secs(40);

pub fn nftables(scene: &Scene<'_>) -> Result<()> {
    beside(scene, "nftables")
}

pub fn iptables(scene: &Scene<'_>) -> Result<()> {
    beside(scene, "iptables")
}

fn look(scene: &Scene<'_>, more: &[&str]) -> Result<Output> {
    let config = scene.cluster.plane.api.agent_kubeconfig()?;
    let mut command = scene.cluster.topology.agent(NODE, "diff")?;
    command.args(["--shadow", "--cluster-cidr", CLUSTER_CIDR, "--kubeconfig"]);
    Ok(command.arg(config).args(more).output()?)
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

fn beside(scene: &Scene<'_>, mode: &str) -> Result<()> {
    let cluster = scene.cluster;
    let topology = cluster.topology;
    let none = look(scene, &[])?;
    ensure!(
        none.status.code() == Some(1)
            && text(&none).contains("no rules of kube-proxy are in this network namespace"),
        "{}",
        text(&none)
    );
    for (name, place) in [("here", "pod-b"), ("there", "pod-c"), ("local", "pod-b")] {
        scene.pod(name, place, name)?;
    }
    scene.pod("here-too", "pod-d", "here")?;
    let here = scene.service("here", &json!({"type": "NodePort"}))?;
    let local = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    scene.service("local", &local)?;
    // No endpoint is on this node.
    scene.service("there", &local)?;
    scene.service(
        "bound",
        &json!({"sessionAffinity": "ClientIP", "selector": {"app": "here"}}),
    )?;
    scene.service(
        "none",
        &json!({"externalIPs": ["192.0.2.50", "2001:db8:2::50"]}),
    )?;
    let proxy = kube_proxy::start_in(mode, &cluster.plane, topology, NODE)?;
    // Nodes have no addresses of LoadBalancers here: ClusterIPs, NodePorts and external IPs.
    let mut last = String::new();
    let same = || {
        let output = look(scene, &[])?;
        last = text(&output);
        Ok(output.status.code() == Some(0))
    };
    eventually("svcplane would do the same", SOON, same).with_context(|| last.clone())?;
    ensure!(
        last.contains("svcplane would do what kube-proxy does"),
        "{last}"
    );

    // What kube-proxy does not follow any more.
    drop(proxy);
    scene.relabel("here-too", "gone")?;
    let new = scene.service("new", &json!({"selector": {"app": "there"}}))?;
    let ip = here.cluster_ips(80)?[0];
    let gone = format!("~ {ip}/TCP of shadow-{mode}/here:http asked from inside: endpoints -");
    let added = format!(
        "+ {}/TCP of shadow-{mode}/new:http is not served by kube-proxy",
        new.cluster_ips(80)?[0]
    );
    let differs = || {
        let output = look(scene, &[])?;
        last = text(&output);
        Ok(output.status.code() == Some(1) && last.contains(&gone) && last.contains(&added))
    };
    eventually("what would change is named", SOON, differs).with_context(|| last.clone())?;
    let json = look(scene, &["-o", "json"])?;
    let json: Value = serde_json::from_slice(&json.stdout)?;
    let differences = json["differences"].as_array().context("no list")?;
    ensure!(
        json["same"] == false
            && differences.iter().any(|d| d["change"] == "new"
                && d["frontend"] == format!("{}/TCP", new.cluster_ips(80).unwrap_or_default()[0])),
        "{json:#}"
    );
    // Another traffic policy and affinity than kube-proxy's rules know.
    let mut here = here;
    here.patch(&json!({"sessionAffinity": "ClientIP"}))?;
    let bound = format!(
        "~ {ip}/TCP of shadow-{mode}/here:http session affinity: none with kube-proxy, 10800s with svcplane"
    );
    let differs = || {
        last = text(&look(scene, &[])?);
        Ok(last.contains(&bound))
    };
    eventually("affinity is compared", SOON, differs).with_context(|| last.clone())?;
    // Nothing was pinned or attached by looking.
    ensure!(
        !topology.bpf_root(NODE).join("v1").exists(),
        "there are pins"
    );
    kube_proxy::cleanup(topology, NODE)
}
