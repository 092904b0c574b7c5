//! `svc-agent run` on the nodes of a topology.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::topology::{Topology, in_namespace};
use crate::traffic::Running;

const HEALTHZ: u16 = 10256;
const METRICS: u16 = 10249;
/// Verifying the programs takes seconds of a CPU, and others may have it.
const BUSY: Duration = Duration::from_secs(90);

/// A running agent; killed when dropped. Its dataplane stays until the topology goes.
#[derive(Debug)]
pub struct Agent {
    pub process: Running,
    pub node: &'static str,
    pub log_file: PathBuf,
}

impl Agent {
    /// Starts it with these flags and does not wait.
    pub fn start(topology: &Topology, node: &'static str, flags: &[&str]) -> Result<Self> {
        let log_file = topology.scratch().join(format!("{node}.log"));
        let log = File::options().create(true).append(true).open(&log_file);
        let log = log.with_context(|| format!("cannot write {}", log_file.display()))?;
        let mut command = topology.agent(node, "run")?;
        command
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start svc-agent on {node}"))?;
        Ok(Self {
            process: Running(child),
            node,
            log_file,
        })
    }

    /// Waits until its first full sync is in the maps.
    pub fn wait_until_healthy(&mut self, topology: &Topology, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !healthy(topology, self.node) {
            if let Some(status) = self.process.0.try_wait()? {
                bail!(
                    "svc-agent on {} ended ({status}); its log:\n{}",
                    self.node,
                    self.log()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "svc-agent on {} is not healthy after {timeout:?}; its log:\n{}",
                    self.node,
                    self.log()
                );
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// SIGTERM, and the wait for its end.
    pub fn stop(&mut self) -> Result<std::process::ExitStatus> {
        kill(
            Pid::from_raw(self.process.0.id().cast_signed()),
            Signal::SIGTERM,
        )?;
        Ok(self.process.0.wait()?)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log_file).unwrap_or_default()
    }
}

/// Starts an agent on every node and waits until all are healthy.
pub fn start_agents(topology: &Topology, flags: &[&str]) -> Result<Vec<Agent>> {
    let agents: Result<Vec<_>> = crate::topology::NODES
        .into_iter()
        .map(|node| Agent::start(topology, node, flags))
        .collect();
    let mut agents = agents?;
    for agent in &mut agents {
        agent.wait_until_healthy(topology, BUSY)?;
    }
    Ok(agents)
}

/// Whether `/healthz` of the node's agent answers 200.
pub fn healthy(topology: &Topology, node: &str) -> bool {
    let answer = in_namespace(&topology.place(node).namespace_file(), || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, HEALTHZ))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status)
    });
    answer.is_ok_and(|status| status == *b"HTTP/1.1 200")
}

/// The value of a series, labels and all, that the node's agent tells; None: it tells of no such series.
pub fn metric(topology: &Topology, node: &str, series: &str) -> Result<Option<f64>> {
    let text = in_namespace(&topology.place(node).namespace_file(), || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
    .with_context(|| format!("cannot ask for the metrics of {node}"))?;
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(found.and_then(|value| value.trim().parse().ok()))
}

/// Asks again until it holds.
pub fn eventually(
    what: &str,
    timeout: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if holds()? {
            return Ok(start.elapsed());
        }
        if start.elapsed() > timeout {
            bail!("{what}: not within {timeout:?}");
        }
        sleep(Duration::from_millis(5));
    }
}
