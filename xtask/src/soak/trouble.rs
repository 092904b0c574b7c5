//! What changes all the time: endpoints, one of the agents, devices and addresses.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::agents::Agent;
use xtask::topology::{Topology, in_namespace};

use super::Soak;

/// Programs are verified by a machine that does everything else besides.
const BUSY: Duration = Duration::from_secs(180);

const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: all}
spec:
  type: NodePort
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  selector: {all: 'yes'}
  ports:
  - {name: tcp, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: udp, protocol: UDP, port: 53, targetPort: 5353, nodePort: 30053}
---
apiVersion: v1
kind: Service
metadata: {name: one}
spec:
  type: NodePort
  clusterIP: 10.96.0.2
  clusterIPs: [10.96.0.2, 'fd00:96::2']
  selector: {one: 'yes'}
  ports:
  - {name: tcp, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30081}
  - {name: udp, protocol: UDP, port: 53, targetPort: 5353, nodePort: 30054}
";

pub(super) struct Manifests {
    pub(super) folder: PathBuf,
}

impl Manifests {
    pub(super) fn new(topology: &Topology) -> Result<Self> {
        let folder = topology.scratch().join("manifests");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("services.yaml"), SERVICES)?;
        let manifests = Self { folder };
        manifests.calm()?;
        Ok(manifests)
    }

    /// All endpoints are there.
    pub(super) fn calm(&self) -> Result<()> {
        self.ready(0b1111)
    }

    /// Which of the pods are ready, by bits. All of them go on serving: what is lost is lost by the dataplane.
    fn ready(&self, pods: u32) -> Result<()> {
        let pod = |number: u16, name: &str, node: u16, last: u16| {
            let ready = pods & 1 << number != 0;
            let (v4, v6) = (10 + last, 0xa + last);
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{all: 'yes', one: '{}'}}}}\n\
                 spec: {{nodeName: node{node}}}\nstatus:\n  podIPs: [{{ip: 10.244.{node}.{v4}}}, {{ip: 'fd00:244:{node}::{v6:x}'}}]\n  \
                 conditions: [{{type: Ready, status: '{}'}}]\n",
                if name == "pod-c" { "yes" } else { "no" },
                if ready { "True" } else { "False" },
            )
        };
        let text = [
            pod(0, "pod-a", 1, 0),
            pod(1, "pod-b", 1, 1),
            pod(2, "pod-c", 2, 0),
            pod(3, "pod-d", 2, 1),
        ]
        .concat();
        // At once, as a ConfigMap's mount does.
        let next = self.folder.join(".next");
        fs::write(&next, text)?;
        Ok(fs::rename(next, self.folder.join("pods.yaml"))?)
    }
}

/// Every set of ready pods with pod-c among them, over and over.
pub(super) fn churn(soak: &Soak) -> Result<u64> {
    let mut changes = 0;
    while !soak.is_over() {
        for pods in 0..8u32 {
            soak.manifests
                .ready(0b0100 | pods & 0b11 | (pods & 0b100) << 1)?;
            changes += 1;
            soak.pause(Duration::from_millis(150));
        }
    }
    Ok(changes)
}

/// The agent of node2 is killed, or told to end, and started anew.
pub(super) fn restarts(soak: &Soak, flags: &[&str]) -> Result<u64> {
    let mut restarts = 0;
    loop {
        soak.pause(Duration::from_secs(4));
        if soak.is_over() {
            return Ok(restarts);
        }
        let mut agents = soak.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let old = &mut agents[1];
        if restarts % 2 == 0 {
            old.process.kill();
        } else {
            let status = old.stop()?;
            ensure!(status.success(), "SIGTERM: it ended with {status}");
        }
        let mut new = Agent::start(&soak.topology, "node2", flags)?;
        new.wait_until_healthy(&soak.topology, BUSY)?;
        agents[1] = new;
        restarts += 1;
    }
}

/// A second device of a pod, and an address of the node.
pub(super) fn flaps(soak: &Soak) -> Result<u64> {
    let namespace = &soak.topology.place("pod-c").namespace;
    let add = format!("ip link add vethflap type veth peer name flap0 netns {namespace}");
    let mut flaps = 0;
    while !soak.is_over() {
        for line in [
            add.as_str(),
            "ip link set vethflap up",
            "ip addr add 172.18.0.77/32 dev eth0",
        ] {
            tool(soak, line)?;
        }
        soak.pause(Duration::from_millis(700));
        for line in [
            "ip link del vethflap",
            "ip addr del 172.18.0.77/32 dev eth0",
        ] {
            tool(soak, line)?;
        }
        flaps += 1;
        soak.pause(Duration::from_millis(700));
    }
    Ok(flaps)
}

fn tool(soak: &Soak, line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().context("no program")?);
    command.args(words);
    let output = in_namespace(&soak.topology.place("node2").namespace_file(), || {
        Ok(command.output()?)
    })?;
    ensure!(
        output.status.success(),
        "`{line}`: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
