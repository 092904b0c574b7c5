//! The load that goes on while something goes wrong: clients that connect anew all the time, by every way, and
//! conversations that stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ChildStdout, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use svc_tests::lab::{Lab, Way};
use xtask::topology::{Topology, in_namespace};
use xtask::traffic::{Answer, Conversation, Probe, Protocol, Running};

/// A client, by its place, its protocol and whom it asks.
pub type Client = (&'static str, Protocol, SocketAddr);

/// Pod to ClusterIP and outside to NodePort, both families and protocols, to the first Service of the lab.
pub fn clients(lab: &Lab) -> Vec<Client> {
    let of = |way: Way| {
        [
            ("pod-d", way.protocol, way.cluster_ip(1)),
            ("client", way.protocol, way.node_port(lab, "node1", 1)),
        ]
    };
    Way::ALL.into_iter().flat_map(of).collect()
}

/// An answer takes longer than this on no machine, however busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two connections of one client. UDP flows are remembered for two minutes: more of them than this, and one backend's
/// ports for masquerading come to be hard to find.
fn pause(protocol: Protocol) -> Duration {
    Duration::from_millis(match protocol {
        Protocol::Tcp => 1,
        Protocol::Udp => 10,
    })
}
/// More than any test lasts; the clients are killed before.
const ENDLESS: usize = 100_000_000;

pub struct Load {
    /// Where clients are: their network namespaces.
    places: BTreeSet<PathBuf>,
    streams: Vec<Stream>,
    crowds: Vec<(Client, Conversation)>,
    start: Instant,
    repeated: u64,
    pub report: Report,
}

struct Stream {
    client: Client,
    process: Running,
    reader: JoinHandle<Result<Tally>>,
}

/// What became of one client's connections.
#[derive(Default)]
struct Tally {
    by: BTreeMap<String, u64>,
    failed: Vec<String>,
    slowest: Duration,
}

/// What was done, and what was lost.
#[derive(Debug, Default)]
pub struct Report {
    pub took: Duration,
    pub by: BTreeMap<String, u64>,
    pub failed: Vec<String>,
    pub slowest: Duration,
    /// SYNs that were sent again, in the clients' places.
    pub repeated: u64,
    pub conversations: usize,
    pub said: u64,
    pub broken: Vec<String>,
}

impl Load {
    /// Starts the clients, and so many conversations of each.
    pub fn start(topology: &Topology, clients: &[Client], conversations: usize) -> Result<Self> {
        let mut crowds = Vec::new();
        for &(from, protocol, to) in clients {
            let crowd = Conversation::crowd(topology, from, protocol, to, conversations)?;
            crowds.push(((from, protocol, to), crowd));
        }
        let mut load = Self {
            places: clients
                .iter()
                .map(|(from, ..)| topology.place(from).namespace_file())
                .collect(),
            streams: Vec::new(),
            crowds,
            start: Instant::now(),
            repeated: 0,
            report: Report::default(),
        };
        load.report.conversations = conversations * clients.len();
        load.still()?;
        load.repeated = load.repeated_syns()?;
        load.start = Instant::now();
        for &client in clients {
            let (from, protocol, to) = client;
            let probe = Probe::new(protocol, to)
                .count(ENDLESS)
                .timeout(PATIENCE)
                .pause(pause(protocol));
            let mut child = probe
                .command(topology, from)?
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start a client")?;
            let stdout = child.stdout.take().context("the client has no stdout")?;
            load.streams.push(Stream {
                client,
                process: Running(child),
                reader: std::thread::spawn(move || tally(stdout)),
            });
        }
        Ok(load)
    }

    /// Every conversation says something; those that are not answered are noted.
    pub fn still(&mut self) -> Result<()> {
        for ((from, protocol, to), crowd) in &mut self.crowds {
            let answers = crowd
                .say_all()
                .with_context(|| format!("{from} → {protocol} {to}"))?;
            self.report.said += answers.len() as u64;
            let lost = answers.iter().filter(|answer| answer.by().is_none());
            self.report
                .broken
                .extend(lost.map(|answer| format!("{from} → {protocol} {to}: {answer}")));
        }
        Ok(())
    }

    /// Ends it, and says what became of it.
    pub fn stop(mut self) -> Result<Report> {
        self.still()?;
        self.report.took = self.start.elapsed();
        self.report.repeated = self.repeated_syns()?.saturating_sub(self.repeated);
        for mut stream in std::mem::take(&mut self.streams) {
            ensure!(
                stream.process.0.try_wait()?.is_none(),
                "the client {:?} has ended by itself",
                stream.client
            );
            stream.process.kill();
            let joined = stream.reader.join();
            let tally = joined.map_err(|_| anyhow!("a reader panicked"))??;
            let (from, protocol, to) = stream.client;
            ensure!(
                !tally.by.is_empty(),
                "{from} → {protocol} {to}: no answer at all"
            );
            let failed = tally.failed.into_iter();
            self.report
                .failed
                .extend(failed.map(|why| format!("{from} → {protocol} {to}: {why}")));
            self.report.slowest = self.report.slowest.max(tally.slowest);
            for (name, count) in tally.by {
                *self.report.by.entry(name).or_default() += count;
            }
        }
        Ok(self.report)
    }

    /// SYNs that were sent again, in the places that clients are in.
    fn repeated_syns(&self) -> Result<u64> {
        let mut sum = 0;
        for place in &self.places {
            let text = in_namespace(place, || {
                Ok(fs::read_to_string("/proc/thread-self/net/netstat")?)
            })?;
            sum += counter(&text, "TcpExt:", "TCPSynRetrans").context("no TCPSynRetrans")?;
        }
        Ok(sum)
    }
}

impl Report {
    /// Nothing was lost.
    pub fn check(&self) -> Result<()> {
        println!("{self}");
        let some = |lost: &[String]| lost.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        ensure!(self.failed.is_empty(), "{self}: {}", some(&self.failed));
        ensure!(self.broken.is_empty(), "{self}: {}", some(&self.broken));
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.by.values().sum::<u64>() + self.failed.len() as u64;
        write!(
            f,
            "{connections} new connections in {:.1} s ({:.0}/s), {} failed, the slowest took {:.0} ms, {} SYNs sent again; \
             {} conversations of {} answers, {} broken",
            self.took.as_secs_f64(),
            connections as f64 / self.took.as_secs_f64(),
            self.failed.len(),
            self.slowest.as_secs_f64() * 1e3,
            self.repeated,
            self.conversations,
            self.said,
            self.broken.len()
        )
    }
}

/// The answers that a probe prints, until it is killed.
fn tally(stdout: ChildStdout) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut lines = BufReader::new(stdout);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
        let answer: Answer = line.trim_end().parse()?;
        match answer.by() {
            Some(by) => {
                tally.slowest = tally.slowest.max(answer.took);
                match tally.by.get_mut(by) {
                    Some(count) => *count += 1,
                    None => drop(tally.by.insert(by.to_owned(), 1)),
                }
            }
            None => tally.failed.push(line.trim_end().to_owned()),
        }
        line.clear();
    }
    Ok(tally)
}

/// A counter of /proc/net/netstat: a line of names, and one of numbers.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|word| word == name)?;
    numbers.split(' ').nth(at)?.parse().ok()
}
