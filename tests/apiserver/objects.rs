//! Kubernetes objects, as short as tests want them.

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use xtask::topology::Topology;

use super::server::ApiServer;

pub const CLUSTER_IPS: [&str; 2] = ["10.96.0.50", "fd00:96::50"];
pub const NODE_PORTS: [u16; 2] = [30080, 30053];

/// A dual-stack NodePort Service `web`: TCP 80 → 8080 and UDP 53 → 5353.
pub fn create_service(server: &ApiServer) -> Result<()> {
    let service = serde_json::from_value::<Service>(json!({
        "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort",
            "clusterIP": CLUSTER_IPS[0],
            "clusterIPs": CLUSTER_IPS,
            "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "nodePort": NODE_PORTS[0]},
                {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP", "nodePort": NODE_PORTS[1]},
            ],
        },
    }))?;
    server.admin(|client| async move {
        Api::<Service>::namespaced(client, "default")
            .create(&PostParams::default(), &service)
            .await?;
        Ok(())
    })
}

pub fn delete_service(server: &ApiServer) -> Result<()> {
    server.admin(|client| async move {
        Api::<Service>::namespaced(client, "default")
            .delete("web", &DeleteParams::default())
            .await?;
        Ok(())
    })
}

/// Makes these pods, and no others, the endpoints of `web`.
pub fn set_endpoints(server: &ApiServer, topology: &Topology, pods: &[&str]) -> Result<()> {
    let slices =
        ["IPv4", "IPv6"].map(|family| {
            let endpoints: Vec<_> = pods
            .iter()
            .map(|pod| topology.place(pod))
            .map(|pod| {
                let address: IpAddr = if family == "IPv4" { pod.v4.into() } else { pod.v6.into() };
                json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": pod.node})
            })
            .collect();
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("web-{}", family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": family,
                "ports": [
                    {"name": "http", "port": 8080, "protocol": "TCP"},
                    {"name": "dns", "port": 5353, "protocol": "UDP"},
                ],
                "endpoints": endpoints,
            })
        });
    server.admin(|client: Client| async move {
        let api: Api<EndpointSlice> = Api::namespaced(client, "default");
        for slice in slices {
            let name = slice["metadata"]["name"]
                .as_str()
                .context("it has a name")?
                .to_owned();
            api.patch(
                &name,
                &PatchParams::apply("test").force(),
                &Patch::Apply(slice),
            )
            .await?;
        }
        Ok(())
    })
}
