//! `cargo xtask soak`: everything at once for as long as one likes, and then whether anything was lost or left behind.
//!
//! Clients in pods, on nodes and outside connect all the time, and talk on connections that stay; endpoints come and go;
//! one node's agent is killed and restarted over and over, the other's runs throughout; spoofed SYNs and datagrams come in
//! from outside; devices and addresses come and go.

mod figures;
mod flood;
mod load;
mod trouble;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::agents::{Agent, start_agents};
use xtask::topology::{NODES, Options, PODS, Topology};
use xtask::traffic::{Running, start_server};

use crate::build::{BuildArgs, build};
use figures::{Figures, compare};
use load::Load;
use trouble::Manifests;

#[derive(clap::Args)]
pub struct SoakArgs {
    /// How long.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Spoofed packets a second, while it floods.
    #[arg(long, default_value_t = 500)]
    flood: u32,
}

/// Between two lines that say how it goes.
const SAY: Duration = Duration::from_secs(60);
/// Programs are verified, tables filled, allocators warm.
const WARM_UP: Duration = Duration::from_secs(15);

/// What everybody does until it is over.
pub struct Soak {
    topology: Topology,
    /// Of node1 and node2; only that of node2 is restarted.
    agents: Mutex<Vec<Agent>>,
    manifests: Manifests,
    over: AtomicBool,
}

impl Soak {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Sleeps, but not past the end.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_over() && Instant::now() < until {
            sleep(Duration::from_millis(50).min(time));
        }
    }
}

pub fn soak(args: &SoakArgs) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the soak makes network namespaces and loads programs: run it as root"
    );
    build(BuildArgs::default())?;
    let topology = Topology::new(Options::default())?;
    let manifests = Manifests::new(&topology)?;
    let _servers: Vec<Running> = PODS
        .iter()
        .map(|pod| start_server(&topology, pod, pod, &[8080], &[5353]))
        .collect::<Result<_>>()?;
    let folder = manifests.folder.display().to_string();
    let flags = ["--manifests", &folder, "-v", "1"];
    let agents = start_agents(&topology, &flags)?;
    let soak = Soak {
        topology,
        agents: Mutex::new(agents),
        manifests,
        over: AtomicBool::new(false),
    };
    let load = Load::default();
    let before = soak.figures()?;
    let counts = run(&soak, &load, args, &flags)?;
    soak.manifests.calm()?;
    let wrong = soak.verdict(&before, &load)?;
    println!("{}", load.summary());
    println!("{counts}");
    for line in &wrong {
        println!("WRONG: {line}");
    }
    match wrong.len() {
        0 => println!("nothing was lost, and nothing is left behind"),
        n => println!("{n} things are not as they should be"),
    }
    Ok(if wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        for agent in soak.agents.lock().iter().flat_map(|agents| agents.iter()) {
            println!("--- {}\n{}", agent.node, last_lines(&agent.log()));
        }
        ExitCode::FAILURE
    })
}

fn last_lines(log: &str) -> String {
    const MANY: usize = 60;
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("DEBUG")).collect();
    lines[lines.len().saturating_sub(MANY)..].join("\n")
}

/// However it goes on here, the others are to end.
struct Ends<'a>(&'a Soak);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// Everything at once, until the time is over; what was done, in words.
fn run(soak: &Soak, load: &Load, args: &SoakArgs, flags: &[&str]) -> Result<String> {
    let mut conversations = load::conversations(&soak.topology)?;
    let (start, time) = (
        Instant::now(),
        Duration::from_secs_f64(args.minutes.max(0.5) * 60.0),
    );
    scope(|threads| {
        let end = Ends(soak);
        for stream in load::streams(&soak.topology) {
            threads.spawn(move || load.connect(soak, &stream));
        }
        let churn = threads.spawn(|| trouble::churn(soak));
        let restarts = threads.spawn(|| trouble::restarts(soak, flags));
        let flaps = threads.spawn(|| trouble::flaps(soak));
        let flood = threads.spawn(|| flood::flood(soak, args.flood));
        let mut said = start + WARM_UP;
        while start.elapsed() < time {
            load.talk(&mut conversations);
            if Instant::now() > said {
                said = Instant::now() + SAY;
                let figures = soak.figures()?;
                println!(
                    "{:>4} s: {}; {}",
                    start.elapsed().as_secs(),
                    load.summary(),
                    figures.memory()
                );
                // What comes later is held against what is there now.
                load.warm(figures.resident());
            }
            sleep(Duration::from_millis(500));
        }
        drop(end);
        let done = |thread: std::thread::ScopedJoinHandle<'_, Result<u64>>, what: &str| {
            let outcome = thread.join();
            let outcome = outcome.map_err(|_| anyhow::anyhow!("{what} panicked"))?;
            outcome.with_context(|| what.to_owned())
        };
        let counts = format!(
            "{} changes of endpoints, {} restarts, {} flaps of devices and addresses, {} spoofed packets",
            done(churn, "changes of endpoints")?,
            done(restarts, "restarts")?,
            done(flaps, "flaps of devices")?,
            done(flood, "the flood")?,
        );
        load.talk(&mut conversations);
        Ok(counts)
    })
}

impl Soak {
    fn figures(&self) -> Result<Figures> {
        let agents = self
            .agents
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Figures::read(&self.topology, &agents)
    }

    /// What is not as it was, or as it should be.
    fn verdict(&self, before: &Figures, load: &Load) -> Result<Vec<String>> {
        let mut wrong = load.wrong();
        // Runs of slots are freed after a grace, threads that nobody needs end by themselves.
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut differences = Vec::new();
        loop {
            let after = self.figures()?;
            differences.clear();
            compare(before, &after, load.warmed(), &mut differences);
            if differences.is_empty() || Instant::now() > deadline {
                println!("{}; {}", after.memory(), after.dropped_since(before));
                break;
            }
            sleep(Duration::from_secs(1));
        }
        wrong.append(&mut differences);
        let folder = self.manifests.folder.display().to_string();
        for node in NODES {
            let diff = self
                .topology
                .agent(node, "diff")?
                .args(["--manifests", &folder])
                .output()?;
            if !diff.status.success() {
                let text = String::from_utf8_lossy(&diff.stdout).into_owned();
                wrong.push(format!("the maps of {node} are not as wanted: {text}"));
            }
        }
        let mut agents = self
            .agents
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for agent in agents.iter_mut() {
            for line in agent.log().lines() {
                if line.contains("ERROR") || line.contains("panicked") {
                    wrong.push(format!("{} says: {line}", agent.node));
                }
            }
            agent.stop()?;
        }
        for node in NODES {
            let cleanup = self.topology.agent(node, "cleanup")?.output()?;
            let text = String::from_utf8_lossy(&cleanup.stdout).into_owned()
                + &String::from_utf8_lossy(&cleanup.stderr);
            if !cleanup.status.success() || !text.contains("nothing is left") {
                wrong.push(format!("cleanup on {node}: {}", text.trim()));
            }
        }
        Ok(wrong)
    }
}
