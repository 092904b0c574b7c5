//! What the verbs that look around have in common: the node's devices, and the cluster's objects, once.

use std::future::Future;
use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cluster::Cluster;
use crate::config::{Form, Look};
use crate::desired::ServiceName;
use crate::node::{Devices, Watch};
use crate::say::{complain, say};
use crate::source::once::{self, Objects, Of, Place};

/// Runs one question to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

/// The devices of this network namespace.
pub fn devices() -> Result<Devices> {
    block_on(async { Ok(Watch::open()?.devices().await?) })?
}

/// Where the options say that objects are.
pub fn place(look: &Look) -> Place {
    match (&look.manifests, &look.kubeconfig) {
        (Some(dir), _) => Place::Manifests(dir.clone()),
        (None, Some(path)) => Place::Kubeconfig(path.clone()),
        (None, None) => Place::InCluster,
    }
}

pub fn node_name(look: &Look) -> Result<String> {
    crate::config::node_name(look.hostname_override.as_deref())
        .context("reading the host's name; give --hostname-override")
}

/// What the cluster says about a Service. None where nobody was named to ask, and nobody is there.
pub fn objects(look: &Look, service: Option<&ServiceName>) -> Result<Option<Objects>> {
    let place = place(look);
    let none = ServiceName {
        namespace: "default".into(),
        name: "".into(),
    };
    let of = Of::Service(service.unwrap_or(&none));
    let cluster = Cluster::new(node_name(look)?);
    match block_on(once::read(&place, cluster, of))? {
        Ok(objects) => Ok(Some(objects)),
        Err(once::Error::Client(_)) if place == Place::InCluster => Ok(None),
        // The API server may be what is looked for.
        Err(error @ (once::Error::List(..) | once::Error::Silent(..))) => {
            complain(format_args!("{error}; going by the maps alone"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Prints an answer as it is asked for; `text` is how people read it.
pub fn print<T: Serialize>(answer: &T, form: Form, text: impl FnOnce(&T) -> String) -> Result<()> {
    say(&match form {
        Form::Text => text(answer),
        Form::Json => serde_json::to_string_pretty(answer)? + "\n",
        Form::Yaml => serde_saphyr::to_string(answer)?,
    })
}

/// The addresses of a Pod.
pub fn pod(look: &Look, place_of: &ServiceName, name: &str) -> Result<Vec<IpAddr>> {
    let cluster = Cluster::new(node_name(look)?);
    let objects = block_on(once::read(&place(look), cluster, Of::Service(place_of)))??;
    let pods = objects
        .pods
        .context("Pods cannot be listed with this account")?;
    Ok(pods
        .into_iter()
        .filter(|pod| *pod.namespace == *place_of.namespace && pod.name == name)
        .flat_map(|pod| pod.ips)
        .collect())
}
