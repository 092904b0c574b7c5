//! Side by side: the real kube-proxy (nftables) on node1 and svcplane on node2, one API server, the same Services
//! mirrored for each, the same questions asked of each. Every difference is a line of docs/semantics.md.

mod choices;
mod matrix;
mod side;
mod survey;
mod table;

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use xtask::agents::{Agent, eventually};
use xtask::topology::{Topology, in_namespace};
use xtask::traffic::Probe;

use crate::cluster::{ControlPlane, servers, topology};
use crate::kube_proxy::{self, CLUSTER_CIDR};
use crate::server::tail;
use matrix::questions;
use side::Side;

pub const NAME: &str = "reference::every_difference_from_kube_proxy_is_written_down";

const DOCUMENT: &str = "docs/semantics.md";
const MARKS: [&str; 2] = [
    "<!-- differences: written by real::reference, UPDATE=1 rewrites it -->",
    "<!-- end of differences -->",
];

pub fn test() -> Result<()> {
    let topology = topology()?;
    let outcome = compare(topology);
    xtask::topology::remove(&topology.name);
    outcome
}

fn compare(topology: &'static Topology) -> Result<()> {
    without_rate_limits(topology)?;
    let _servers = servers(topology)?;
    let plane = ControlPlane::start(topology)?;
    let sides = [Side::new(topology, 1), Side::new(topology, 2)];
    let _proxy = kube_proxy::start(&plane, topology, "node1")?;
    let kubeconfig = plane.api.agent_kubeconfig()?.display().to_string();
    let flags = ["--kubeconfig", &kubeconfig, "--cluster-cidr", CLUSTER_CIDR];
    let mut agent = Agent::start(topology, "node2", &flags)?;
    agent.wait_until_healthy(topology, Duration::from_secs(20))?;
    for side in &sides {
        side.make(&plane)?;
        side.route(topology)?;
    }
    for side in &sides {
        wait_for(topology, side)?;
    }
    let found: Vec<_> = sides
        .iter()
        .map(|side| survey::survey(topology, side))
        .collect::<Result<_>>()?;
    let table = table::table(&questions(), &found[0], &found[1]);
    written_down(&table)
}

/// kube-proxy refuses by ICMP errors, of which the kernel sends a client one a second.
fn without_rate_limits(topology: &Topology) -> Result<()> {
    for place in topology.places() {
        in_namespace(&place.namespace_file(), || {
            fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0")?;
            fs::write("/proc/sys/net/ipv6/icmp/ratelimit", "0")?;
            // Since Linux 6.13 each namespace has its own.
            let _ = fs::write("/proc/sys/net/ipv4/icmp_msgs_burst", "100000");
            let _ = fs::write("/proc/sys/net/ipv4/icmp_msgs_per_sec", "100000");
            Ok(())
        })?;
    }
    Ok(())
}

/// The last Service that was made answers, and what came before it has had the time of a sync.
fn wait_for(topology: &Topology, side: &Side) -> Result<()> {
    for to in side.last() {
        let probe = Probe::tcp(to).timeout(Duration::from_millis(500));
        let answers = || Ok(probe.run(topology, side.name("own-2"))?[0].by().is_some());
        let what = format!("the proxy of {} serves {to}", side.name("this node"));
        eventually(&what, Duration::from_secs(60), answers)
            .with_context(|| tail(&kube_proxy::log(topology)))?;
    }
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

/// Compares the section of the document, or rewrites it.
fn written_down(table: &table::Table) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {DOCUMENT}"))?;
    let marked = || {
        let (before, rest) = text.split_once(MARKS[0])?;
        let (section, after) = rest.split_once(MARKS[1])?;
        Some((before, section, after))
    };
    let (before, section, after) =
        marked().with_context(|| format!("{DOCUMENT} has no section of differences"))?;
    let found = format!("\n{}", table.text);
    if env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::write(&path, [before, MARKS[0], &found, MARKS[1], after].concat())?;
    } else if section != found {
        let wrote: Vec<_> = section.lines().collect();
        let finds: Vec<_> = found.lines().collect();
        let gone = wrote.iter().filter(|line| !finds.contains(line));
        let new = finds.iter().filter(|line| !wrote.contains(line));
        let diff: String = gone
            .map(|line| format!("- {line}\n"))
            .chain(new.map(|line| format!("+ {line}\n")))
            .collect();
        bail!("{DOCUMENT} does not say what was found (UPDATE=1 rewrites it):\n{diff}");
    }
    ensure!(
        table.unexplained.is_empty(),
        "differences that nobody chose:\n{}",
        table.unexplained.join("\n")
    );
    Ok(())
}
