//! Goes through the worlds, and prints what was measured.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::Options;
use crate::cases::{Outcome, Row, Step, World, worlds};
use crate::rig::{BPFFS, Plan, Rig, Size, Target};

/// `TCX_NEXT`, XDP_PASS; `TC_ACT_REDIRECT`, XDP_TX and XDP_REDIRECT.
const PASSES: [u32; 2] = [u32::MAX, 2];
const SENT: [u32; 3] = [7, 3, 4];

/// New flows are told apart from a table that fills up: few enough of them.
const NEW_BURST: u32 = 1_024;

pub(crate) fn all(options: &Options) -> Result<()> {
    for (number, world) in worlds(&options.flows, &options.services).iter().enumerate() {
        let wanted = |row: &Row| row.name().contains(&options.only);
        let rows: Vec<&Row> = world
            .steps
            .iter()
            .filter_map(Step::row)
            .filter(|row| wanted(row))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let families = [false, true].map(|v6| rows.iter().any(|row| row.v6 == v6));
        let start = Instant::now();
        eprintln!("{} ({} Services present)", world.name, world.services);
        measure(world, options, number, families, &wanted)?;
        eprintln!("  {:.1} s", start.elapsed().as_secs_f32());
    }
    Ok(())
}

fn measure(
    world: &World,
    options: &Options,
    number: usize,
    families: [bool; 2],
    wanted: &dyn Fn(&Row) -> bool,
) -> Result<()> {
    let flows = options.flows.iter().copied().max().unwrap_or(1);
    let new: u32 = world
        .steps
        .iter()
        .filter_map(Step::row)
        .filter(|row| row.flows == 0)
        .count() as u32;
    let entries = 2 * (world.kinds * flows + new * options.rounds * NEW_BURST);
    let size = Size {
        flow_entries: entries + entries / 4,
        floor_entries: if world.kinds == 0 { flows } else { 1 },
        services: world.services,
    };
    let root = Path::new(BPFFS).join(format!("world-{number}"));
    let mut rig = Rig::new(size, &root)?;
    let result = walk(&mut rig, world, options, families, wanted);
    drop(rig);
    svc_agent::dataplane::cleanup(&root).context("cannot remove the pins")?;
    result
}

fn walk(
    rig: &mut Rig,
    world: &World,
    options: &Options,
    families: [bool; 2],
    wanted: &dyn Fn(&Row) -> bool,
) -> Result<()> {
    for step in &world.steps {
        match step {
            Step::Open(target, plan, flows) if families[usize::from(plan.is_v6())] => {
                rig.burst(*target, &mut plan.clone(), *flows)?;
            }
            Step::Flood(target, plan) if families[usize::from(plan.is_v6())] => {
                let mut plan = *plan;
                plan.counter = 1 << 29;
                let packets = rig.flow_entries;
                rig.burst(*target, &mut plan, packets)?;
            }
            Step::Measure(row) if wanted(row) => print(rig, row, world.services, options)?,
            _ => (),
        }
    }
    Ok(())
}

impl Step {
    fn row(&self) -> Option<&Row> {
        match self {
            Self::Measure(row) => Some(row),
            Self::Open(..) | Self::Flood(..) => None,
        }
    }
}

impl Plan {
    fn is_v6(&self) -> bool {
        self.addr_at == 34 || self.addr_at == 50
    }
}

fn print(rig: &mut Rig, row: &Row, services: u32, options: &Options) -> Result<()> {
    let packets = if row.flows == 0 {
        NEW_BURST
    } else {
        options.burst
    };
    let (mut plan, mut empty) = (row.plan, row.plan);
    check(rig, row, &mut plan).with_context(|| row.name())?;
    if row.flows > packets {
        rig.burst(row.program, &mut plan, row.flows)?;
    }
    let (mut floor, mut samples) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        floor.push(rig.burst(row.program.empty(), &mut empty, options.burst)?);
        samples.push(rig.burst(row.program, &mut plan, packets)?);
    }
    check(rig, row, &mut plan).with_context(|| format!("{}, at the end", row.name()))?;
    let (verified, machine_code) = rig.weight(row.program)?;
    let line = json!({
        "program": row.program.0,
        "case": row.case,
        "family": if row.v6 { "v6" } else { "v4" },
        "flows": row.flows,
        "services": services,
        "verified": verified,
        "machine_code": machine_code,
        "floor": floor,
        "samples": samples,
    });
    writeln!(std::io::stdout(), "{line}").context("cannot write the results")
}

/// A packet that does not do what its row says would be measured for nothing.
fn check(rig: &mut Rig, row: &Row, plan: &mut Plan) -> Result<()> {
    let before = rig.once(row.program.empty(), &mut plan.clone())?.1;
    let (action, after) = rig.once(row.program, plan)?;
    let changed = before != after;
    let good = match row.outcome {
        Outcome::Any => true,
        Outcome::Passes => PASSES.contains(&action) && !changed,
        Outcome::Rewritten => PASSES.contains(&action) && changed,
        Outcome::Sent => {
            SENT.contains(&action) && (changed || row.program == Target("node_ingress"))
        }
    };
    ensure!(
        good,
        "the packet was to be {:?}, but the action is {action}, and the frame {}: {after:02x?}",
        row.outcome,
        if changed {
            "has changed"
        } else {
            "is as it was"
        },
    );
    Ok(())
}
