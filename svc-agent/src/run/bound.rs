//! Warns about what operators should act on and only the programs see: binds of node ports (C7), tables that are full.

use std::path::PathBuf;
use std::time::Duration;

use svc_common::reason::Reason;

use crate::dataplane::Pinned;

const EVERY: Duration = Duration::from_secs(10);

const WATCHED: [Reason; 3] = [
    Reason::NodePortBound,
    Reason::FlowTableFull,
    Reason::SnatPortsExhausted,
];

/// Looks at the counters now and then.
pub(super) async fn watch(root: PathBuf, refused: bool) {
    // Not while another version's maps are still there.
    let pinned = loop {
        match Pinned::open(&root) {
            Ok(pinned) => break pinned,
            Err(_) => tokio::time::sleep(EVERY).await,
        }
    };
    let mut known = counts(&pinned).unwrap_or_default();
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(now) = counts(&pinned) else { continue };
        for ((reason, known), now) in WATCHED.into_iter().zip(known).zip(now) {
            if let Some(line) = warning(reason, known, now, refused) {
                tracing::warn!("{line}");
            }
        }
        known = now;
    }
}

fn counts(pinned: &Pinned) -> Option<[u64; WATCHED.len()]> {
    let reasons = pinned.reasons().ok()?;
    Some(WATCHED.map(|wanted| {
        let found = reasons.iter().find(|(reason, _)| *reason == wanted);
        found.map_or(0, |(_, count)| *count)
    }))
}

fn warning(reason: Reason, known: u64, now: u64, refused: bool) -> Option<String> {
    let new = now.checked_sub(known).filter(|new| *new > 0)?;
    Some(match reason {
        Reason::FlowTableFull => format!(
            "{new} packets of new connections were dropped: the flow table is full of connections in use; see `svc-agent \
             get flows` for whose they are"
        ),
        Reason::SnatPortsExhausted => format!(
            "{new} packets were dropped: all ports for masquerading towards a backend are in use; leave more outside of \
             net.ipv4.ip_local_port_range"
        ),
        _ if refused => format!(
            "{new} binds of ports that are NodePorts were refused: give the process another port"
        ),
        _ => format!(
            "processes of this node bound ports that are NodePorts ({new} new): the Service gets what is sent there; \
             give the process another port, or refuse such binds with --protect-node-ports"
        ),
    })
}

#[cfg(test)]
mod tests {
    use svc_common::reason::Reason::{FlowTableFull, NodePortBound};

    use super::warning;

    #[test]
    fn only_what_is_new_is_worth_a_line() {
        assert_eq!(warning(NodePortBound, 3, 3, false), None);
        assert_eq!(
            warning(NodePortBound, 3, 0, false),
            None,
            "the maps are new"
        );
        let line = warning(NodePortBound, 3, 5, false).unwrap();
        assert!(
            line.contains("2 new") && line.contains("--protect-node-ports"),
            "{line}"
        );
        let line = warning(NodePortBound, 0, 1, true).unwrap();
        assert!(line.contains("refused"), "{line}");
        let line = warning(FlowTableFull, 1, 8, false).unwrap();
        assert!(line.starts_with("7 packets"), "{line}");
    }
}
