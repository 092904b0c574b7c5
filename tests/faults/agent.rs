//! Agents die, in every way and at any moment; clients see nothing of it, and whoever comes next writes what changed.

use std::os::unix::process::ExitStatusExt;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use svc_tests::lab::Lab;
use xtask::agents::Agent;

use crate::changes;
use crate::load::{Load, clients};
use crate::oom::MemoryCgroup;
use crate::{BOTH, Case, Form};

pub const CASES: &[Case] = &[Case {
    name: "nothing_is_lost_when_agents_die_and_come_back",
    forms: BOTH,
    test: deaths,
}];

/// How an agent ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    Terminated,
    OutOfMemory,
    /// Once more while the next one starts: loads, attaches, reads, writes.
    KilledAgain,
}

/// When the endpoints change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Never,
    /// While no agent runs.
    Away,
    /// As late as it dies with the change half-written, or not yet seen.
    Before,
}

const ENDS: [End; 4] = [
    End::Killed,
    End::Terminated,
    End::OutOfMemory,
    End::KilledAgain,
];
const WHENS: [When; 3] = [When::Away, When::Before, When::Never];

fn deaths(form: Form) -> Result<()> {
    changes::in_lab(|lab| with_lab(form, lab))
}

fn with_lab(form: Form, lab: &mut Lab) -> Result<()> {
    let cost = changes::cost(lab)?;
    let memory = MemoryCgroup::new(&lab.topology.name);
    if memory.is_none() {
        println!("no memory cgroup here: SIGKILL stands for the OOM killer, which sends it");
    }
    let mut load = Load::start(&lab.topology, &clients(lab), form.pick(5, 26))?;
    let (mut other, mut most, mut latest) = (false, 0, Duration::ZERO);
    for round in 0..form.pick(4, 100) {
        let (end, when) = (ENDS[round % ENDS.len()], WHENS[round % WHENS.len()]);
        other ^= when != When::Never;
        let change = |at: When, lab: &Lab| match when == at {
            true => changes::write(lab, other),
            false => Ok(()),
        };
        change(When::Before, lab)?;
        // From before it is seen until after it is written.
        sleep(Duration::from_millis(round as u64 * 7 % 30));
        for agent in &mut lab.agents {
            die(agent, end, memory.as_ref())?;
        }
        sleep(Duration::from_millis(100));
        change(When::Away, lab)?;
        load.still()?;
        if matches!(end, End::KilledAgain) {
            let agents = changes::start(lab)?;
            sleep(Duration::from_millis(round as u64 * 131 % 2500));
            drop(agents);
        }
        changes::forget_logs(lab)?;
        lab.start(&[])?;
        latest = latest.max(changes::wait_for(lab, other)?);
        let wrote = changes::written_at_start(lab)?;
        let allowed = if when == When::Never { 0 } else { cost };
        ensure!(
            wrote.iter().all(|entries| *entries <= allowed),
            "round {round}, {end:?}, change {when:?}: a restart wrote {wrote:?} map entries; a running agent writes {allowed}"
        );
        most = most.max(wrote.into_iter().max().unwrap_or(0));
        load.still()?;
    }
    println!(
        "{} deaths of each agent; all changes followed, the latest {latest:?} after the start; a restart wrote {most} map \
         entries at most, a running agent {cost} for the same",
        form.pick(4, 100)
    );
    load.stop()?.check()
}

fn die(agent: &mut Agent, end: End, memory: Option<&MemoryCgroup>) -> Result<()> {
    match (end, memory) {
        (End::Terminated, _) => {
            let status = agent.stop()?;
            ensure!(status.success(), "{} ended with {status}", agent.node);
            return Ok(());
        }
        (End::OutOfMemory, Some(memory)) => memory.end(agent)?,
        _ => agent.process.kill(),
    }
    let status = agent.process.0.wait()?;
    ensure!(
        status.signal() == Some(Signal::SIGKILL as i32),
        "{} ended with {status}",
        agent.node
    );
    Ok(())
}
