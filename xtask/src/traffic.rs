//! Real traffic between places: a server that says who it is, a probe that says who answered. Both are hidden verbs
//! of the xtask binary, because socket hooks belong to the cgroup of a process.
//!
//! A TCP server writes `NAME PEER\n` at once and then echoes until end of file. A UDP server answers each datagram with
//! `NAME PEER\n` and the datagram.

mod ask;
mod probe;
mod serve;
mod survey;
mod talk;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::programs::workspace_binary;
use crate::topology::Topology;

pub use ask::{AskArgs, ask};
pub use probe::{ProbeArgs, probe};
pub use serve::{ServeArgs, serve};
pub use survey::{Request, SurveyArgs, survey};
pub use talk::{Conversation, TalkArgs, talk};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What became of one request. One line of `xtask probe`'s output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub outcome: Outcome,
    pub took: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered {
        /// The server's name.
        by: String,
        /// The client's address as the server saw it.
        seen: SocketAddr,
        /// Who the client's socket says it talks to.
        peer: SocketAddr,
    },
    Refused,
    TimedOut,
    Failed(String),
}

impl Answer {
    /// What became of a request that was begun at `start`.
    fn since(start: Instant, outcome: Outcome) -> Self {
        Self {
            outcome,
            took: start.elapsed(),
        }
    }

    /// As a line, at once.
    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{self}")?;
        out.flush()
    }

    pub fn by(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Answered { by, .. } => Some(by),
            _ => None,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.took.as_micros())?;
        match &self.outcome {
            Outcome::Answered { by, seen, peer } => write!(f, "answered {by} {seen} {peer}"),
            Outcome::Refused => write!(f, "refused"),
            Outcome::TimedOut => write!(f, "timed-out"),
            Outcome::Failed(why) => write!(f, "failed {why}"),
        }
    }
}

impl FromStr for Answer {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let odd = || anyhow!("not a line of a probe: {line:?}");
        let (micros, rest) = line.split_once(' ').ok_or_else(odd)?;
        let took = Duration::from_micros(micros.parse().map_err(|_| odd())?);
        let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let outcome = match word {
            "answered" => match rest.split(' ').collect::<Vec<_>>()[..] {
                [by, seen, peer] => Outcome::Answered {
                    by: by.to_owned(),
                    seen: seen.parse().map_err(|_| odd())?,
                    peer: peer.parse().map_err(|_| odd())?,
                },
                _ => return Err(odd()),
            },
            "refused" => Outcome::Refused,
            "timed-out" => Outcome::TimedOut,
            "failed" => Outcome::Failed(rest.to_owned()),
            _ => return Err(odd()),
        };
        Ok(Self { outcome, took })
    }
}

/// How many answers came from whom; `refused`, `timed-out` and `failed` stand for themselves.
pub fn spread(answers: &[Answer]) -> BTreeMap<String, usize> {
    let mut spread = BTreeMap::new();
    for answer in answers {
        let who = match &answer.outcome {
            Outcome::Answered { by, .. } => by.as_str(),
            Outcome::Refused => "refused",
            Outcome::TimedOut => "timed-out",
            Outcome::Failed(_) => "failed",
        };
        *spread.entry(who.to_owned()).or_default() += 1;
    }
    spread
}

/// A process of the run; killed when dropped.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server in a place and returns when its ports are bound.
pub fn start_server(
    topology: &Topology,
    place: &str,
    name: &str,
    tcp: &[u16],
    udp: &[u16],
) -> Result<Running> {
    let mut command = topology.command(place, workspace_binary("xtask")?)?;
    command.args(["serve", "--name", name]);
    for port in tcp {
        command.args(["--tcp", &port.to_string()]);
    }
    for port in udp {
        command.args(["--udp", &port.to_string()]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a server")?;
    let stdout = child.stdout.take().context("the server has no stdout")?;
    let server = Running(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(
        line == "ready\n",
        "the server of {name} in {place} did not get its ports"
    );
    Ok(server)
}

/// A probe about to start: `count` requests, one after the other, each on a socket of its own.
#[derive(Clone, Debug)]
pub struct Probe {
    pub protocol: Protocol,
    pub to: SocketAddr,
    pub count: usize,
    pub timeout: Duration,
    /// Sent after the greeting, and awaited back byte for byte.
    pub bytes: usize,
    /// UDP: connect() the socket, so that a port-unreachable is seen.
    pub connected: bool,
    /// The client's own port; 0 for any. With UDP each next request has the next port.
    pub source_port: u16,
    /// Between two requests.
    pub pause: Duration,
}

impl Probe {
    pub fn new(protocol: Protocol, to: SocketAddr) -> Self {
        let timeout = Duration::from_secs(1);
        Self {
            protocol,
            to,
            count: 1,
            timeout,
            bytes: 0,
            connected: false,
            source_port: 0,
            pause: Duration::ZERO,
        }
    }

    pub fn tcp(to: SocketAddr) -> Self {
        Self::new(Protocol::Tcp, to)
    }

    pub fn udp(to: SocketAddr) -> Self {
        Self::new(Protocol::Udp, to)
    }

    pub fn count(self, count: usize) -> Self {
        Self { count, ..self }
    }

    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    pub fn connected(self) -> Self {
        Self {
            connected: true,
            ..self
        }
    }

    pub fn source_port(self, source_port: u16) -> Self {
        Self {
            source_port,
            ..self
        }
    }

    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    pub fn command(&self, topology: &Topology, from: &str) -> Result<Command> {
        let mut command = topology.command(from, workspace_binary("xtask")?)?;
        command.args(["probe", &self.protocol.to_string(), &self.to.to_string()]);
        command.args([
            "--count",
            &self.count.to_string(),
            "--bytes",
            &self.bytes.to_string(),
        ]);
        command.args(["--timeout-ms", &self.timeout.as_millis().to_string()]);
        command.args(["--source-port", &self.source_port.to_string()]);
        command.args(["--pause-ms", &self.pause.as_millis().to_string()]);
        if self.connected {
            command.arg("--connected");
        }
        Ok(command)
    }

    /// Runs the probe in a place.
    pub fn run(&self, topology: &Topology, from: &str) -> Result<Vec<Answer>> {
        let output = self
            .command(topology, from)?
            .output()
            .context("cannot start a probe")?;
        if !output.status.success() {
            bail!(
                "a probe failed in {from}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::parse)
            .collect()
    }
}
