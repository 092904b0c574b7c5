//! `cargo xtask demo`: the network of namespaces, an agent per node on the examples, and real connections, counted.

mod chart;
mod manifests;
mod stream;
mod ways;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::agents::{Agent, start_agents};
use xtask::topology::{self, Options, PODS, Topology};
use xtask::traffic::{Outcome, Probe, Running, spread, start_server};

use crate::build::{BuildArgs, build};
use chart::bars;
use manifests::Manifests;
use stream::Stream;
use ways::{REFUSED, WAYS};

/// What a demo that was kept is called.
const KEPT: &str = "svcpkeep";
const CONNECTIONS: usize = 100;
const TCP_PORTS: [u16; 9] = [80, 443, 3000, 5000, 5353, 6379, 8080, 9376, 49152];
const UDP_PORTS: [u16; 1] = [5353];

#[derive(clap::Args)]
pub struct DemoArgs {
    /// Leave it standing at the end, and say what to try.
    #[arg(long)]
    keep: bool,
    /// Remove what `--keep` left.
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

#[derive(clap::Args)]
pub struct EnterArgs {
    /// client, node1, node2, pod-a, pod-b, pod-c or pod-d.
    place: String,
    #[arg(last = true, default_value = "bash")]
    command: Vec<String>,
}

/// The demo as it stands. Dropping it removes all of it, whatever happened.
struct Demo {
    // Dropped first: processes, then what they run in.
    agents: Vec<Agent>,
    servers: Vec<(&'static str, Running)>,
    manifests: Manifests,
    topology: Topology,
    misses: usize,
}

pub fn demo(args: &DemoArgs) -> Result<ExitCode> {
    if args.remove {
        topology::remove(KEPT);
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and loads programs: run it as root"
    );
    build(BuildArgs::default())?;
    let start = Instant::now();
    let mut demo = Demo::start(args.keep)?;
    demo.show()?;
    println!(
        "\n{:.1} s; {}",
        start.elapsed().as_secs_f64(),
        match demo.misses {
            0 => "everything went as it should".to_owned(),
            misses => format!("{misses} things did not go as they should"),
        }
    );
    let code = if demo.misses == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if code == ExitCode::FAILURE {
        demo.print_logs();
    }
    if args.keep {
        demo.keep();
    }
    Ok(code)
}

/// A command in a place of the demo that was kept.
pub fn enter(args: &EnterArgs) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let topology = Topology::standing(KEPT)?;
    ensure!(
        topology
            .places()
            .iter()
            .any(|place| place.name == args.place),
        "there is no place {}",
        args.place
    );
    let (program, rest) = args.command.split_first().context("no command")?;
    Err(topology.command(&args.place, program)?.args(rest).exec())
        .with_context(|| format!("cannot run {program}"))
}

impl Demo {
    fn start(keep: bool) -> Result<Self> {
        let start = Instant::now();
        let name = keep.then(|| KEPT.to_owned());
        let topology = Topology::new(Options {
            name,
            ..Options::default()
        })?;
        let manifests = Manifests::copy_to(&topology.scratch().join("manifests"))?;
        let mut servers = Vec::new();
        for pod in PODS {
            servers.push((
                pod,
                start_server(&topology, pod, pod, &TCP_PORTS, &UDP_PORTS)?,
            ));
        }
        println!(
            "network: node1 (pod-a, pod-b), node2 (pod-c, pod-d), client; {:.1} s",
            start.elapsed().as_secs_f64()
        );
        let start = Instant::now();
        let agents = start_agents(&topology, &["--manifests", &manifests.folder()])?;
        println!(
            "svc-agent on both nodes, serving examples/*.yaml; {:.1} s",
            start.elapsed().as_secs_f64()
        );
        Ok(Self {
            agents,
            servers,
            manifests,
            topology,
            misses: 0,
        })
    }

    fn show(&mut self) -> Result<()> {
        println!("\n{CONNECTIONS} connections each way; who answered:");
        for (what, from, protocol, to, expected) in WAYS {
            let answers = Probe::new(protocol, to.parse()?)
                .count(CONNECTIONS)
                .run(&self.topology, from)?;
            let spread = spread(&answers);
            let right = spread
                .keys()
                .map(String::as_str)
                .eq(expected.iter().copied());
            self.note(right);
            println!(
                "{what:<36} {from:>6} → {to:<21} {}{}",
                bars(&spread),
                verdict(right)
            );
        }
        println!("db-headless and my-database are for DNS alone: nothing is proxied");

        println!("\nno endpoints (no-endpoints), no such port (web-app:81): refused at once");
        for (from, protocol, to) in REFUSED {
            let answers = Probe::new(protocol, to.parse()?)
                .connected()
                .run(&self.topology, from)?;
            let right = answers
                .iter()
                .all(|answer| answer.outcome == Outcome::Refused);
            let took = answers.first().context("a probe gave no answer")?.took;
            self.note(right);
            let outcome = if right { "refused" } else { "not refused" };
            println!(
                "{from:>43} → {to:<21} {outcome} after {:.1} ms ({protocol})",
                took.as_secs_f64() * 1e3
            );
        }
        self.change()
    }

    /// Changes what is behind web-app while connections to it go on.
    fn change(&mut self) -> Result<()> {
        let to: SocketAddr = "10.96.0.10:80".parse()?;
        println!("\nweb-app changes while pod-b keeps connecting to it:");
        let stream = Stream::start(&self.topology, "pod-b", to)?;
        stream.settle(Duration::from_millis(500));
        self.scene(
            &stream,
            "scale up: pod-d gets the label app=web-app",
            &["pod-a", "pod-c", "pod-d"],
            |demo| demo.manifests.edit("pod-d", "app: my-app", "app: web-app"),
        )?;
        self.scene(
            &stream,
            "pod-c is not ready any more",
            &["pod-a", "pod-d"],
            |demo| {
                demo.manifests
                    .edit("pod-c", "status: 'True'", "status: 'False'")
            },
        )?;
        self.scene(
            &stream,
            "pod-d is killed, and its Pod deleted",
            &["pod-a"],
            |demo| {
                let victim = demo
                    .servers
                    .iter_mut()
                    .find(|(name, _)| *name == "pod-d")
                    .context("pod-d has a server")?;
                victim.1.kill();
                demo.manifests.delete("pod-d")
            },
        )?;
        self.scene(
            &stream,
            "pod-c is ready again",
            &["pod-a", "pod-c"],
            |demo| {
                demo.manifests
                    .edit("pod-c", "status: 'False'", "status: 'True'")
            },
        )
    }

    fn scene(
        &mut self,
        stream: &Stream,
        what: &str,
        expected: &[&str],
        change: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        println!("  {what}");
        let begin = Instant::now();
        change(self)?;
        let followed = stream.follows(expected, begin, Duration::from_secs(5));
        sleep(Duration::from_millis(300));
        let since = stream.since(begin);
        let failed = since.iter().filter(|answer| answer.by().is_none()).count();
        let spread = stream.last(CONNECTIONS);
        self.note(followed.is_some());
        match followed {
            Some(after) => println!(
                "    followed after {:.0} ms; {failed} of {} connections failed meanwhile",
                after.as_secs_f64() * 1e3,
                since.len()
            ),
            None => println!("    not followed"),
        }
        println!("    {}{}", bars(&spread), verdict(followed.is_some()));
        Ok(())
    }

    fn note(&mut self, right: bool) {
        self.misses += usize::from(!right);
    }

    fn print_logs(&self) {
        for agent in &self.agents {
            eprintln!("\nlog of svc-agent on {}:\n{}", agent.node, agent.log());
        }
    }

    fn keep(mut self) {
        let agent =
            xtask::programs::workspace_binary("svc-agent").unwrap_or_else(|_| "svc-agent".into());
        println!("\nIt stands. Try:");
        println!("  cargo xtask enter pod-b -- curl -s http://10.96.0.10");
        println!("  cargo xtask enter client");
        println!(
            "  {} get services --bpf-root {}",
            agent.display(),
            self.topology.bpf_root("node1").display()
        );
        println!("  edit {}", self.manifests.folder());
        println!(
            "  less {}",
            self.agents
                .first()
                .map_or_else(String::new, |a| a.log_file.display().to_string())
        );
        println!("  cargo xtask demo --remove");
        self.topology.keep();
        std::mem::forget(self);
    }
}

fn verdict(right: bool) -> &'static str {
    if right {
        ""
    } else {
        "  ← not as it should be"
    }
}
