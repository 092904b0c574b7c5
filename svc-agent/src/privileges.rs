//! What the agent may still do once it runs. When its programs are loaded it lets go of the capabilities that only that
//! took, of all that a program it executes could have, and of system calls that it has no use for.
//!
//! Capabilities are each thread's own, and inherited. Before [`let_go`] there are threads of tokio's blocking pool at most;
//! they let go as they start ([`in_threads`]), and every other thread is made afterwards. No-new-privileges and the filter
//! of system calls are laid on all threads at once.

mod capability;
mod filter;
mod sys;

pub use capability::{Capability, Set};

use std::fmt;
use std::fs;
use std::io;

use crate::config::{Privileges, Run};
use filter::Wanted;

/// To load the programs and attach them.
pub const TO_START: [Capability; 3] = [Capability::BPF, Capability::NET_ADMIN, Capability::PERFMON];

/// What a running agent needs, and what for; docs/reliability.md has the same table.
pub fn needed(options: &Run) -> Vec<(Capability, &'static str)> {
    let mut needed = vec![
        (
            Capability::BPF,
            "reads and writes maps, makes, swaps and pins links",
        ),
        (
            Capability::NET_ADMIN,
            "attaches to devices as they come, is told of nftables' rules, aborts sockets",
        ),
        (
            Capability::NET_BIND_SERVICE,
            "health check node ports below 1024, if the cluster's range of node ports has some",
        ),
    ];
    if options.reaches_into_pods() {
        needed.extend([
            (
                Capability::SYS_ADMIN,
                "enters pods' network namespaces, where UDP sockets of gone backends are aborted",
            ),
            (
                Capability::SYS_PTRACE,
                "finds the namespaces that only processes name",
            ),
        ]);
    }
    if options.kubeconfig.is_some() || options.manifests.is_some() {
        needed.push((
            Capability::DAC_READ_SEARCH,
            "reads the files of whoever has given --manifests or --kubeconfig",
        ));
    }
    needed
}

/// The same as a set.
fn kept(options: &Run) -> Set {
    needed(options)
        .into_iter()
        .map(|(capability, _)| capability)
        .collect()
}

/// Has the runtime's threads let go as they start.
pub fn in_threads(options: &Run, runtime: &mut tokio::runtime::Builder) {
    if options.privileges == Privileges::Drop {
        let keep = kept(options);
        runtime.on_thread_start(move || {
            if let Err(error) = lower(keep) {
                tracing::warn!("{error}; this thread keeps its capabilities");
            }
        });
    }
}

/// Lets go, as far as the settings say. What cannot be let go of is kept, and said: it is no reason not to serve.
pub fn let_go(options: &Run) {
    if options.privileges == Privileges::Keep {
        tracing::warn!("--privileges keep: the agent keeps all rights that it was started with");
        return;
    }
    let wanted = Wanted {
        programs: options.kubeconfig.is_some(),
        namespaces: options.reaches_into_pods(),
    };
    for outcome in [
        failing("setting no-new-privileges", sys::set_no_new_privileges()),
        failing("forbidding core dumps", sys::set_undumpable()),
        lower(kept(options)),
        failing(
            "filtering system calls",
            sys::filter(&mut filter::program(wanted)),
        ),
    ] {
        if let Err(error) = outcome {
            tracing::warn!("{error}; the agent runs with more rights than it needs");
        }
    }
    match Held::read() {
        Ok(held) => tracing::info!("privileges: {held}"),
        Err(error) => tracing::warn!("reading which privileges are left: {error}"),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
struct Error {
    what: &'static str,
    cause: io::Error,
}

fn failing(what: &'static str, result: io::Result<()>) -> Result<(), Error> {
    result.map_err(|cause| Error { what, cause })
}

/// Leaves this thread no more than these capabilities, and what it executes none.
fn lower(keep: Set) -> Result<(), Error> {
    let asking = |result: io::Result<u64>| {
        result.map_err(|cause| Error {
            what: "asking for capabilities",
            cause,
        })
    };
    let permitted = Set(asking(sys::permitted())?);
    // Container runtimes that do not know BPF give SYS_ADMIN in its place.
    let keep = if permitted.has(Capability::BPF) {
        keep
    } else {
        keep.with(Capability::SYS_ADMIN)
    };
    // The bounding set first: that asks for SETPCAP, which is about to go. Without it nothing can be done, and little is
    // lost: with no-new-privileges nothing executed has more than there is.
    if permitted.has(Capability::SETPCAP) {
        for capability in Set::ALL.iter() {
            if sys::is_bounded(capability.number()) {
                failing(
                    "emptying the bounding set",
                    sys::unbound(capability.number()),
                )?;
            }
        }
    }
    failing("clearing ambient capabilities", sys::clear_ambient())?;
    failing(
        "dropping capabilities",
        sys::set_permitted(keep.0 & permitted.0),
    )
}

/// What a process may do, by its /proc/PID/status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub effective: Set,
    pub bounding: Set,
    pub no_new_privileges: bool,
    /// A filter refuses system calls.
    pub filtered: bool,
}

impl Held {
    /// Of the thread that asks.
    pub fn read() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/thread-self/status")?;
        Self::parse(&status).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    pub fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let set = |name| Some(Set(u64::from_str_radix(field(name)?, 16).ok()?));
        Some(Self {
            effective: set("CapEff")?,
            bounding: set("CapBnd")?,
            no_new_privileges: field("NoNewPrivs") == Some("1"),
            filtered: field("Seccomp") == Some("2"),
        })
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.effective)?;
        if self.no_new_privileges {
            f.write_str("; no new ones")?;
        }
        if self.filtered {
            f.write_str("; system calls are filtered")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
