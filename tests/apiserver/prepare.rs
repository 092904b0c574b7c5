//! What an API server needs before agents can watch it: the nodes, and the agent's rights.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::PostParams;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use xtask::topology::{NODES, Topology};

use super::server::ApiServer;

const MANIFEST: &str = include_str!("../../deploy/svcplane.yaml");

/// The nodes, and the agent's rights as deploy/svcplane.yaml gives them.
pub fn prepare(server: &ApiServer, topology: &Topology) -> Result<()> {
    let nodes = NODES.map(|name| {
        let addresses = topology.place(name).addresses();
        let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
        json!({"metadata": {"name": name}, "status": {"addresses": addresses}})
    });
    server.admin(|client| async move {
        for node in nodes {
            let api: Api<Node> = Api::all(client.clone());
            let node: Node = serde_json::from_value(node)?;
            api.create(&PostParams::default(), &node).await?;
        }
        for document in MANIFEST.split("\n---\n") {
            let value: Value = serde_saphyr::from_str(document)?;
            if value.is_null() {
                continue;
            }
            match value["kind"]
                .as_str()
                .context("deploy/svcplane.yaml has an object without kind")?
            {
                "ServiceAccount" => {
                    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), "kube-system");
                    api.create(&PostParams::default(), &parsed(value)?).await?;
                }
                "ClusterRole" => {
                    let api: Api<ClusterRole> = Api::all(client.clone());
                    api.create(&PostParams::default(), &parsed(value)?).await?;
                }
                "ClusterRoleBinding" => {
                    let api: Api<ClusterRoleBinding> = Api::all(client.clone());
                    api.create(&PostParams::default(), &parsed(value)?).await?;
                }
                // Of pods, which are processes here.
                "ConfigMap" | "DaemonSet" => (),
                kind => anyhow::bail!(
                    "deploy/svcplane.yaml has a {kind}, which this test does not know"
                ),
            }
        }
        Ok(())
    })
}

fn parsed<T: DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}
