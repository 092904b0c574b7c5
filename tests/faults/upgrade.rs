//! Another version takes over what the last one left, or leaves it alone and says so; traffic goes on in either case.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::HashMap;
use svc_tests::lab::{Lab, Way};
use xtask::topology::NODES;

use crate::changes;
use crate::load::{Load, clients};
use crate::{BOTH, Case, Form, SHORT};

pub const CASES: &[Case] = &[
    Case {
        name: "other_programs_take_the_place_of_those_that_run",
        forms: BOTH,
        test: other_programs,
    },
    Case {
        name: "maps_of_another_layout_are_filled_anew_beside_those_in_use",
        forms: BOTH,
        test: other_maps,
    },
    Case {
        name: "what_cannot_be_read_is_refused_and_goes_on_carrying_traffic",
        forms: SHORT,
        test: unreadable,
    },
];

/// Does something to a lab under load, and holds that nothing was lost by it.
fn under_load(
    conversations: usize,
    work: impl FnOnce(&mut Lab, &mut Load) -> Result<()>,
) -> Result<()> {
    changes::in_lab(|lab| {
        let mut load = Load::start(&lab.topology, &clients(lab), conversations)?;
        work(lab, &mut load)?;
        load.stop()?.check()
    })
}

/// What is counted is a constant of the programs: each setting is another object.
const COUNTED: [&str; 3] = ["off", "traffic", "connections"];

fn other_programs(form: Form) -> Result<()> {
    under_load(form.pick(5, 26), |lab, load| {
        let (before, links) = (maps(lab)?, links(lab)?);
        for round in 0..form.pick(3, 30) {
            stop(lab)?;
            changes::forget_logs(lab)?;
            lab.start(&["--service-metrics", COUNTED[round % 3]])?;
            let wrote = changes::written_at_start(lab)?;
            ensure!(wrote == [0, 0], "{wrote:?} map entries written");
            ensure!(maps(lab)? == before, "the maps are not as they were");
            ensure!(self::links(lab)? == links, "a link was not kept");
            load.still()?;
        }
        Ok(())
    })
}

/// By round, maps that are as another version may have them. To the agent it is the same whether that is a pin that was put
/// there or the map of the programs that run.
const OTHERS: [&[&str]; 3] = [&["BACKENDS_V4"], &["CONFIG", "SLOTS_V6"], &["REASONS"]];

fn other_maps(form: Form) -> Result<()> {
    under_load(form.pick(5, 26), |lab, load| {
        let links = links(lab)?;
        let mut other = false;
        for round in 0..form.pick(3, 30) {
            stop(lab)?;
            for root in NODES.map(|node| lab.topology.bpf_root(node).join("v1")) {
                for name in OTHERS[round % OTHERS.len()] {
                    of_other_sizes(&root.join("aside"))?;
                    fs::rename(root.join("aside"), root.join("maps").join(name))?;
                }
            }
            other = !other;
            changes::write(lab, other)?;
            changes::forget_logs(lab)?;
            if round % 2 == 1 {
                let agents = changes::start(lab)?;
                sleep(Duration::from_millis(round as u64 * 331 % 3000));
                drop(agents);
                load.still()?;
            }
            lab.start(&[])?;
            changes::wait_for(lab, other)?;
            let pods = if other {
                ["pod-a", "pod-c", "pod-d"]
            } else {
                ["pod-a", "pod-b", "pod-c"]
            };
            for way in Way::ALL {
                lab.answered_afresh(
                    "client",
                    way.protocol,
                    way.node_port(lab, "node2", 1),
                    &pods,
                )?;
                lab.answered_afresh("pod-d", way.protocol, way.cluster_ip(1), &pods)?;
            }
            ensure!(self::links(lab)? == links, "a link was not kept");
            for agent in &lab.agents {
                ensure!(
                    agent.log().contains("maps are replaced"),
                    "{} has not replaced the maps",
                    agent.node
                );
                let beside = lab.topology.bpf_root(agent.node).join("v1/next");
                ensure!(!beside.exists(), "{} is left", beside.display());
            }
            load.still()?;
        }
        Ok(())
    })
}

fn of_other_sizes(path: &Path) -> Result<()> {
    Ok(HashMap::<_, [u8; 20], [u8; 12]>::create(16, 0)?.pin(path)?)
}

fn stop(lab: &mut Lab) -> Result<()> {
    lab.agents
        .iter_mut()
        .try_for_each(|agent| agent.stop().map(drop))
}

fn maps(lab: &Lab) -> Result<Vec<String>> {
    let nodes = NODES.into_iter();
    nodes
        .map(|node| Ok(format!("{:?}", lab.maps(node)?)))
        .collect()
}

/// Every pinned link with the inode of its pin: a link that was made anew has another.
fn links(lab: &Lab) -> Result<BTreeMap<PathBuf, u64>> {
    let mut links = BTreeMap::new();
    for node in NODES {
        for pin in fs::read_dir(lab.topology.bpf_root(node).join("v1/links"))? {
            let pin = pin?;
            links.insert(pin.path(), pin.metadata()?.ino());
        }
    }
    Ok(links)
}

/// Something that no agent of ours has pinned.
type Foreign = (&'static str, &'static str, fn(&Path, &Path) -> Result<()>);

const FOREIGN: [Foreign; 3] = [
    // Connections are in there, which nobody can make anew.
    ("flows of another layout", "FLOWS_V4", |_, path| {
        of_other_sizes(path)
    }),
    ("a folder", "BACKENDS_V4", |_, path| {
        Ok(fs::create_dir(path)?)
    }),
    ("a link", "BACKENDS_V4", |links, path| {
        let pin = fs::read_dir(links)?.next().context("no link")??;
        // Links can be pinned twice, and a pin cannot be linked to.
        let link = aya::programs::links::PinnedLink::from_pin(pin.path())?;
        Ok(aya::programs::links::FdLink::from(link)
            .pin(path)
            .map(drop)?)
    }),
];

fn unreadable(_: Form) -> Result<()> {
    under_load(5, |lab, load| {
        for (what, name, put) in FOREIGN {
            let root = lab.topology.bpf_root("node1").join("v1");
            let (pin, aside) = (root.join("maps").join(name), root.join("aside"));
            lab.agents[0].stop()?;
            fs::rename(&pin, &aside)?;
            put(&root.join("links"), &pin)?;
            let flags = lab.flags();
            let output = lab.topology.agent("node1", "run")?.args(flags).output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let line = said.lines().last().unwrap_or_default();
            println!("{what}: {line}");
            ensure!(output.status.code() == Some(1), "{what}: {}", output.status);
            for part in [
                &pin.display().to_string(),
                "its traffic goes on",
                "svc-agent cleanup",
            ] {
                ensure!(line.contains(part), "{what}: no {part:?} in {line:?}");
            }
            load.still()?;
            if pin.is_dir() {
                fs::remove_dir(&pin)?;
            }
            // Over what is there, if it is no folder.
            fs::rename(&aside, &pin)?;
            lab.agents.clear();
            changes::forget_logs(lab)?;
            lab.start(&[])?;
            let wrote = changes::written_at_start(lab)?;
            ensure!(wrote == [0, 0], "{what}: {wrote:?} map entries written");
        }
        Ok(())
    })
}
