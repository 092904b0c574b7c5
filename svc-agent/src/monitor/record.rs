//! An event as people and scripts read it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use svc_common::event::{Event, Kind, Place};
use svc_common::reason::Reason;

use super::names::Names;
use super::words::why;
use crate::desired::Protocol;

/// One event. The fields of its JSON only ever grow; what is not known is `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Record {
    /// RFC 3339, by the clock of this node.
    pub(crate) time: String,
    /// `new`: the first packet of a flow. `connected`: a socket was connected to its backend. `refused`: the client was
    /// told at once. `dropped`: it was not.
    pub(crate) event: &'static str,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) port_name: Option<String>,
    pub(crate) protocol: Option<String>,
    /// `address:port`, or the address alone where the port could not be read. None of a socket.
    pub(crate) client: Option<String>,
    /// What the client asked for.
    pub(crate) frontend: String,
    pub(crate) backend: Option<String>,
    /// Where the packet came in, or was to go out.
    pub(crate) device: Option<String>,
    /// `tc`, `xdp` or `socket`.
    pub(crate) hook: &'static str,
    pub(crate) pid: Option<u32>,
    pub(crate) process: Option<String>,
    /// The name that counters have.
    pub(crate) reason: Option<&'static str>,
    /// The same for people.
    pub(crate) why: Option<&'static str>,
    #[serde(skip)]
    pub(crate) from: Option<IpAddr>,
}

impl Record {
    /// None for a record that no program of this version writes.
    pub(crate) fn of(event: &Event, at: Duration, names: &mut Names) -> Option<Self> {
        let reason = Reason::ALL.get(usize::from(event.reason)).copied();
        let (what, reason) = match event.kind {
            k if k == Kind::Opened as u8 => ("new", None),
            k if k == Kind::Connected as u8 => ("connected", None),
            k if k == Kind::Lost as u8 => {
                let verb = if reason?.refuses() {
                    "refused"
                } else {
                    "dropped"
                };
                (verb, reason)
            }
            _ => return None,
        };
        let hook = match event.place {
            p if p == Place::Xdp as u8 => "xdp",
            p if p == Place::Socket as u8 => "socket",
            _ => "tc",
        };
        let ip = |words: [u32; 4]| address(words, event.version);
        let port = event.frontend_port.get();
        let service = names.service(event.service, ip(event.frontend), port, event.proto);
        let service = service.map(|label| label.port);
        let is_socket = hook == "socket";
        let from = (!is_socket).then(|| ip(event.client));
        let has_backend = event.backend_port.get() != 0;
        let pid = (event.pid != 0).then_some(event.pid);
        Some(Self {
            time: time(at),
            event: what,
            namespace: service.as_ref().map(|s| s.service.namespace.to_string()),
            name: service.as_ref().map(|s| s.service.name.to_string()),
            port_name: service
                .map(|s| s.port.to_string())
                .filter(|port| !port.is_empty()),
            protocol: protocol(event.proto),
            client: from.map(|ip| socket(ip, event.client_port.get())),
            frontend: socket(ip(event.frontend), port),
            backend: has_backend.then(|| socket(ip(event.backend), event.backend_port.get())),
            device: names.device(event.ifindex).filter(|_| !is_socket),
            hook,
            pid,
            process: is_socket.then(|| process(event.client)),
            reason: reason.map(Reason::name),
            why: reason.map(why),
            from,
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {:<9}", clock(&self.time), self.event)?;
        let port = self.port_name.as_ref();
        let service = match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("{namespace}/{name}{port}")
            }
            _ => "-".into(),
        };
        write!(
            f,
            "  {service:<24}  {:<4}",
            self.protocol.as_deref().unwrap_or("?")
        )?;
        match (&self.client, self.pid) {
            (Some(client), _) => write!(f, " {client}")?,
            (None, Some(pid)) => {
                write!(
                    f,
                    " {}[{pid}]",
                    self.process.as_deref().unwrap_or("process")
                )?;
            }
            (None, None) => write!(f, " a socket")?,
        }
        write!(f, " → {}", self.frontend)?;
        if let Some(backend) = &self.backend {
            write!(f, " → {backend}")?;
        }
        if let Some(device) = &self.device {
            write!(f, "  at {device}")?;
        }
        if let (Some(reason), Some(why)) = (self.reason, self.why) {
            write!(f, "  {reason}: {why}")?;
        }
        Ok(())
    }
}

/// Milliseconds are what the clocks of two nodes may agree about.
pub(crate) fn time(since_epoch: Duration) -> String {
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

/// The time of day, of a time.
pub(crate) fn clock(time: &str) -> &str {
    time.split_once('T')
        .map_or(time, |(_, clock)| clock.trim_end_matches('Z'))
}

/// As the kernel keeps it: 15 characters at most, and zeroes.
fn process(words: [u32; 4]) -> String {
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

fn address(words: [u32; 4], version: u8) -> IpAddr {
    let mut bytes = [0; 16];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    let [a, b, c, d, ..] = bytes;
    if version == 4 {
        Ipv4Addr::new(a, b, c, d).into()
    } else {
        Ipv6Addr::from(bytes).into()
    }
}

fn socket(ip: IpAddr, port: u16) -> String {
    if port == 0 {
        ip.to_string()
    } else {
        SocketAddr::new(ip, port).to_string()
    }
}

fn protocol(number: u8) -> Option<String> {
    match number {
        0 => None,
        number => Some(
            Protocol::from_number(number)
                .map_or_else(|| format!("protocol {number}"), |p| p.to_string()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            time: time(Duration::from_millis(1_764_000_000_123)),
            event: "refused",
            namespace: Some("shop".into()),
            name: Some("web".into()),
            port_name: Some("http".into()),
            protocol: protocol(6),
            client: Some(socket([10, 0, 0, 9].into(), 4711)),
            frontend: socket([10, 96, 0, 4].into(), 80),
            backend: None,
            device: Some("eth0".into()),
            hook: "tc",
            pid: None,
            process: None,
            reason: Some(Reason::NoEndpoints.name()),
            why: Some("why"),
            from: None,
        }
    }

    #[test]
    fn a_line_says_when_what_who_and_why() {
        assert_eq!(
            record().to_string(),
            "16:00:00.123  refused    shop/web:http             TCP  10.0.0.9:4711 → 10.96.0.4:80  at eth0  no-endpoints: why"
        );
    }

    #[test]
    fn a_socket_is_named_by_its_process_and_shows_its_backend() {
        let record = Record {
            event: "connected",
            client: None,
            backend: Some("[fd00::1]:8080".into()),
            device: None,
            pid: Some(17),
            process: Some("curl".into()),
            reason: None,
            why: None,
            ..record()
        };
        let line = record.to_string();
        assert!(
            line.ends_with("TCP  curl[17] → 10.96.0.4:80 → [fd00::1]:8080"),
            "{line}"
        );
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["time"], "2025-11-24T16:00:00.123Z");
        assert_eq!((&json["pid"], &json["reason"]), (&17.into(), &().into()));
        assert!(json.get("from").is_none());
    }

    #[test]
    fn addresses_are_read_as_the_programs_write_them() {
        let words = [u32::from_ne_bytes([10, 1, 2, 3]), 0, 0, 0];
        assert_eq!(address(words, 4), IpAddr::from([10, 1, 2, 3]));
        let v6: Ipv6Addr = "fd00:1::2".parse().unwrap();
        let octets = v6.octets();
        let words = [0, 4, 8, 12]
            .map(|i| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]));
        assert_eq!(address(words, 6), IpAddr::from(v6));
        assert_eq!(socket([10, 1, 2, 3].into(), 0), "10.1.2.3");
        let words = [*b"curl", [0; 4], *b"junk", [0; 4]].map(u32::from_ne_bytes);
        assert_eq!(process(words), "curl");
    }
}
