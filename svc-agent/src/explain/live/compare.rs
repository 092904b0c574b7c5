//! What was foretold against what happened. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::explain::report::{Explanation, Verdict, WayItem};

/// What became of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    Forwarded {
        backend: SocketAddr,
        client: Option<IpAddr>,
        /// As whom the backend sees the client; None: as itself.
        nat: Option<SocketAddr>,
        /// The socket was connected to the backend, and no packet is changed.
        by_socket: bool,
        /// The backend answers the client past this node, and the node cannot tell as whom it sees it.
        tunnelled: bool,
    },
    Lost {
        refused: bool,
        reason: &'static str,
    },
}

/// What is not as it was foretold.
pub(super) fn differences(foretold: &Explanation, happened: &Happened) -> Vec<String> {
    match happened {
        Happened::Lost { refused, reason } => {
            let wanted = if *refused {
                Verdict::Refused
            } else {
                Verdict::Dropped
            };
            if foretold.verdict == wanted && foretold.reason == Some(reason) {
                return Vec::new();
            }
            let was = if *refused { "refused" } else { "dropped" };
            vec![format!(
                "it was {was} ({reason}), and not {}",
                fate(foretold)
            )]
        }
        Happened::Forwarded { backend, .. } if foretold.verdict != Verdict::Forwarded => {
            vec![format!(
                "it went to {backend}, and was not {}",
                fate(foretold)
            )]
        }
        Happened::Forwarded {
            backend,
            client,
            nat,
            by_socket,
            tunnelled,
        } => {
            let backend = backend.to_string();
            let ways = ways(foretold);
            if !candidates(foretold).contains(&backend.as_str()) {
                return vec![format!(
                    "it went to {backend}, and not to {}",
                    candidates(foretold).join(" or ")
                )];
            }
            let Some(way) = ways.into_iter().find(|way| way.backend == backend) else {
                return Vec::new();
            };
            let mut differences = Vec::new();
            if *by_socket != (way.route == "socket") {
                let how = |socket| {
                    if socket {
                        "by connecting the socket"
                    } else {
                        "packet by packet"
                    }
                };
                differences.push(format!(
                    "it is translated {}, and not {}",
                    how(*by_socket),
                    how(!by_socket)
                ));
            } else if !by_socket && !tunnelled {
                differences.extend(seen_otherwise(way, *client, *nat));
            }
            differences
        }
    }
}

/// As whom the backend sees the client; ports cannot be foretold.
fn seen_otherwise(
    way: &WayItem,
    client: Option<IpAddr>,
    nat: Option<SocketAddr>,
) -> Option<String> {
    let seen = nat.map(|nat| nat.ip()).or(client)?;
    let foretold = way.seen_as.rsplit_once(':').map(|(host, _)| host)?;
    let foretold: IpAddr = foretold.trim_matches(['[', ']']).parse().ok()?;
    (seen != foretold).then(|| format!("the backend sees it as {seen}, and not as {foretold}"))
}

fn ways(foretold: &Explanation) -> Vec<&WayItem> {
    match &foretold.way {
        Some(way) => vec![way],
        None => foretold
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.way.as_ref())
            .collect(),
    }
}

fn candidates(foretold: &Explanation) -> Vec<&str> {
    match &foretold.way {
        Some(way) => vec![&way.backend],
        None => foretold
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.percent.is_some())
            .map(|endpoint| endpoint.backend.as_str())
            .collect(),
    }
}

fn fate(foretold: &Explanation) -> String {
    let reason = foretold.reason.map_or(String::new(), |r| format!(" ({r})"));
    match foretold.verdict {
        Verdict::Forwarded => format!("forwarded to {}", candidates(foretold).join(" or ")),
        Verdict::Passed => "passed on as it is".into(),
        Verdict::Refused => format!("refused{reason}"),
        Verdict::Dropped => format!("dropped{reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::report::{EndpointItem, PacketItem};

    fn way(backend: &str, seen_as: &str, route: &'static str) -> WayItem {
        WayItem {
            backend: backend.into(),
            seen_as: seen_as.into(),
            masqueraded: false,
            route,
            device: None,
            next_hop: None,
            words: String::new(),
        }
    }

    fn foretold(verdict: Verdict, reason: Option<&'static str>, ways: &[WayItem]) -> Explanation {
        let endpoint = |way: &WayItem| EndpointItem {
            backend: way.backend.clone(),
            pod: None,
            local: None,
            percent: Some(50.0),
            why: String::new(),
            way: Some(way.clone()),
        };
        Explanation {
            packet: PacketItem {
                protocol: "TCP".into(),
                from: "10.244.1.5:*".into(),
                client: "pod",
                pod: None,
                device: None,
                to: "10.96.0.10:80".into(),
            },
            frontend: None,
            hooks: Vec::new(),
            flow: None,
            affinity: None,
            endpoints: ways.iter().map(endpoint).collect(),
            verdict,
            reason,
            why: String::new(),
            fix: None,
            way: None,
            notes: Vec::new(),
        }
    }

    fn forwarded(backend: &str, nat: Option<&str>, by_socket: bool) -> Happened {
        Happened::Forwarded {
            backend: backend.parse().unwrap(),
            client: "10.244.1.5".parse().ok(),
            nat: nat.map(|nat| nat.parse().unwrap()),
            by_socket,
            tunnelled: false,
        }
    }

    #[test]
    fn any_backend_that_gets_connections_is_as_foretold_and_others_are_not() {
        let two = [
            way("10.244.1.7:80", "10.244.1.5:*", "forward"),
            way("10.244.2.7:80", "172.18.0.11:*", "forward"),
        ];
        let foretold = foretold(Verdict::Forwarded, None, &two);
        let of = |happened| differences(&foretold, &happened);
        assert_eq!(of(forwarded("10.244.1.7:80", None, false)), [""; 0]);
        let masqueraded = forwarded("10.244.2.7:80", Some("172.18.0.11:40000"), false);
        assert_eq!(of(masqueraded), [""; 0]);
        assert_eq!(
            of(forwarded("10.244.2.7:80", None, false)),
            ["the backend sees it as 10.244.1.5, and not as 172.18.0.11"]
        );
        assert_eq!(
            of(forwarded("10.244.3.7:80", None, false)),
            ["it went to 10.244.3.7:80, and not to 10.244.1.7:80 or 10.244.2.7:80"]
        );
        assert_eq!(
            of(forwarded("10.244.1.7:80", None, true)),
            ["it is translated by connecting the socket, and not packet by packet"]
        );
        let lost = Happened::Lost {
            refused: false,
            reason: "no-route",
        };
        assert_eq!(
            of(lost),
            ["it was dropped (no-route), and not forwarded to 10.244.1.7:80 or 10.244.2.7:80"]
        );
    }

    #[test]
    fn a_refusal_is_as_foretold_if_its_reason_is() {
        let foretold = foretold(Verdict::Refused, Some("no-endpoints"), &[]);
        let lost = |refused, reason| Happened::Lost { refused, reason };
        assert_eq!(differences(&foretold, &lost(true, "no-endpoints")), [""; 0]);
        assert_eq!(differences(&foretold, &lost(true, "source-range")).len(), 1);
        assert_eq!(
            differences(&foretold, &forwarded("10.244.1.7:80", None, false)),
            ["it went to 10.244.1.7:80, and was not refused (no-endpoints)"]
        );
    }

    #[test]
    fn ipv6_clients_are_compared_without_their_brackets() {
        let one = [way("[fd00::7]:80", "[fd00::5]:*", "forward")];
        let foretold = foretold(Verdict::Forwarded, None, &one);
        let mut happened = forwarded("[fd00::7]:80", None, false);
        if let Happened::Forwarded { client, .. } = &mut happened {
            *client = "fd00::5".parse().ok();
        }
        assert_eq!(differences(&foretold, &happened), [""; 0]);
    }
}
