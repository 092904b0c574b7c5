//! A load generator: what one transaction costs, in CPU time of everybody who takes part, and how long it takes.
//!
//! Client, server and all softirqs between them share one CPU, with one transaction at a time, so nothing of its cost
//! happens elsewhere: it is what the CPU clocks of the two processes and of that CPU's ksoftirqd advance by. What
//! others do on the machine does not count.

mod client;
mod server;

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::programs::workspace_binary;
use crate::topology::Topology;
use crate::traffic::{Protocol, Running};

pub use client::{LoadArgs, load};
pub use server::{BearArgs, bear};

/// Bytes of a request and of its answer; of a small packet, too.
const REQUEST: usize = 64;
/// What one transaction of bulk traffic is.
pub const BULK: usize = 1 << 20;
/// Of so many small packets in a row only the last is answered.
pub const TRAIN: usize = 64;

/// What is done over and over.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Connect, ask, be answered, close.
    TcpConnect,
    /// Ask and be answered on a connection that stays.
    TcpRequest,
    /// Send a datagram and be answered, by one socket.
    UdpRequest,
    /// The same by a new socket each time, as resolvers do.
    UdpConnect,
    /// Send datagrams in trains.
    UdpPackets,
    /// Send a mebibyte on a connection that stays.
    TcpBulk,
}

impl Work {
    pub const ALL: [Self; 6] = [
        Self::TcpConnect,
        Self::TcpRequest,
        Self::UdpRequest,
        Self::UdpConnect,
        Self::UdpPackets,
        Self::TcpBulk,
    ];

    pub fn protocol(self) -> Protocol {
        match self {
            Self::TcpConnect | Self::TcpRequest | Self::TcpBulk => Protocol::Tcp,
            Self::UdpRequest | Self::UdpConnect | Self::UdpPackets => Protocol::Udp,
        }
    }

    /// Where servers offer it.
    pub fn port(self) -> u16 {
        match self {
            Self::TcpConnect => 8080,
            Self::TcpRequest => 8081,
            Self::TcpBulk => 8082,
            Self::UdpRequest | Self::UdpConnect => 5353,
            Self::UdpPackets => 5354,
        }
    }

    /// The same without any Service in front of it. A port of its own: what a proxy remembers of the others is not
    /// to be mistaken for this.
    pub fn plain_port(self) -> u16 {
        self.port() + 1000
    }

    /// Packets, mebibytes or requests in one round trip.
    pub fn units(self) -> usize {
        if self == Self::UdpPackets { TRAIN } else { 1 }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TcpConnect => "tcp-connect",
            Self::TcpRequest => "tcp-request",
            Self::UdpRequest => "udp-request",
            Self::UdpConnect => "udp-connect",
            Self::UdpPackets => "udp-packets",
            Self::TcpBulk => "tcp-bulk",
        })
    }
}

/// What one burst has shown. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Burst {
    pub round_trips: usize,
    /// CPU time of client, server and ksoftirqd.
    pub cpu: u64,
    /// From the first to the last.
    pub wall: u64,
    /// Of one round trip.
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    /// Round trips that had to be tried again.
    pub lost: usize,
}

/// A client's order: one line of its stdin.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    work: Work,
    to: SocketAddr,
    round_trips: usize,
    /// Whose CPU clocks count beside its own.
    others: Vec<i32>,
    /// Begin with a new connection.
    anew: bool,
}

/// The CPU that client and server share: the last one allowed.
pub fn shared_cpu() -> Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot ask for the CPUs allowed")?;
    (0..CpuSet::count())
        .rev()
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .context("no CPU is allowed")
}

/// The thread that softirqs of a CPU are put off to.
pub fn ksoftirqd(cpu: usize) -> Result<Pid> {
    let wanted = format!("ksoftirqd/{cpu}");
    for entry in fs::read_dir("/proc")
        .context("cannot list /proc")?
        .flatten()
    {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if let (true, Some(pid)) = (name.trim() == wanted, entry.file_name().to_str()) {
            return Ok(Pid::from_raw(pid.parse()?));
        }
    }
    bail!("{wanted} is not to be seen: run this in the machine's own PID namespace")
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on CPU {cpu}"))
}

fn command(topology: &Topology, place: &str, verb: &str, cpu: usize) -> Result<Command> {
    // Others' work on that CPU would not count, but it would be in the way.
    let mut command = topology.command(place, "nice")?;
    command
        .arg("-n-20")
        .arg(workspace_binary("xtask")?)
        .args([verb, "--cpu", &cpu.to_string()]);
    Ok(command)
}

/// A running server of every kind of work.
#[derive(Debug)]
pub struct Server {
    process: Running,
}

impl Server {
    pub fn start(topology: &Topology, place: &str, cpu: usize) -> Result<Self> {
        let mut child = command(topology, place, "bear", cpu)?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start a server in {place}"))?;
        let stdout = child.stdout.take().context("the server has no stdout")?;
        let process = Running(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the server in {place} did not get ready");
        Ok(Self { process })
    }

    pub fn pid(&self) -> i32 {
        self.process.0.id().cast_signed()
    }
}

/// A running client, which waits for orders.
pub struct Client {
    _process: Running,
    orders: ChildStdin,
    results: BufReader<ChildStdout>,
    place: String,
}

impl Client {
    pub fn start(topology: &Topology, place: &str, cpu: usize) -> Result<Self> {
        let mut child = command(topology, place, "load", cpu)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start a client in {place}"))?;
        let orders = child.stdin.take().context("the client has no stdin")?;
        let results = child.stdout.take().context("the client has no stdout")?;
        Ok(Self {
            _process: Running(child),
            orders,
            results: BufReader::new(results),
            place: place.to_owned(),
        })
    }

    /// Does a piece of work so many times. `others` are the processes whose CPU time counts, too.
    pub fn burst(
        &mut self,
        work: Work,
        to: SocketAddr,
        round_trips: usize,
        others: &[i32],
        anew: bool,
    ) -> Result<Burst> {
        let order = Order {
            work,
            to,
            round_trips,
            others: others.to_vec(),
            anew,
        };
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        let mut answer = String::new();
        self.orders
            .write_all(line.as_bytes())
            .and_then(|()| self.results.read_line(&mut answer))
            .with_context(|| format!("the client in {} has ended", self.place))?;
        let answer: Result<Burst, String> = serde_json::from_str(&answer)
            .with_context(|| format!("the client in {} has ended", self.place))?;
        answer.map_err(|why| anyhow::anyhow!("{work} from {} to {to}: {why}", self.place))
    }
}
