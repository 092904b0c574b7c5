//! The limit of open files: maps, programs, links, and what listeners have open.

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Half of it is open on a node without pods.
const NEEDED: u64 = 512;
/// More than enough.
const WANTED: u64 = 65_536;

/// Raises it as far as it may go.
pub(super) fn raise() -> Result<()> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("asking for the limit of open files")?;
    ensure!(
        hard >= NEEDED,
        "no more than {hard} open files are allowed, and {NEEDED} are needed: raise the hard limit (ulimit -Hn, LimitNOFILE=)"
    );
    let limit = hard.min(WANTED);
    if soft < limit {
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard)
            .context("raising the limit of open files")?;
    }
    Ok(())
}
