//! Which programs are this agent's own: by their ids, because to open a program by its id takes SYS_ADMIN, which a running
//! agent has let go of.

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::programs::loaded_programs;
use nix::net::if_::if_nametoindex;

use super::links::{Hook, is_ours};
use super::sys;

/// By id. Empty for who has loaded none, and knows svcplane's programs by their names.
#[derive(Clone, Debug, Default)]
pub struct OwnPrograms(BTreeSet<u32>);

impl OwnPrograms {
    pub(super) fn of(ebpf: &Ebpf) -> Self {
        let infos = ebpf
            .programs()
            .filter_map(|(_, program)| program.info().ok());
        Self(infos.map(|info| info.id()).collect())
    }

    /// Whether a device has tcx programs besides them. What cannot be asked (before Linux 6.6) is not there.
    pub fn have_company(&self, device: &str, ingress: bool) -> bool {
        let hook = if ingress {
            Hook::NodeIngress
        } else {
            Hook::NodeEgress
        };
        let (attach_type, _) = hook.attach();
        let programs = if_nametoindex(device)
            .map_err(std::io::Error::from)
            .and_then(|device| sys::programs_at(device, attach_type));
        programs
            .unwrap_or_default()
            .into_iter()
            .any(|id| !self.0.contains(&id) && !is_called_ours(id))
    }
}

/// Of another agent, or of an earlier one. Without SYS_ADMIN nobody can tell, and it is another's.
fn is_called_ours(id: u32) -> bool {
    loaded_programs()
        .flatten()
        .any(|program| program.id() == id && is_ours(program.name_as_str().unwrap_or_default()))
}
