//! A Service as the API server has it, and the addresses that it is asked at.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::scene::Scene;

/// A Service as the API server has it.
pub struct Service<'a> {
    scene: &'a Scene<'a>,
    pub name: String,
    pub object: Value,
}

impl<'a> Service<'a> {
    pub fn new(scene: &'a Scene<'a>, name: &str, object: Value) -> Self {
        Self {
            scene,
            name: name.to_owned(),
            object,
        }
    }

    fn path(&self) -> String {
        self.scene.path(&format!("services/{}", self.name))
    }

    pub fn patch(&mut self, spec: &Value) -> Result<()> {
        self.object = self
            .scene
            .cluster
            .plane
            .patch(&self.path(), &json!({"spec": spec}))?;
        Ok(())
    }

    pub fn patch_metadata(&mut self, metadata: &Value) -> Result<()> {
        let body = json!({"metadata": metadata});
        self.object = self.scene.cluster.plane.patch(&self.path(), &body)?;
        Ok(())
    }

    /// What a cloud's controller would write.
    pub fn set_ingress(&mut self, ingress: &Value) -> Result<()> {
        let body = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let path = format!("{}/status", self.path());
        self.object = self.scene.cluster.plane.patch(&path, &body)?;
        Ok(())
    }

    pub fn delete(&self) -> Result<()> {
        self.scene
            .cluster
            .plane
            .delete(&self.path(), &Value::Null)
            .map(drop)
    }

    /// Its ClusterIPs, with this port.
    pub fn cluster_ips(&self, port: u16) -> Result<Vec<SocketAddr>> {
        let ips = self.object["spec"]["clusterIPs"]
            .as_array()
            .context("no clusterIPs")?;
        ips.iter()
            .map(|ip| {
                Ok((
                    ip.as_str().context("not a string")?.parse::<IpAddr>()?,
                    port,
                )
                    .into())
            })
            .collect()
    }

    /// The NodePort of one of its ports, on both addresses of a node.
    pub fn node_port(&self, port: &str, node: &str) -> Result<Vec<SocketAddr>> {
        let ports = self.object["spec"]["ports"]
            .as_array()
            .context("no ports")?;
        let number = ports
            .iter()
            .find(|one| one["name"] == port)
            .and_then(|one| one["nodePort"].as_u64())
            .with_context(|| format!("port {port} has no nodePort"))?;
        let number = u16::try_from(number)?;
        let addresses = self.scene.cluster.topology.place(node).addresses();
        Ok(addresses.map(|ip| (ip, number).into()).to_vec())
    }
}

/// These addresses with this port.
pub fn at(addresses: &[&str], port: u16) -> Vec<SocketAddr> {
    addresses
        .iter()
        .map(|ip| (ip.parse::<IpAddr>().expect("an address"), port).into())
        .collect()
}
