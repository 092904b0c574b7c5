//! What the agents hold: pins, table entries, descriptors, threads, memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::agents::Agent;
use xtask::topology::{Topology, in_namespace};

const METRICS: u16 = 10249;
/// Between the time when everything runs and the end.
const MOST_GROWTH: u64 = 16 << 20;

/// Of both nodes.
pub(super) struct Figures([OfNode; 2]);

struct OfNode {
    node: &'static str,
    pins: BTreeSet<String>,
    /// `svcplane_table_entries`.
    tables: BTreeMap<String, u64>,
    /// `svcplane_not_forwarded_total`.
    dropped: BTreeMap<String, u64>,
    descriptors: usize,
    programs: usize,
    threads: usize,
    resident: u64,
}

impl Figures {
    pub(super) fn read(topology: &Topology, agents: &[Agent]) -> Result<Self> {
        let of = |number: usize| OfNode::read(topology, agents.get(number).context("no agent")?);
        Ok(Self([of(0)?, of(1)?]))
    }

    pub(super) fn resident(&self) -> [u64; 2] {
        self.0.each_ref().map(|node| node.resident)
    }

    /// What the programs did not forward since then, by reason.
    pub(super) fn dropped_since(&self, before: &Self) -> String {
        let mut said = Vec::new();
        for (before, after) in before.0.iter().zip(&self.0) {
            for (reason, count) in &after.dropped {
                let was = before.dropped.get(reason).copied().unwrap_or_default();
                // The counters live as long as the maps do.
                if *count > was {
                    said.push(format!("{} × {reason} on {}", count - was, after.node));
                }
            }
        }
        match said.len() {
            0 => "everything was forwarded".to_owned(),
            _ => format!("not forwarded: {}", said.join("; ")),
        }
    }

    pub(super) fn memory(&self) -> String {
        let of = |node: &OfNode| {
            format!(
                "{}: {:.1} MiB, {} descriptors, {} threads",
                node.node,
                node.resident as f64 / f64::from(1 << 20),
                node.descriptors,
                node.threads
            )
        };
        format!("{}; {}", of(&self.0[0]), of(&self.0[1]))
    }
}

impl OfNode {
    fn read(topology: &Topology, agent: &Agent) -> Result<Self> {
        let process = format!("/proc/{}", agent.process.0.id());
        let mut pins = BTreeSet::new();
        for kind in ["maps", "links"] {
            let folder = topology.bpf_root(agent.node).join("v1").join(kind);
            for entry in fs::read_dir(&folder)?.flatten() {
                pins.insert(entry.file_name().to_string_lossy().into_owned());
            }
        }
        let metrics = metrics(topology, agent.node)?;
        let (mut descriptors, mut programs) = (0, 0);
        for entry in fs::read_dir(format!("{process}/fdinfo"))?.flatten() {
            descriptors += 1;
            let info = fs::read_to_string(entry.path()).unwrap_or_default();
            programs += usize::from(info.contains("prog_id:"));
        }
        let status = fs::read_to_string(format!("{process}/status"))?;
        let resident = status.lines().find_map(|line| {
            let kib = line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?;
            kib.parse::<u64>().ok()
        });
        Ok(Self {
            node: agent.node,
            pins,
            tables: series(&metrics, "svcplane_table_entries"),
            dropped: series(&metrics, "svcplane_not_forwarded_total"),
            descriptors,
            programs,
            threads: fs::read_dir(format!("{process}/task"))?.count(),
            resident: resident.context("the agent says no VmRSS")? * 1024,
        })
    }
}

fn metrics(topology: &Topology, node: &str) -> Result<String> {
    in_namespace(&topology.place(node).namespace_file(), || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// Labels and values of one name.
fn series(metrics: &str, name: &str) -> BTreeMap<String, u64> {
    let lines = metrics.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.split_once("} ")?;
        let labels = labels.strip_prefix('{')?.to_owned();
        Some((labels, value.parse::<f64>().ok()? as u64))
    });
    lines.collect()
}

/// What is more, or other, than before; `warmed`: the memory when everything ran.
pub(super) fn compare(
    before: &Figures,
    after: &Figures,
    warmed: Option<[u64; 2]>,
    wrong: &mut Vec<String>,
) {
    for (number, (before, after)) in before.0.iter().zip(&after.0).enumerate() {
        let node = after.node;
        let mut note = |what: String| wrong.push(format!("{node}: {what}"));
        if before.pins != after.pins {
            let other: Vec<_> = before.pins.symmetric_difference(&after.pins).collect();
            note(format!("pins that came or went: {other:?}"));
        }
        if before.tables != after.tables || before.tables.is_empty() {
            note(format!(
                "entries: {:?}, were {:?}",
                after.tables, before.tables
            ));
        }
        for (what, was, is) in [
            ("descriptors", before.descriptors, after.descriptors),
            ("programs", before.programs, after.programs),
            ("threads", before.threads, after.threads),
        ] {
            if is > was {
                note(format!("{is} {what}, were {was}"));
            }
        }
        // That of node2 may be another process than the one that was measured.
        if let Some(was) = warmed.map(|warmed| warmed[number])
            && after.resident > was + MOST_GROWTH
        {
            note(format!("{} bytes of memory, were {was}", after.resident));
        }
    }
}
