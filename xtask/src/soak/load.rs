//! Who connects and talks, and what became of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use xtask::topology::Topology;
use xtask::traffic::{Answer, Conversation, Probe, Protocol, Running};

use super::Soak;

/// One process's requests; then the next one begins.
const REQUESTS: usize = 500;
const PAUSE: Duration = Duration::from_millis(2);

/// From where by what to where.
pub(super) struct Stream {
    from: &'static str,
    protocol: Protocol,
    to: SocketAddr,
}

impl Stream {
    fn name(&self) -> String {
        format!("{} → {} {}", self.from, self.protocol, self.to)
    }
}

/// Service `all`, whose endpoints come and go.
pub(super) fn streams(topology: &Topology) -> Vec<Stream> {
    of_service(topology, "10.96.0.1", "fd00:96::1", 30080, 30053)
}

/// Service `one`, whose endpoint stays.
pub(super) fn conversations(topology: &Topology) -> Result<Vec<(String, Conversation)>> {
    of_service(topology, "10.96.0.2", "fd00:96::2", 30081, 30054)
        .into_iter()
        .map(|stream| {
            let opened = Conversation::open(topology, stream.from, stream.protocol, stream.to)?;
            Ok((stream.name(), opened))
        })
        .collect()
}

fn of_service(topology: &Topology, v4: &str, v6: &str, tcp: u16, udp: u16) -> Vec<Stream> {
    let nodes = topology.place("node1").addresses();
    let mut streams = Vec::new();
    for (number, cluster_ip) in [v4, v6].into_iter().enumerate() {
        let cluster_ip = cluster_ip.parse().expect("written here");
        for (protocol, port, node_port) in [(Protocol::Tcp, 80, tcp), (Protocol::Udp, 53, udp)] {
            for from in ["pod-a", "pod-d", "node2"] {
                let to = SocketAddr::new(cluster_ip, port);
                streams.push(Stream { from, protocol, to });
            }
            streams.push(Stream {
                from: "client",
                protocol,
                to: SocketAddr::new(nodes[number], node_port),
            });
        }
    }
    streams
}

#[derive(Default)]
pub(super) struct Load {
    answered: AtomicU64,
    said: AtomicU64,
    lost: Mutex<BTreeMap<String, u64>>,
    warmed: Mutex<Option<[u64; 2]>>,
}

impl Load {
    /// Requests one after the other, each on a socket of its own, until it is over.
    pub(super) fn connect(&self, soak: &Soak, stream: &Stream) {
        while !soak.is_over() {
            if let Err(error) = self.burst(soak, stream) {
                self.lose(format!("{}: {error:#}", stream.name()));
            }
        }
    }

    fn burst(&self, soak: &Soak, stream: &Stream) -> Result<()> {
        let probe = Probe::new(stream.protocol, stream.to)
            .count(REQUESTS)
            .pause(PAUSE)
            // A machine of few processors does all of this at once.
            .timeout(Duration::from_secs(5));
        let mut command = probe.command(&soak.topology, stream.from)?;
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take();
        let _running = Running(child);
        for line in stdout
            .into_iter()
            .flat_map(|out| BufReader::new(out).lines())
        {
            let answer: Answer = line?.parse()?;
            match answer.by() {
                Some(_) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                None => self.lose(format!("{}: {:?}", stream.name(), answer.outcome)),
            }
            if soak.is_over() {
                break;
            }
        }
        Ok(())
    }

    /// A line on each connection that stays.
    pub(super) fn talk(&self, conversations: &mut Vec<(String, Conversation)>) {
        conversations.retain_mut(|(name, conversation)| {
            let answer = conversation.say();
            match &answer {
                Ok(answer) if answer.by().is_some() => {
                    self.said.fetch_add(1, Ordering::Relaxed);
                    true
                }
                other => {
                    self.lose(format!("the connection {name} broke: {other:?}"));
                    false
                }
            }
        });
    }

    fn lose(&self, what: String) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost.entry(what).or_default() += 1;
    }

    pub(super) fn wrong(&self) -> Vec<String> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.iter()
            .map(|(what, n)| format!("{n} × {what}"))
            .collect()
    }

    pub(super) fn summary(&self) -> String {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        format!(
            "{} connections and datagrams answered, {} lines on connections that stay, {} lost",
            self.answered.load(Ordering::Relaxed),
            self.said.load(Ordering::Relaxed),
            lost.values().sum::<u64>(),
        )
    }

    /// Notes the agents' memory once, when everything runs.
    pub(super) fn warm(&self, resident: [u64; 2]) {
        let mut warmed = self.warmed.lock().unwrap_or_else(PoisonError::into_inner);
        warmed.get_or_insert(resident);
    }

    pub(super) fn warmed(&self) -> Option<[u64; 2]> {
        *self.warmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
