//! Goes through the worlds, and prints what was measured.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::Options;
use crate::cases::{Outcome, Rhythm, Row, Step, World, worlds};
use crate::rig::{BPFFS, Plan, Rig, Size, Target};
use crate::sockets;

/// `TCX_NEXT`, XDP_PASS; `TC_ACT_REDIRECT`, XDP_TX and XDP_REDIRECT.
const PASSES: [u32; 2] = [u32::MAX, 2];
const SENT: [u32; 3] = [7, 3, 4];

/// New flows are told apart from a table that fills up: few enough of them.
const NEW_BURST: u32 = 1_024;

pub(crate) fn all(options: &Options) -> Result<()> {
    for (number, world) in worlds(&options.flows, &options.services).iter().enumerate() {
        let wanted = |row: &Row| row.name().contains(&options.only);
        let rows = || world.steps.iter().filter_map(Step::row);
        let sockets = world.steps.iter().any(|step| matches!(step, Step::Sockets))
            && !sockets::calls(&options.only).is_empty();
        if !sockets && !rows().any(&wanted) {
            continue;
        }
        let families = [false, true].map(|v6| rows().any(|row| row.v6() == v6 && wanted(row)));
        let start = Instant::now();
        eprintln!("{} ({} Services present)", world.name, world.services);
        measure(world, options, number, families)?;
        eprintln!("  {:.1} s", start.elapsed().as_secs_f32());
    }
    Ok(())
}

fn measure(world: &World, options: &Options, number: usize, families: [bool; 2]) -> Result<()> {
    let flows = options.flows.iter().copied().max().unwrap_or(1);
    let new: u32 = world
        .steps
        .iter()
        .filter_map(Step::row)
        .filter(|row| row.flows() == 0)
        .count() as u32;
    let entries = world.kinds * flows + new * options.rounds * NEW_BURST;
    let size = Size {
        flow_entries: entries + entries / 4,
        floor_entries: if world.name == "floors" { flows } else { 1 },
        services: world.services,
        counted: options.counted,
    };
    let root = Path::new(BPFFS).join(format!("world-{number}"));
    let mut rig = Rig::new(size, &root)?;
    let result = walk(&mut rig, world, options, families);
    drop(rig);
    let removal = svc_agent::dataplane::cleanup(&root, Path::new("/proc"));
    ensure!(
        removal.failed.is_empty(),
        "cannot remove the pins: {}",
        removal.failed.join("; ")
    );
    result
}

fn walk(rig: &mut Rig, world: &World, options: &Options, families: [bool; 2]) -> Result<()> {
    for step in &world.steps {
        match step {
            Step::Open(target, plan) if families[usize::from(plan.is_v6())] => {
                rig.burst(*target, &mut plan.clone(), plan.mask + 1)?;
            }
            Step::Flood(target, plan) if families[usize::from(plan.is_v6())] => {
                let mut plan = *plan;
                plan.counter = 1 << 29;
                let packets = rig.flow_entries;
                rig.burst(*target, &mut plan, packets)?;
            }
            Step::Sockets => sockets::measure(rig, world.services, options)?,
            Step::Measure(row) if row.name().contains(&options.only) => {
                run(rig, row, world.services, options)?
            }
            _ => (),
        }
    }
    Ok(())
}

impl Step {
    fn row(&self) -> Option<&Row> {
        match self {
            Self::Measure(row) => Some(row),
            Self::Open(..) | Self::Flood(..) | Self::Sockets => None,
        }
    }
}

/// Bursts of a row, alternating with those of an empty program.
fn run(rig: &mut Rig, row: &Row, services: u32, options: &Options) -> Result<()> {
    let (mut plan, mut empty) = (row.plan, row.plan);
    check(rig, row, &mut plan).with_context(|| row.name())?;
    let packets = match row.rhythm {
        Rhythm::Busy if row.flows() > 0 => options.burst,
        Rhythm::Busy => NEW_BURST,
        // No flow twice.
        Rhythm::AfterSilence => (row.flows() / (options.rounds + 1)).min(options.burst),
    };
    match row.rhythm {
        Rhythm::Busy if row.flows() > packets => {
            rig.burst(row.program, &mut plan, row.flows())?;
        }
        Rhythm::Busy => (),
        Rhythm::AfterSilence => std::thread::sleep(Duration::from_millis(2_100)),
    }
    let (mut floor, mut samples) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        floor.push(rig.burst(row.program.empty(), &mut empty, options.burst)?);
        samples.push(rig.burst(row.program, &mut plan, packets)?);
    }
    check(rig, row, &mut plan).with_context(|| format!("{}, at the end", row.name()))?;
    tell(&Cost {
        program: row.program.0,
        case: row.case,
        v6: row.v6(),
        flows: row.flows(),
        services,
        weight: rig.weight(row.program)?,
        floor: &floor,
        samples: &samples,
    })
}

/// What became of a row.
pub(crate) struct Cost<'a> {
    pub(crate) program: &'a str,
    pub(crate) case: &'a str,
    pub(crate) v6: bool,
    pub(crate) flows: u32,
    pub(crate) services: u32,
    /// Verified instructions, bytes of machine code.
    pub(crate) weight: (u32, u32),
    /// Nanoseconds of a packet or call without the program, burst by burst.
    pub(crate) floor: &'a [f64],
    pub(crate) samples: &'a [f64],
}

pub(crate) fn tell(cost: &Cost<'_>) -> Result<()> {
    let line = json!({
        "program": cost.program,
        "case": cost.case,
        "family": if cost.v6 { "v6" } else { "v4" },
        "flows": cost.flows,
        "services": cost.services,
        "verified": cost.weight.0,
        "machine_code": cost.weight.1,
        "floor": cost.floor,
        "samples": cost.samples,
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
