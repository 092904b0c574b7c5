//! Kubernetes objects → the plain structs of [`crate::cluster`]. `k8s_openapi` goes no further. Pure: what makes no
//! sense in an object is named and skipped, the rest of it is used.

mod node;
mod service;
mod slice;
#[cfg(test)]
mod tests;

pub use node::node;
pub use service::service;
pub use slice::slice;

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cluster::{Trigger, ZONE};
use crate::compile::ALGORITHM;
use crate::desired::{Protocol, Refusal};

/// Whoever proxies Services and slices with this label, it is not us (A1).
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// On slices of headless Services (A2).
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Share of new connections of the endpoints of a slice, or of a Pod (B13).
const WEIGHT: &str = "svcplane.io/weight";
/// The labels and annotations that are read here or in the Cluster; others need not be kept.
pub(super) const READ_KEYS: [&str; 7] = [
    PROXY_NAME,
    HEADLESS,
    WEIGHT,
    ALGORITHM,
    slice::SERVICE_NAME,
    slice::LAST_CHANGE,
    ZONE,
];
/// Services and slices that are ours, as a selector for the API server.
pub const LABEL_SELECTOR: &str =
    "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// An object as it enters the Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<K, V> {
    pub key: K,
    /// None: it is nobody's business here.
    pub value: Option<V>,
    pub refusals: Vec<Refusal>,
    /// When what it says now came to be, of endpoints.
    pub trigger: Option<Trigger>,
}

/// `namespace, name`; kubectl's default namespace when there is none.
pub(super) fn name(meta: &ObjectMeta) -> (String, String) {
    let namespace = meta
        .namespace
        .clone()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "default".into());
    (namespace, meta.name.clone().unwrap_or_default())
}

/// A list without room for more.
fn tight<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.shrink_to_fit();
    items
}

fn has_label(meta: &ObjectMeta, label: &str) -> bool {
    meta.labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(label))
}

/// What was wrong with one object.
pub(super) struct Notes {
    pub(super) object: String,
    pub(super) refusals: Vec<Refusal>,
}

impl Notes {
    pub(super) fn new(object: String) -> Self {
        Self {
            object,
            refusals: Vec::new(),
        }
    }

    pub(super) fn refuse(&mut self, why: impl Into<String>) {
        self.refusals
            .push(Refusal::invalid(self.object.clone(), why));
    }

    /// An address; a v4-mapped one is the IPv4 address it stands for.
    pub(super) fn ip(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let ip = text.trim().parse().ok().map(|ip: IpAddr| ip.to_canonical());
        if ip.is_none() {
            self.refuse(format!("{field} {text:?} is no IP address; it is skipped"));
        }
        ip
    }

    /// A port number, or nothing.
    pub(super) fn number(&mut self, field: &str, number: i32) -> Option<u16> {
        match u16::try_from(number) {
            Ok(number) if number != 0 => Some(number),
            _ => {
                self.refuse(format!(
                    "{field} {number} is not in 1–65535; the port is skipped"
                ));
                None
            }
        }
    }

    /// 1 when nothing is said.
    pub(super) fn weight(&mut self, meta: &ObjectMeta) -> u16 {
        let Some(text) = meta.annotations.as_ref().and_then(|a| a.get(WEIGHT)) else {
            return 1;
        };
        match text.trim().parse() {
            Ok(weight) if weight <= 1000 => weight,
            _ => {
                self.refuse(format!(
                    "annotation {WEIGHT} {text:?} is not a number from 0 to 1000; 1 is used"
                ));
                1
            }
        }
    }

    /// TCP when nothing is said, as the API server has it.
    pub(super) fn protocol(&mut self, protocol: Option<&str>) -> Option<Protocol> {
        match protocol {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(other) => {
                self.refuse(format!(
                    "protocol {other:?} is none of TCP, UDP, SCTP; the port is skipped"
                ));
                None
            }
        }
    }
}
