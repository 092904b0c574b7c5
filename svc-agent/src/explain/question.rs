//! What people write: `10.96.0.1:80/tcp`, `svc/default/api:http`, `api.default.svc:80`, `pod/default/web-1`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::desired::Protocol;

/// Whom a packet goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub host: Host,
    /// None: the one port that the Service has.
    pub port: Option<PortName>,
    pub protocol: Option<Protocol>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Address(IpAddr),
    Service { namespace: String, name: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    Number(u16),
    /// Of a Service's port.
    Name(String),
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Whom a packet comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub host: OriginHost,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginHost {
    Address(IpAddr),
    Pod { namespace: String, name: String },
}

const FORMS: &str = "write HOST:PORT[/tcp|udp|sctp] or svc/NAMESPACE/NAME:PORT";

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = split_protocol(text)?;
        if let Some(path) = rest
            .strip_prefix("svc/")
            .or_else(|| rest.strip_prefix("service/"))
        {
            let (path, port) = match path.split_once(':') {
                Some((path, port)) => (path, Some(port_name(port)?)),
                None => (path, None),
            };
            let (namespace, name) = object(path)?;
            return Ok(Self {
                host: Host::Service { namespace, name },
                port,
                protocol,
            });
        }
        let (host, port) = host_and_port(rest)?;
        let host = match host.parse() {
            Ok(ip) => Host::Address(ip),
            Err(_) if host == "localhost" => Host::Address(Ipv4Addr::LOCALHOST.into()),
            Err(_) => by_name(host)?,
        };
        let port = port.map(port_name).transpose()?;
        match (&host, &port) {
            (Host::Address(_), None) => Err(format!("has no port; {FORMS}")),
            (Host::Address(_), Some(PortName::Name(name))) => {
                Err(format!("{name:?} is no port number; {FORMS}"))
            }
            _ => Ok(Self {
                host,
                port,
                protocol,
            }),
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |port: &str| match port_name(port)? {
            PortName::Number(number) => Ok(number),
            PortName::Name(name) => Err(format!("{name:?} is no port number")),
        };
        if let Some(path) = text.strip_prefix("pod/") {
            let (path, port) = match path.split_once(':') {
                Some((path, port)) => (path, Some(number(port)?)),
                None => (path, None),
            };
            let (namespace, name) = object(path)?;
            return Ok(Self {
                host: OriginHost::Pod { namespace, name },
                port,
            });
        }
        // An IPv6 address alone has colons too.
        let (host, port) = match text.parse::<IpAddr>() {
            Ok(_) => (text, None),
            Err(_) => host_and_port(text)?,
        };
        let host = host.parse().map_err(|_| {
            format!("{host:?} is no address; write IP[:PORT] or pod/NAMESPACE/NAME")
        })?;
        Ok(Self {
            host: OriginHost::Address(host),
            port: port.map(number).transpose()?,
        })
    }
}

/// A protocol behind the last slash, if that is one and not a name of `svc/NAMESPACE/NAME`.
fn split_protocol(text: &str) -> Result<(&str, Option<Protocol>), String> {
    let Some((rest, last)) = text.rsplit_once('/') else {
        return Ok((text, None));
    };
    let is_path = text.starts_with("svc/") || text.starts_with("service/");
    if is_path && !rest.contains(':') && rest.matches('/').count() < 2 {
        return Ok((text, None));
    }
    match Protocol::from_name(&last.to_ascii_uppercase()) {
        Some(protocol) => Ok((rest, Some(protocol))),
        None => Err(format!("{last:?} is neither tcp, udp nor sctp; {FORMS}")),
    }
}

/// `[fd00::1]:80`, `10.0.0.1:80`, `name:80`, or the same without a port.
fn host_and_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| format!("{text:?} has no closing bracket"))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(format!("{rest:?} follows the address; write [{host}]:PORT")),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => {
            Err("an IPv6 address with a port is written in brackets: [fd00::1]:80".into())
        }
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn port_name(text: &str) -> Result<PortName, String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match text.parse::<u16>() {
        Ok(0) => Err("port 0 is none; write 1-65535".into()),
        Ok(number) => Ok(PortName::Number(number)),
        Err(_) if text.chars().all(|c| c.is_ascii_digit()) => {
            Err(format!("{text:?} is no port; write 1-65535"))
        }
        Err(_) if text.chars().all(is_name) => Ok(PortName::Name(text.into())),
        Err(_) => Err(format!(
            "{text:?} is no port; write a number, or the name of a Service's port"
        )),
    }
}

/// `NAMESPACE/NAME`, or `NAME` in `default`.
fn object(path: &str) -> Result<(String, String), String> {
    let (namespace, name) = path.split_once('/').unwrap_or(("default", path));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(format!("{path:?} is no NAMESPACE/NAME"));
    }
    Ok((namespace.into(), name.into()))
}

/// `NAME`, `NAME.NAMESPACE`, `NAME.NAMESPACE.svc` and whatever the cluster's domain is.
fn by_name(host: &str) -> Result<Host, String> {
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    let is_label = |label: &&str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let (name, namespace) = match labels.as_slice() {
        _ if !labels.iter().all(is_label) => {
            return Err(format!(
                "{host:?} is neither an address nor a Service; {FORMS}"
            ));
        }
        [name] => (name, &"default"),
        [name, namespace] | [name, namespace, "svc", ..] => (name, namespace),
        _ => {
            return Err(format!(
                "{host:?} is not NAME.NAMESPACE.svc; give the address of a host that is no Service"
            ));
        }
    };
    Ok(Host::Service {
        namespace: namespace.to_ascii_lowercase(),
        name: name.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str) -> Host {
        Host::Service {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    #[test]
    fn services_are_named_as_kubectl_and_dns_name_them() {
        let number = |n| Some(PortName::Number(n));
        let named = |n: &str| Some(PortName::Name(n.into()));
        for (text, host, port, protocol) in [
            (
                "svc/default/api:80",
                service("default", "api"),
                number(80),
                None,
            ),
            ("svc/default/api", service("default", "api"), None, None),
            (
                "svc/api:http",
                service("default", "api"),
                named("http"),
                None,
            ),
            ("svc/shop/tcp", service("shop", "tcp"), None, None),
            (
                "svc/shop/tcp/udp",
                service("shop", "tcp"),
                None,
                Some(Protocol::Udp),
            ),
            (
                "svc/shop/dns:53/UDP",
                service("shop", "dns"),
                number(53),
                Some(Protocol::Udp),
            ),
            ("api:80", service("default", "api"), number(80), None),
            ("api.shop:80", service("shop", "api"), number(80), None),
            (
                "api.shop.svc:80/sctp",
                service("shop", "api"),
                number(80),
                Some(Protocol::Sctp),
            ),
            (
                "api.shop.svc.cluster.local.:80",
                service("shop", "api"),
                number(80),
                None,
            ),
            (
                "[fd00::1]:80",
                Host::Address("fd00::1".parse().unwrap()),
                number(80),
                None,
            ),
            (
                "10.0.0.1:53/udp",
                Host::Address("10.0.0.1".parse().unwrap()),
                number(53),
                Some(Protocol::Udp),
            ),
            (
                "localhost:30080",
                Host::Address("127.0.0.1".parse().unwrap()),
                number(30080),
                None,
            ),
        ] {
            let wanted = Target {
                host,
                port,
                protocol,
            };
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn a_client_is_an_address_or_a_pod() {
        let ip = |text: &str| OriginHost::Address(text.parse().unwrap());
        let pod = OriginHost::Pod {
            namespace: "shop".into(),
            name: "web-1".into(),
        };
        for (text, host, port) in [
            ("10.0.0.1", ip("10.0.0.1"), None),
            ("10.0.0.1:40000", ip("10.0.0.1"), Some(40000)),
            ("fd00::1", ip("fd00::1"), None),
            ("[fd00::1]:40000", ip("fd00::1"), Some(40000)),
            ("pod/shop/web-1", pod.clone(), None),
            ("pod/shop/web-1:40000", pod, Some(40000)),
        ] {
            assert_eq!(text.parse(), Ok(Origin { host, port }), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said_and_never_a_panic() {
        for (text, says) in [
            ("10.0.0.1", "has no port"),
            ("10.0.0.1:http", "no port number"),
            ("10.0.0.1:0", "1-65535"),
            ("10.0.0.1:70000", "1-65535"),
            ("10.0.0.1:80/icmp", "neither tcp, udp nor sctp"),
            ("fd00::1:80", "brackets"),
            ("[fd00::1", "bracket"),
            ("[fd00::1]80", "follows"),
            ("svc//api:80", "NAMESPACE/NAME"),
            ("svc/a/b:80/c", "neither tcp"),
            ("www.example.com:80", "NAME.NAMESPACE.svc"),
            ("a_b:80", "neither an address nor a Service"),
            ("", "neither an address nor a Service"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        for text in [
            "web",
            "10.0.0.1:x",
            "pod/",
            "pod/a/b/c",
            "[::1",
            "10.0.0.1:0",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
