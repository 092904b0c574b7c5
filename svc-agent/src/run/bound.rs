//! Warns about processes of the node that bind node ports: what they wait for goes to the Service (C7).

use std::path::PathBuf;
use std::time::Duration;

use svc_common::reason::Reason;

use crate::dataplane::Pinned;

const EVERY: Duration = Duration::from_secs(10);

/// Looks at the counter now and then.
pub(super) async fn watch(root: PathBuf, refused: bool) {
    let Ok(pinned) = Pinned::open(&root) else {
        return;
    };
    let mut known = count(&pinned).unwrap_or(0);
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(now) = count(&pinned) else { continue };
        if let Some(line) = warning(known, now, refused) {
            tracing::warn!("{line}");
        }
        known = now;
    }
}

fn count(pinned: &Pinned) -> Option<u64> {
    let reasons = pinned.reasons().ok()?;
    reasons
        .into_iter()
        .find(|(reason, _)| *reason == Reason::NodePortBound)
        .map(|(_, count)| count)
}

fn warning(known: u64, now: u64, refused: bool) -> Option<String> {
    let new = now.checked_sub(known).filter(|new| *new > 0)?;
    Some(if refused {
        format!(
            "{new} binds of ports that are NodePorts were refused: give the process another port"
        )
    } else {
        format!(
            "processes of this node bound ports that are NodePorts ({new} new): the Service gets what is sent there; \
             give the process another port, or refuse such binds with --protect-node-ports"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn only_new_binds_are_worth_a_line() {
        assert_eq!(warning(3, 3, false), None);
        assert_eq!(warning(3, 0, false), None, "the maps are new");
        let line = warning(3, 5, false).unwrap();
        assert!(
            line.contains("2 new") && line.contains("--protect-node-ports"),
            "{line}"
        );
        assert!(warning(0, 1, true).unwrap().contains("refused"));
    }
}
