//! Session affinity (B15): which backend a client had last, and whether it may have it again. The key is the service
//! port, so all of its frontends share it, and with it both paths.

use crate::family::Family;
use crate::table::{
    Affinity, Backend, Frontend, Source, Tables, backend_flags, backend_state, frontend_flags,
};

/// What is known of a client's last backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// There is none, or this frontend may not use it (any more).
    Unknown,
    /// It may be used, but the window is over: only a connection that is already there keeps it (B16).
    Expired,
    Valid,
}

/// Looks up the backend that `client` had last, and writes it to `backend`.
#[inline(never)]
pub fn last<F: Family>(
    frontend: &Frontend,
    client: &F::Addr,
    tables: &impl Tables<F>,
    backend: &mut Backend<F>,
) -> Last {
    let client = Source {
        service: frontend.service,
        addr: *client,
    };
    let Some(last) = tables.affinity(&client) else {
        return Last::Unknown;
    };
    backend.addr = last.addr;
    backend.port = last.port;
    // Another CPU's clock may be a tick ahead of ours.
    let age = tables.now().saturating_sub(last.seen);
    if !is_usable(frontend, backend, tables) {
        Last::Unknown
    } else if age > frontend.affinity {
        Last::Expired
    } else {
        Last::Valid
    }
}

/// Whether a backend is in the set of a frontend. Also fills in whether it is on this node, as of now.
#[inline(never)]
fn is_usable<F: Family>(
    frontend: &Frontend,
    backend: &mut Backend<F>,
    tables: &impl Tables<F>,
) -> bool {
    let set = if frontend.flags & frontend_flags::LOCAL_SET != 0 {
        backend_state::IN_LOCAL_SET
    } else {
        backend_state::IN_CLUSTER_SET
    };
    let Some(state) = tables.backend(&backend.key(frontend.service)) else {
        return false;
    };
    backend.flags = if state.flags & backend_state::LOCAL != 0 {
        backend_flags::LOCAL
    } else {
        0
    };
    state.flags & set != 0 && state.weight != 0
}

/// Starts the window of a client's new connection.
#[inline(never)]
pub fn remember<F: Family>(
    service: u32,
    client: &F::Addr,
    backend: &Backend<F>,
    tables: &impl Tables<F>,
) {
    let client = Source {
        service,
        addr: *client,
    };
    let affinity = Affinity {
        seen: tables.now(),
        addr: backend.addr,
        port: backend.port,
        _pad: 0,
    };
    tables.remember_affinity(&client, &affinity);
}
