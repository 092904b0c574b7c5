//! What each hook does, in words; and which hooks are not where the packet is.

use svc_common::family::Family;
use svc_common::socket::Mode;
use svc_common::steer::Client;
use svc_common::table::{SCTP, Tables, UDP, frontend_flags, node_flags};

use super::judge::Case;
use super::report::HookItem;
use super::tables::Side;
use super::trace::{Fate, Hook, Outcome, Steps};

pub(super) fn items<F: Side>(
    case: &Case<'_, F>,
    steps: &Steps<F>,
    outcome: &Outcome<F>,
    unmet: Option<&str>,
) -> Vec<HookItem> {
    let mut items: Vec<HookItem> = steps
        .iter()
        .map(|(hook, fate)| HookItem {
            hook: name::<F>(*hook),
            at: at(case, *hook),
            does: does(*fate),
            why: why(case, *hook, *fate, outcome),
        })
        .collect();
    let attached = &case.evidence.maps.attached;
    if let Some(first) = items.first_mut()
        && case.asked.client != Client::Outside
        && !attached.has_socket_hook(F::VERSION == 6)
    {
        first.does = "absent";
        first.why = "no sockets are served (--socket-lb off)".into();
    }
    if let (Some(why), Some(last)) = (unmet, items.last_mut())
        && last.at != "cgroup"
    {
        last.does = "absent";
        last.why = why.to_owned();
    }
    items
}

fn name<F: Family>(hook: Hook) -> String {
    match hook {
        Hook::Socket => format!("connect{}", F::VERSION),
        Hook::PodIngress => "pod_ingress".into(),
        Hook::NodeEgress => "node_egress".into(),
        Hook::NodeXdp => "node_xdp".into(),
        Hook::NodeIngress => "node_ingress".into(),
    }
}

fn at<F: Side>(case: &Case<'_, F>, hook: Hook) -> String {
    match (hook, case.asked.device) {
        (Hook::Socket, _) => "cgroup".into(),
        (_, Some(device)) => case.evidence.maps.device(device),
        (_, None) => "-".into(),
    }
}

fn does<F: Family>(fate: Fate<F>) -> &'static str {
    match fate {
        Fate::Passed => "passes",
        Fate::Connected(_) => "connects",
        Fate::Sent { .. } => "forwards",
        Fate::Stopped(reason) if reason.refuses() => "refuses",
        Fate::Stopped(_) => "drops",
    }
}

fn why<F: Side>(case: &Case<'_, F>, hook: Hook, fate: Fate<F>, outcome: &Outcome<F>) -> String {
    match (hook, fate) {
        (Hook::Socket, Fate::Connected(_)) => {
            "the socket is connected to a backend itself: none of its packets is changed".into()
        }
        (Hook::Socket, Fate::Passed) => socket_passes(case),
        (Hook::NodeXdp, Fate::Passed) => {
            "left to tc: only what goes to another node and back is done here".into()
        }
        (_, Fate::Passed) => "none of our business".into(),
        (_, Fate::Stopped(reason)) => format!("counted as {}", reason.name()),
        (_, Fate::Sent { reply: true, .. }) => {
            "an answer: gets its client, or frontend, back".into()
        }
        (_, Fate::Sent { .. }) if case.flow.is_some() => {
            "of a known flow: goes where that goes".into()
        }
        (_, Fate::Sent { .. }) => match outcome {
            Outcome::Sure(_) => "gets its backend as destination".into(),
            Outcome::OneOf => "gets one of the backends as destination".into(),
        },
        (_, Fate::Connected(_)) => String::new(),
    }
}

/// Why the socket hook leaves a call to the packet path: the order is that of [`svc_common::socket::connect`].
fn socket_passes<F: Side>(case: &Case<'_, F>) -> String {
    let config = case.tables.config.unwrap_or_default();
    let address = case.tables.address(&case.packet.dst);
    let is = |mode: Mode| config.socket_lb == mode as u32;
    let pod = case.asked.client == Client::Pod;
    if address == 0 && !F::is_loopback(&case.packet.dst) {
        return "no Service has this address".into();
    }
    if case.packet.proto == SCTP {
        return "SCTP is served packet by packet".into();
    }
    if is(Mode::Tcp) && case.packet.proto == UDP {
        return "UDP is served packet by packet (--socket-lb tcp)".into();
    }
    if is(Mode::HostOnly) && pod {
        return "pods are served packet by packet (--socket-lb host-only)".into();
    }
    if case.frontend.is_none() {
        return "no Service has this port".into();
    }
    if pod && config.flags & node_flags::MASQUERADE_ALL != 0 {
        return "masqueraded, which no socket can be (--masquerade-all)".into();
    }
    let why = match () {
        () if case.has(frontend_flags::SOURCE_RANGES) => "who may ask is for packets to tell",
        () if case.has(frontend_flags::LEAST_CONNECTIONS) => "connections are counted by packets",
        () if case.has(frontend_flags::ROUND_ROBIN) => {
            "which datagrams are one connection, packets tell"
        }
        () => "session affinity needs the client's address",
    };
    format!("{why}: served packet by packet")
}

/// Why the hook that decides is not met at all; None: it is.
pub(super) fn unmet<F: Side>(case: &Case<'_, F>, steps: &Steps<F>) -> Option<String> {
    let maps = case.evidence.maps;
    let to = case.asked.to.ip();
    let (hook, fate) = *steps.last()?;
    if hook == Hook::Socket || fate == Fate::Passed {
        return None;
    }
    let Some(device) = case.asked.device else {
        return (case.asked.client == Client::Node).then(|| {
            format!("this node has no route to {to}: its own stack does not send the packet")
        });
    };
    // Before Linux 6.6 programs at devices have no pins.
    if maps.attached.devices.is_empty() {
        return None;
    }
    let name = maps.device(device);
    let port_has = |program: &str| {
        let mut ports = maps
            .devices
            .iter()
            .filter(|(_, d)| d.master == Some(device));
        ports.any(|(ifindex, _)| maps.attached.is_at(program, *ifindex))
    };
    let is_at = |program: &str| maps.attached.is_at(program, device) || port_has(program);
    let (met, flag) = match hook {
        Hook::Socket => (true, ""),
        Hook::PodIngress => (is_at("pod_ingress"), "--pod-devices"),
        Hook::NodeEgress if is_at("node_egress_l3") => {
            return Some(format!(
                "{name} has no Ethernet headers: what the node itself sends there is served by sockets only (--socket-lb all)"
            ));
        }
        Hook::NodeEgress => (is_at("node_egress"), "--devices"),
        Hook::NodeXdp | Hook::NodeIngress => (
            is_at("node_ingress") || is_at("node_ingress_l3"),
            "--devices",
        ),
    };
    (!met).then(|| {
        format!("no program of svcplane is at {name}: packets there are not met; see {flag}")
    })
}
