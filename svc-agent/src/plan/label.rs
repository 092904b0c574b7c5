//! The text in SERVICES: `namespace/name:port/PROTOCOL`. It is how a restart finds ids again and how people read them.

use std::fmt;

use svc_common::table::ServiceLabel;

use crate::desired::{Protocol, ServiceName, ServicePortName};
use crate::shared;

/// The label of one service port: its name and the protocol of its frontends, which tells ports of one name apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    pub port: ServicePortName,
    pub protocol: Protocol,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl Label {
    /// The inverse of `Display`; `None` for a text that this agent would not have written.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, protocol) = text.rsplit_once('/')?;
        let protocol = Protocol::from_name(protocol)?;
        let (namespace, name) = rest.split_once('/')?;
        let (name, port) = name.split_once(':').unwrap_or((name, ""));
        let service = ServiceName {
            namespace: shared::name(namespace),
            name: shared::name(name),
        };
        Some(Self {
            port: ServicePortName {
                service,
                port: shared::name(port),
            },
            protocol,
        })
    }
}

/// A label as it lies in the map; `None` when it is too long.
pub fn encode(label: &str) -> Option<ServiceLabel> {
    let mut value = ServiceLabel {
        len: u32::try_from(label.len()).ok()?,
        text: [0; 196],
    };
    value
        .text
        .get_mut(..label.len())?
        .copy_from_slice(label.as_bytes());
    Some(value)
}

/// The text of a label from the map, whatever lies there.
pub fn decode(value: &ServiceLabel) -> String {
    let len = (value.len as usize).min(value.text.len());
    String::from_utf8_lossy(&value.text[..len]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_reads_back() {
        for text in ["default/web:http/TCP", "kube-system/kube-dns/UDP"] {
            let label = Label::parse(text).unwrap();
            assert_eq!(label.to_string(), text);
            assert_eq!(decode(&encode(text).unwrap()), text);
        }
    }

    #[test]
    fn a_foreign_text_is_no_label() {
        for text in ["", "default", "default/web", "default/web:http/ICMP"] {
            assert_eq!(Label::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_label_that_does_not_fit_is_refused() {
        assert_eq!(encode(&"x".repeat(197)), None);
        assert!(encode(&"x".repeat(196)).is_some());
    }
}
