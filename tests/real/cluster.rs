//! A real control plane in the LAN of a topology, agents on its nodes, servers in its pods. There is no kubelet: Pod
//! objects borrow the addresses of the topology's places, and tests write their status.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use xtask::agents::Agent;
use xtask::programs::asset;
use xtask::topology::{NODES, Options, PODS, Topology};
use xtask::traffic::{Running, start_server};

use crate::prepare::prepare;
use crate::server::{ADMIN, ApiServer, spawn};

/// What pods and nodes listen on. The last TCP port is for Services whose port number differs by pod.
pub const TCP: u16 = 8080;
pub const OTHER_TCP: u16 = 8081;
pub const UDP: u16 = 5353;

pub struct ControlPlane {
    pub api: ApiServer<'static>,
    _controllers: Running,
}

impl ControlPlane {
    /// etcd, kube-apiserver, kube-controller-manager and the nodes, each in a zone of its own.
    pub fn start(topology: &'static Topology) -> Result<Self> {
        let api = ApiServer::start(topology)?;
        prepare(&api, topology)?;
        let kubeconfig = api.kubeconfig("controllers", &api.url(), ADMIN)?;
        let mut command = topology.command("lan", asset("kube-controller-manager")?)?;
        command.args([
            &format!("--kubeconfig={}", kubeconfig.display()),
            "--controllers=endpointslice-controller,endpointslice-mirroring-controller",
            "--leader-elect=false",
            "--secure-port=0",
            // So small that most Services have several slices (A5).
            "--max-endpoints-per-slice=2",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ]);
        let log = topology.scratch().join("kube-controller-manager.log");
        let plane = Self {
            _controllers: spawn(command, &log)?,
            api,
        };
        for (node, zone) in NODES.into_iter().zip(["zone-1", "zone-2"]) {
            plane.patch(
                &format!("/api/v1/nodes/{node}"),
                &json!({"metadata": {"labels": {
                    "topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": node}}}),
            )?;
        }
        Ok(plane)
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, &Value::Null)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call("POST", path, body)
    }

    /// A merge patch.
    pub fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.call("PATCH", path, body)
    }

    pub fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.call("DELETE", path, options)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        Ok(self
            .calls(&[(method, path.to_owned(), body.clone())])?
            .remove(0))
    }

    /// Several, one after the other, by one client.
    pub fn calls(&self, calls: &[(&str, String, Value)]) -> Result<Vec<Value>> {
        self.api.admin(|client| async move {
            let mut answers = Vec::new();
            for (method, path, body) in calls {
                let kind = match *method {
                    "PATCH" => "application/merge-patch+json",
                    _ => "application/json",
                };
                let body = if body.is_null() {
                    String::new()
                } else {
                    body.to_string()
                };
                let request = http::Request::builder()
                    .method(*method)
                    .uri(path)
                    .header("Content-Type", kind)
                    .body(body.into_bytes())?;
                let answer = client.request::<Value>(request).await;
                answers.push(answer.with_context(|| format!("{method} {path}"))?);
            }
            Ok(answers)
        })
    }

    /// A namespace in which pods can be made.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.post("/api/v1/namespaces", &json!({"metadata": {"name": name}}))?;
        self.post(
            &format!("/api/v1/namespaces/{name}/serviceaccounts"),
            &json!({"metadata": {"name": "default"}}),
        )?;
        Ok(())
    }
}

/// Servers in all pods and on all nodes, each answering with its place's name.
pub fn servers(topology: &Topology) -> Result<Vec<Running>> {
    PODS.iter()
        .chain(&NODES)
        .map(|place| start_server(topology, place, place, &[TCP, OTHER_TCP], &[UDP]))
        .collect()
}

/// The topology lives until the end of the process, so that what borrows it can be kept; `remove` it there.
pub fn topology() -> Result<&'static Topology> {
    Ok(Box::leak(Box::new(Topology::new(Options::default())?)))
}

/// The cluster that the scenarios share, each in a namespace of its own.
pub struct Cluster {
    pub agents: Vec<Agent>,
    _servers: Vec<Running>,
    pub plane: ControlPlane,
    pub topology: &'static Topology,
}

impl Cluster {
    pub fn start() -> Result<Self> {
        let mut cluster = Self::without_agents(topology()?)?;
        let kubeconfig = cluster.plane.api.agent_kubeconfig()?.display().to_string();
        let flags = ["--kubeconfig", &kubeconfig, "-v", "1"];
        cluster.agents = xtask::agents::start_agents(cluster.topology, &flags)?;
        Ok(cluster)
    }

    pub fn without_agents(topology: &'static Topology) -> Result<Self> {
        Ok(Self {
            agents: Vec::new(),
            plane: ControlPlane::start(topology)?,
            _servers: servers(topology)?,
            topology,
        })
    }

    pub fn logs(&self) -> String {
        let log = |agent: &Agent| {
            let log = agent.log();
            let lines: Vec<_> = log.lines().rev().take(15).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            format!("--- {}\n{}\n", agent.node, lines.join("\n"))
        };
        self.agents.iter().map(log).collect()
    }
}
