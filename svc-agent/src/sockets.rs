//! Sockets that are connected to a backend which no longer serves (D7 for `--socket-lb all`): no packet of theirs is
//! ever seen by the packet path, so they are aborted, and the application connects anew.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;

use crate::dataplane::{Deserted, Error, Pinned};
use crate::netlink::{What, ask, u32_at};

// linux/sock_diag.h, linux/inet_diag.h
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `struct inet_diag_req_v2`: family, protocol, extensions, states; then the socket's id.
const ID: usize = 8;
const ID_LEN: usize = 48;
/// Where the id is in `struct inet_diag_msg`, and the cookie in the id.
const MESSAGE_ID: usize = 4;
const COOKIE: usize = 40;
/// `1 << TCP_ESTABLISHED`, which a connected UDP socket is, too.
const CONNECTED: u32 = 1 << 1;

/// The thread that looks for such sockets. It wanders through network namespaces, so it is nobody else's.
pub struct Sweeper {
    wake: SyncSender<()>,
}

impl Sweeper {
    /// `root`: the folder of the pinned maps.
    pub fn start(root: PathBuf) -> io::Result<Self> {
        // Room for one: a sweep that is still to begin will see what has happened since.
        let (wake, woken) = sync_channel(1);
        std::thread::Builder::new()
            .name("sockets".into())
            .spawn(move || run(&root, &woken))?;
        Ok(Self { wake })
    }

    /// An endpoint has stopped serving.
    pub fn wake(&self) {
        // Full: see above. Closed: the thread has said why.
        let _ = self.wake.try_send(());
    }
}

fn run(root: &Path, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        match sweep(root) {
            Ok(0) => (),
            Ok(n) => tracing::info!("aborted {n} UDP sockets whose backend no longer serves"),
            Err(error) => tracing::warn!("looking for sockets of gone backends: {error}"),
        }
    }
}

/// Aborts the sockets in question, wherever they are. Returns how many.
fn sweep(root: &Path) -> Result<usize, Error> {
    let deserted = Pinned::open(root)?.deserted_sockets()?;
    if deserted.is_empty() {
        return Ok(0);
    }
    let mut aborted = 0;
    for namespace in namespaces() {
        if let Err(error) = setns(&namespace, CloneFlags::CLONE_NEWNET) {
            tracing::warn!("entering a network namespace to abort sockets: {error}");
            continue;
        }
        for family in [libc::AF_INET, libc::AF_INET6] {
            match abort(family, &deserted) {
                Ok(n) => aborted += n,
                // ENOENT: a kernel without UDP diagnostics.
                Err(error) => tracing::warn!("listing UDP sockets: {error}"),
            }
        }
    }
    Ok(aborted)
}

/// Every network namespace that a process is in.
fn namespaces() -> Vec<File> {
    let mut found = BTreeMap::new();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit()) {
        // A process that has just ended, or is a kernel thread's, has none.
        let path = pid.path().join("ns/net");
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        if let std::collections::btree_map::Entry::Vacant(entry) = found.entry(meta.ino())
            && let Ok(file) = File::open(&path)
        {
            entry.insert(file);
        }
    }
    found.into_values().collect()
}

fn abort(family: i32, deserted: &Deserted) -> io::Result<usize> {
    let listed = ask(
        SockProtocol::NetlinkSockDiag,
        BY_FAMILY,
        What::Dump,
        &request(family, CONNECTED, &[0; ID_LEN]),
    )?;
    let mut aborted = 0;
    for message in &listed {
        let Some(id) = message.get(MESSAGE_ID..MESSAGE_ID + ID_LEN) else {
            continue;
        };
        if !peer(family, id).is_some_and(|peer| deserted.contains(&peer)) {
            continue;
        }
        let request = request(family, u32::MAX, id);
        match ask(
            SockProtocol::NetlinkSockDiag,
            DESTROY,
            What::Action,
            &request,
        ) {
            Ok(_) => aborted += 1,
            // It was closed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => (),
            Err(error) => return Err(error),
        }
    }
    Ok(aborted)
}

/// A socket's cookie and whom it is connected to, from its `struct inet_diag_sockid`.
fn peer(family: i32, id: &[u8]) -> Option<([u32; 2], SocketAddr)> {
    let port = u16::from_be_bytes(id.get(2..4)?.try_into().ok()?);
    let addr: [u8; 16] = id.get(20..36)?.try_into().ok()?;
    let addr = if family == libc::AF_INET {
        let [a, b, c, d, ..] = addr;
        IpAddr::from([a, b, c, d])
    } else {
        // IPv4 behind an IPv6 socket is IPv4.
        IpAddr::from(addr).to_canonical()
    };
    let cookie = [u32_at(id, COOKIE)?, u32_at(id, COOKIE + 4)?];
    Some((cookie, SocketAddr::new(addr, port)))
}

fn request(family: i32, states: u32, id: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(ID + ID_LEN);
    body.extend([family.to_ne_bytes()[0], svc_common::table::UDP, 0, 0]);
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}
