//! `svc-agent get`: the pinned maps, rendered. Needs no running agent.

use anyhow::Result;

use crate::config::{Get, What};
use crate::dataplane::Pinned;
use crate::inspect::{self, Filter};
use crate::say::say;

/// Prints what was asked for.
pub fn get(options: &Get) -> Result<()> {
    let pinned = Pinned::open(&options.bpf_root)?;
    let snapshot = pinned.read()?;
    let filter = Filter {
        namespace: options.namespace.as_deref(),
        name: options.name.as_deref(),
    };
    let text = match options.what {
        What::Services => inspect::services(&snapshot, filter, options.output),
        What::Backends => inspect::backends(&snapshot, filter, options.output),
        What::Affinity => {
            inspect::affinity(&pinned.affinities()?, &snapshot, filter, options.output)
        }
        What::Nat => inspect::nat(&pinned.flows()?, &snapshot.services, filter, options.output),
        What::Flows => inspect::flows(&pinned.flows()?, &snapshot.services, filter, options.output),
    };
    say(&text)
}
