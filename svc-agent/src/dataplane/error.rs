use std::io;
use std::path::PathBuf;

/// What can go wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot load the eBPF object: {0}")]
    Load(#[from] aya::EbpfError),
    #[error("the kernel refuses program {name}: {}", verifier_line(cause))]
    Program {
        name: &'static str,
        cause: aya::programs::ProgramError,
    },
    #[error("cannot {what} map {name}: {}", with_source(cause))]
    Map {
        what: &'static str,
        name: &'static str,
        cause: aya::maps::MapError,
    },
    #[error("cannot map {name} into memory: {cause}")]
    MapInto {
        name: &'static str,
        cause: io::Error,
    },
    #[error("cannot tell how many CPUs there are: {0}")]
    Cpus(io::Error),
    #[error("cannot read /dev/urandom: {cause}")]
    Random { cause: io::Error },
    #[error("the eBPF object has no {0}; agent and object are from different builds")]
    Missing(&'static str),
    #[error(
        "the pinned map {path} is of another version ({found}, expected {expected}); its traffic goes on. Run `svc-agent cleanup` to start anew"
    )]
    Layout {
        path: PathBuf,
        found: String,
        expected: String,
    },
    #[error(
        "cannot read the pinned map {path} ({cause}); its traffic goes on. Run `svc-agent cleanup` to start anew"
    )]
    Unreadable { path: PathBuf, cause: String },
    #[error("cannot {what} {path}: {cause}")]
    Pin {
        what: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error(
        "net.netfilter.{name} is {ours} and was {before}, and cannot be written ({cause}): sysctl -w net.netfilter.{name}={before}"
    )]
    Setting {
        name: String,
        ours: u32,
        before: u32,
        cause: io::Error,
    },
    #[error("cannot attach {name} to {target}: {cause}")]
    Attach {
        name: &'static str,
        target: String,
        cause: io::Error,
    },
    #[error(
        "{0}: no maps of svcplane are pinned there. Is the agent running with this --bpf-root?"
    )]
    NotPinned(PathBuf),
    #[error(
        "{0}: the dataplane there is of an agent that tells of no events; restart the agent, which renews it"
    )]
    NoEvents(PathBuf),
    #[error("{0} is not on a bpf file system: mount -t bpf bpf /sys/fs/bpf")]
    NotBpffs(PathBuf),
}

/// An error with what the kernel said.
fn with_source(error: &aya::maps::MapError) -> String {
    match error {
        aya::maps::MapError::SyscallError(call) => format!("{}: {}", call.call, call.io_error),
        other => other.to_string(),
    }
}

/// The verifier's last words say what is wrong; the log before them is for `-v`.
fn verifier_line(error: &aya::programs::ProgramError) -> String {
    match error {
        aya::programs::ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let line = log
                .lines()
                .rev()
                .find(|l| !l.starts_with("processed") && !l.starts_with("verification"));
            format!("{io_error}: {}", line.unwrap_or_default())
        }
        other => other.to_string(),
    }
}

/// For what is done to a map: `what` it is, as "read", and the map's name.
pub(super) fn failing(
    what: &'static str,
    name: &'static str,
) -> impl Fn(aya::maps::MapError) -> Error {
    move |cause| Error::Map { what, name, cause }
}
