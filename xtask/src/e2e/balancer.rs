//! A cloud's load balancer, as small as one can be: it gives Services of type LoadBalancer an address on the LAN and
//! routes that address to the nodes, with policy Local only to those whose health check says so.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Lab;
use super::cluster::{kubectl, node_ip, within};

/// What cloud controllers hold a Service by until its balancer is gone.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const INTERVAL: Duration = Duration::from_millis(500);

/// Balances until it is dropped.
pub(super) struct Balancer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    pub(super) fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut state = State {
            lab: lab.clone(),
            addresses: BTreeMap::new(),
            routes: BTreeMap::new(),
        };
        let stopped = stop.clone();
        let thread = spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = state.round() {
                    // The next round sees the cluster anew.
                    eprintln!("load balancer: {error:#}");
                }
                sleep(INTERVAL);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct State {
    lab: Lab,
    /// Service → last byte of its address.
    addresses: BTreeMap<String, u8>,
    /// Address → the nodes that it is routed to.
    routes: BTreeMap<u8, Vec<u8>>,
}

impl State {
    fn round(&mut self) -> Result<()> {
        let output = kubectl(&self.lab)
            .args(["get", "services", "--all-namespaces", "--output=json"])
            .stderr(Stdio::null())
            .output()
            .context("cannot run kubectl")?;
        ensure!(output.status.success(), "cannot list the Services");
        let list: Value =
            serde_json::from_slice(&output.stdout).context("cannot read the Services")?;
        let mut there = BTreeSet::new();
        for service in list["items"].as_array().into_iter().flatten() {
            let metadata = &service["metadata"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = format!(
                "{}/{}",
                text(&metadata["namespace"]),
                text(&metadata["name"])
            );
            // Somebody else's (loadBalancerClass), or none.
            let wanted = service["spec"]["type"] == "LoadBalancer"
                && service["spec"]["loadBalancerClass"].is_null()
                && metadata["deletionTimestamp"].is_null();
            if wanted {
                there.insert(name.clone());
                self.serve(&name, service)?;
            } else if self.addresses.contains_key(&name) {
                self.patch(&name, "", json!({"metadata": {"finalizers": null}}))?;
                if metadata["deletionTimestamp"].is_null() {
                    self.patch(
                        &name,
                        "--subresource=status",
                        json!({"status": {"loadBalancer": {"ingress": null}}}),
                    )?;
                }
            }
        }
        self.addresses.retain(|name, _| there.contains(name));
        let used: BTreeSet<u8> = self.addresses.values().copied().collect();
        let gone: Vec<u8> = self
            .routes
            .keys()
            .copied()
            .filter(|ip| !used.contains(ip))
            .collect();
        for ip in gone {
            self.route(ip, Vec::new())?;
        }
        Ok(())
    }

    fn serve(&mut self, name: &str, service: &Value) -> Result<()> {
        let ip = match self.addresses.get(name) {
            Some(ip) => *ip,
            None => {
                let used: BTreeSet<u8> = self.addresses.values().copied().collect();
                let free = (1..=254).find(|ip| !used.contains(ip));
                let ip = free.context("all addresses are in use")?;
                self.addresses.insert(name.to_owned(), ip);
                ip
            }
        };
        let health = service["spec"]["healthCheckNodePort"].as_u64();
        let healthy = |n: &u8| health.is_none_or(|port| is_healthy(*n, port));
        let mut nodes: Vec<u8> = (1..=self.lab.nodes).filter(healthy).collect();
        // A node knows of its own clients only: one with affinity has to meet the same node again.
        if service["spec"]["sessionAffinity"] == "ClientIP" {
            nodes.truncate(1);
        }
        self.route(ip, nodes)?;
        let finalizers = service["metadata"]["finalizers"].as_array();
        if !finalizers.is_some_and(|f| f.iter().any(|f| f == FINALIZER)) {
            self.patch(name, "", json!({"metadata": {"finalizers": [FINALIZER]}}))?;
        }
        let address = format!("172.30.1.{ip}");
        if service["status"]["loadBalancer"]["ingress"][0]["ip"] != address.as_str() {
            let ingress = json!([{"ip": address}]);
            self.patch(
                name,
                "--subresource=status",
                json!({"status": {"loadBalancer": {"ingress": ingress}}}),
            )?;
        }
        Ok(())
    }

    /// Makes the LAN's router send an address to these nodes.
    fn route(&mut self, ip: u8, nodes: Vec<u8>) -> Result<()> {
        if self.routes.get(&ip) == Some(&nodes) {
            return Ok(());
        }
        let address = format!("172.30.1.{ip}");
        let mut command = within("lan", "ip");
        if nodes.is_empty() {
            command.args(["route", "replace", "blackhole", &address]);
        } else {
            command.args(["route", "replace", &address]);
            for node in &nodes {
                command.args(["nexthop", "via", &node_ip(*node).to_string()]);
            }
        }
        ensure!(quiet(&mut command), "cannot route {address}");
        self.routes.insert(ip, nodes);
        Ok(())
    }

    fn patch(&self, name: &str, flag: &str, patch: Value) -> Result<()> {
        let (namespace, name) = name.split_once('/').context("is namespace/name")?;
        let mut command = kubectl(&self.lab);
        command.args([
            "-n",
            namespace,
            "patch",
            "service",
            name,
            "--type=merge",
            "-p",
            &patch.to_string(),
        ]);
        command.args((!flag.is_empty()).then_some(flag));
        // It may be gone by now.
        quiet(&mut command);
        Ok(())
    }
}

fn is_healthy(node: u8, port: u64) -> bool {
    let url = format!("http://{}:{port}/healthz", node_ip(node));
    quiet(within("lan", "curl").args(["-sf", "-m", "1", "-o", "/dev/null", &url]))
}

/// Whether the command went well; what it says is of no interest.
fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
