//! `--host-routing`: whether packets for pods of this node may skip the host's stack, and if not, why.
//!
//! `auto` lets them where nothing in the stack is there for them: no rules that forwarded packets meet, no strict reverse
//! path filter, no programs or queues of others at the devices. What cannot be found out counts as an obstacle.

mod devices;
mod facts;
#[cfg(test)]
mod tests;
mod watch;

pub use devices::peers;
pub use facts::Facts;
pub use watch::Watch;

use crate::config::HostRouting;

/// What skips the stack, and the reason in a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub from_pods: bool,
    pub from_outside: bool,
    pub why: String,
}

impl Verdict {
    fn new(from_pods: bool, from_outside: bool, why: impl Into<String>) -> Self {
        Self {
            from_pods,
            from_outside,
            why: why.into(),
        }
    }
}

/// Decides for the node.
pub fn verdict(wanted: HostRouting, takeover: bool, facts: &Facts) -> Verdict {
    let stack = |why: &str| Verdict::new(false, false, format!("by the host's stack: {why}"));
    match wanted {
        HostRouting::Kernel => stack("--host-routing kernel"),
        // Answers of kube-proxy's connections are translated back in the stack.
        _ if takeover => stack("--takeover leaves connections to kube-proxy"),
        HostRouting::Bpf => Verdict::new(
            true,
            true,
            "past the host's stack to pods of this node: --host-routing bpf",
        ),
        HostRouting::Auto => match (&facts.of_pods[..], &facts.of_outside[..]) {
            ([], []) => Verdict::new(
                true,
                true,
                "past the host's stack to pods of this node: nothing there concerns them",
            ),
            ([], outside) => Verdict::new(
                true,
                false,
                format!(
                    "past the host's stack between pods of this node; from outside by the stack: {}",
                    short(outside)
                ),
            ),
            (obstacles, _) => stack(&short(obstacles)),
        },
    }
}

fn short(obstacles: &[String]) -> String {
    match obstacles {
        [] => String::new(),
        [only] => only.clone(),
        [first, more @ ..] => format!("{first}, and {} more", more.len()),
    }
}
