//! Processes of this network namespace, as far as /proc shows them: all of them only in the host's pid namespace.

use std::fs;
use std::path::{Path, PathBuf};

/// Name and pid of those with one of these names.
pub(super) fn named(names: &[&str]) -> Vec<(String, u32)> {
    let ours = fs::read_link("/proc/self/ns/net").ok();
    let mut found: Vec<(String, u32)> = processes()
        .filter(|(dir, _)| fs::read_link(dir.join("ns/net")).ok() == ours)
        .filter_map(|(dir, pid)| Some((name(&dir)?, pid)))
        .filter(|(name, _)| names.contains(&name.as_str()))
        .collect();
    found.sort();
    found
}

/// Whether somebody listens on a TCP port, and who, if that can be seen.
pub(super) fn listening_on(port: u16) -> Option<Option<String>> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|sockets| listener(&sockets, port))?;
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let has_it = |dir: &Path| {
        let files = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|target| target == socket)
    };
    Some(
        processes()
            .find(|(dir, _)| has_it(dir))
            .and_then(|(dir, _)| name(&dir)),
    )
}

/// The inode of a port's listening socket: proc(5), `sl local_address rem_address st … inode`.
pub(super) fn listener(sockets: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    sockets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == LISTEN;
        listens.then(|| fields.get(9)?.parse().ok())?
    })
}

fn processes() -> impl Iterator<Item = (PathBuf, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((entry.path(), pid))
    })
}

fn name(dir: &Path) -> Option<String> {
    Some(fs::read_to_string(dir.join("comm")).ok()?.trim().to_owned())
}
